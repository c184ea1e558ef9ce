"""What was trained once is sent again while the participation lasts, and is then gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.participation import keep_or_drop, update_at
from client.work import LocalUpdate
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from tests.client.test_ledger import task_of

TRAINED = LocalUpdate(np.linspace(-1.0, 1.0, 50), 7.5, 3)
BANDED = {"strategy": (1.0, 0.6, 0.4), "spacing": 3}


def never() -> LocalUpdate:
    raise AssertionError("nothing is trained twice")


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.open(tmp_path, b"k" * 32)


def test_the_same_vector_is_there_until_its_last_upload(vault: Vault) -> None:
    for age in range(3):
        update = update_at(vault, task_of(age, **BANDED), age, (lambda: TRAINED) if age == 0 else never)
        assert np.array_equal(update.update, TRAINED.update)
        assert (update.loss_sum, update.example_count) == (7.5, 3)
        keep_or_drop(vault, task_of(age, **BANDED), age, update)
        assert len(vault.blob_names(LEARNT_PREFIX)) == (1 if age < 2 else 0)


def test_with_independent_noise_nothing_is_kept(vault: Vault) -> None:
    keep_or_drop(vault, task_of(0), 0, TRAINED)
    assert vault.blob_names(LEARNT_PREFIX) == []


def test_a_new_participation_replaces_the_old_vector_and_runs_do_not_mix(vault: Vault) -> None:
    keep_or_drop(vault, task_of(0, **BANDED), 0, TRAINED)
    keep_or_drop(vault, task_of(3, **BANDED), 0, LocalUpdate(TRAINED.update * 2, 1.0, 1))
    assert update_at(vault, task_of(4, **BANDED), 1, never).example_count == 1
    assert update_at(vault, task_of(4, run_id="other", **BANDED), 1, never).example_count == 0


def test_after_a_forget_the_remaining_uploads_are_zero(vault: Vault) -> None:
    keep_or_drop(vault, task_of(0, **BANDED), 0, TRAINED)
    for name in vault.blob_names(LEARNT_PREFIX):
        vault.delete_blob(name)
    update = update_at(vault, task_of(1, **BANDED), 1, never)
    assert update.update.shape == (50,) and not update.update.any()
