"""The end of a training: what passes is live with its record, what does not leaves only what it was judged by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.lifelong import LifelongRecord, record_of
from client.personal_gate import GateDecision, Verdict
from client.personal_install import adapter_file, conclude
from client.training_run import RunPlan, kept_state, open_run
from edge_runtime.adapters.adapter_file import read_adapter
from edge_runtime.adapters.log import AdapterLog, Task
from edge_runtime.adapters.versions import compare
from edge_runtime.models.catalogue import describe_model
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.errors import PenchantError
from tests.client.framed_help import tiny_frame
from tests.edge_runtime.adapters.test_log import tiny_adapter
from tests.edge_runtime.model_helpers import random_factors
from tests.tiny_model import write_tiny_model

RECORD = LifelongRecord(tiny_frame().digest, np.ones(tiny_frame().dimension), 1, frozenset({"a"}))


class NoWork:
    steps, learning_rate, patience = 1, 0.1, 1


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    """A file with a run that goes on in it."""
    with Vault.open(tmp_path, b"k" * 32) as opened:
        plan = RunPlan(NoWork(), "texts", "plan", 4)  # type: ignore[arg-type]
        open_run(opened, plan, np.zeros(3), fresh=False, on_notice=lambda line: None)
        yield opened


def verdict(low: float, *serving: Task) -> Verdict:
    decision = GateDecision(2, 3.0, 2.9, 0.1, low)
    before, after = {"x": 3.0, "y": 3.2}, {"x": 2.9, "y": 3.1}
    return Verdict({"drafts": decision}, {"drafts": decision}, decision, serving, before, before, after)


def test_what_passed_is_live_with_what_the_next_training_goes_on_from(vault: Vault) -> None:
    installed = conclude(vault, None, tiny_adapter(0), verdict(0.05), RECORD, note="own texts")
    live = AdapterLog(vault).live()
    assert live is not None and installed == live[0] and installed.note == "own texts"
    assert installed.serves == ("drafts",) and AdapterLog(vault).live("answers") is None
    assert compare(vault, None, installed.id).gain == pytest.approx(0.1) and kept_state(vault) is None
    kept = record_of(vault, installed.sha256, tiny_frame())
    assert kept is not None and kept.learnt == {"a"}


def test_what_did_not_pass_leaves_what_was_live(vault: Vault) -> None:
    first = AdapterLog(vault).install(tiny_adapter(0), note="")
    assert conclude(vault, first.id, tiny_adapter(1), verdict(0.0, "drafts"), RECORD, note="") is None
    assert [version.live for version in AdapterLog(vault).versions()] == [True] and kept_state(vault) is None
    names = vault.blob_names(f"{LEARNT_PREFIX}lifelong")
    assert names == [] and vault.get_blob(f"{LEARNT_PREFIX}adapter-losses/{first.id}") is not None


def test_what_was_forgotten_meanwhile_is_not_kept(vault: Vault) -> None:
    for name in vault.blob_names(LEARNT_PREFIX):
        vault.delete_blob(name)
    with pytest.raises(PenchantError, match="forgotten while"):
        conclude(vault, None, tiny_adapter(0), verdict(0.05), RECORD, note="")
    assert AdapterLog(vault).versions() == [] and vault.blob_names(LEARNT_PREFIX) == []


@pytest.mark.parametrize("epsilon", [None, 3.5])
def test_the_file_states_where_it_comes_from(tmp_path: Path, epsilon: float | None) -> None:
    model = describe_model(write_tiny_model(tmp_path / "tiny.gguf", 7))
    data = adapter_file(
        model,
        random_factors(0),
        alpha=4.0,
        frame_sha256="f" * 64,
        parent_sha256="a" * 64,
        epsilon=epsilon,
        created="2025-03-01",
    )
    read = read_adapter(data)
    assert read.metadata.epsilon == epsilon and read.metadata.base_sha256 == model.sha256 and read.alpha == 4.0
    assert (read.metadata.frame_sha256, read.metadata.parent_sha256) == ("f" * 64, "a" * 64)
