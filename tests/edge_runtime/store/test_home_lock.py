"""Who has a device open: many at once, one alone, nobody in between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.store import home_lock
from edge_runtime.store.home_lock import GateClosedError, HomeLock
from protocol.errors import PenchantError

ROOT = Path(__file__).parents[3]


def test_many_hold_it_and_only_a_single_one_is_alone(tmp_path: Path) -> None:
    one, two = HomeLock(tmp_path), HomeLock(tmp_path)
    with one.alone() as alone:
        assert not alone
    with two.alone() as alone:  # the failed attempt gave nothing up for good
        assert not alone
    two.release()
    with one.alone() as alone:
        assert alone
    three = HomeLock(tmp_path)
    with one.alone() as alone:
        assert not alone
    one.release()
    one.release()
    with three.alone() as alone:
        assert alone


def test_nobody_comes_in_while_one_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_lock, "GATE_SECONDS", 0.05)
    one = HomeLock(tmp_path)
    with one.alone() as alone:
        assert alone
        with pytest.raises(GateClosedError, match="wait"):
            HomeLock(tmp_path)
    HomeLock(tmp_path)


def test_two_cannot_try_at_the_same_time(tmp_path: Path) -> None:
    one, two = HomeLock(tmp_path), HomeLock(tmp_path)
    with one.alone(), two.alone() as alone:
        assert not alone


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from edge_runtime.store.home_lock import HomeLock\n"
        "lock = HomeLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    lock = HomeLock(tmp_path)
    with lock.alone() as alone:
        assert not alone
    process.kill()
    process.communicate()
    with lock.alone() as alone:
        assert alone


def test_one_that_was_dropped_holds_nothing(tmp_path: Path) -> None:
    one = HomeLock(tmp_path)
    HomeLock(tmp_path)
    with one.alone() as alone:
        assert alone


def test_a_released_lock_is_not_alone(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path)
    lock.release()
    with pytest.raises(PenchantError, match="closed"), lock.alone():
        pass
