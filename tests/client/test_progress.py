from __future__ import annotations

from pathlib import Path

import pytest

from client.progress import RoundProgress, StageResult
from edge_runtime.store.vault import Vault
from protocol.errors import ProtocolError
from tests.client.test_ledger import task_of


def test_the_ledger_entry_the_state_and_the_reply_are_one_transaction(tmp_path: Path) -> None:
    vault = Vault.open(tmp_path, b"k" * 32)
    progress, task = RoundProgress(vault), task_of(0)
    progress.open(task, b"request", StageResult(b"reply", b"state 1"))

    def failing() -> None:
        vault.put_blob("entry", b"written")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        progress.answer(task.digest(), "collect", b"c", StageResult(b"upload", b"state 2"), failing)
    assert vault.get_blob("entry") is None
    assert progress.repeated(task.digest(), "collect", b"c") is None
    assert progress.task_and_state(task.digest()) == (task, b"state 1")


def test_two_tasks_under_one_number_and_replays_are_refused(tmp_path: Path) -> None:
    progress = RoundProgress(Vault.open(tmp_path, b"k" * 32))
    progress.open(task_of(0), b"request", StageResult(b"reply", b"state"))
    for task in (task_of(0), task_of(0, noise_multiplier=0.5)):
        with pytest.raises(ProtocolError, match="known already"):
            progress.open(task, b"other", StageResult(b"reply", b"state"))
    progress.open(task_of(0, attempt=1), b"request", StageResult(b"reply", b"state"))
    with pytest.raises(ProtocolError, match="not open"):
        progress.task_and_state(task_of(0).digest())


def test_another_run_does_not_disturb_an_open_round(tmp_path: Path) -> None:
    progress = RoundProgress(Vault.open(tmp_path, b"k" * 32))
    progress.open(task_of(0), b"request", StageResult(b"reply", b"state"))
    progress.open(task_of(0, run_id="other"), b"request", StageResult(b"reply", b"state"))
    assert progress.task_and_state(task_of(0).digest())[1] == b"state"
