"""Opening a home takes lock, key and file together and gives all of them back."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.store import keys
from edge_runtime.store.home_lock import HomeLock
from edge_runtime.store.keys import create_key
from edge_runtime.store.open_home import OpenHome
from protocol.errors import PenchantError


def is_free(home: Path) -> bool:
    lock = HomeLock(home)
    with lock.alone() as alone:
        return alone


def test_a_failed_opening_and_a_closed_home_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "SCRYPT_COST", {"n": 2, "r": 8, "p": 1})
    with pytest.raises(PenchantError, match="No device"):
        OpenHome.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    create_key(tmp_path, method="passphrase", passphrase="x")
    with pytest.raises(PenchantError, match="Wrong passphrase"):
        OpenHome.open(tmp_path, passphrase="y")
    assert is_free(tmp_path)
    store = OpenHome.open(tmp_path, passphrase="x")
    assert not is_free(tmp_path)
    store.close()
    store.close()
    assert is_free(tmp_path) and store.key.candidates == []


def test_a_file_that_was_in_use_and_is_gone_is_missed(tmp_path: Path) -> None:
    create_key(tmp_path, method="file")
    OpenHome.open(tmp_path).close()  # the first time there is none
    (tmp_path / "penchant.db").unlink()
    with pytest.raises(PenchantError, match="empty or gone"):
        OpenHome.open(tmp_path)
    assert is_free(tmp_path) and not (tmp_path / "penchant.db").exists()
