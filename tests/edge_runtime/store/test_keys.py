"""The device key: created once, opened by what protects it, and by nothing else."""

from __future__ import annotations

import json
import os
import stat
import sys
import types
from pathlib import Path

import pytest

from edge_runtime.store import keys
from edge_runtime.store.keys import KeyFileWarning, create_key, key_exists, needs_passphrase, open_key
from protocol.errors import PenchantError


def test_key_file_is_private_and_opens_the_same_key(tmp_path: Path) -> None:
    key = create_key(tmp_path, method="file")
    assert len(key) == 32 and open_key(tmp_path) == key
    assert key.hex() not in (tmp_path / "key.json").read_text()
    for name in ("key.json", "device.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device.key", "key.json"]


def test_two_homes_have_different_keys(tmp_path: Path) -> None:
    assert create_key(tmp_path / "a", method="file") != create_key(tmp_path / "b", method="file")


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path, method="file")
    (tmp_path / "device.key").chmod(0o644)
    with pytest.raises(PenchantError, match="chmod 600"):
        open_key(tmp_path)


def test_passphrase_opens_and_a_wrong_one_says_so(tmp_path: Path) -> None:
    key = create_key(tmp_path, method="passphrase", passphrase="four blue herons")
    assert needs_passphrase(tmp_path) and open_key(tmp_path, passphrase="four blue herons") == key
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key not in stored and key.hex().encode() not in stored and b"herons" not in stored
    with pytest.raises(PenchantError, match=r"^Wrong passphrase for [^\n]*$") as caught:
        open_key(tmp_path, passphrase="four blue heron")
    assert "heron." not in str(caught.value).replace(str(tmp_path), "")
    with pytest.raises(PenchantError, match="PENCHANT_PASSPHRASE"):
        open_key(tmp_path)


@pytest.mark.parametrize("change", [{"n": 2**40}, {"n": 3}, {"salt": "?"}, {"wrapped": None}, {"version": 9}])
def test_a_damaged_description_is_one_clear_line(tmp_path: Path, change: dict[str, object]) -> None:
    create_key(tmp_path, method="passphrase", passphrase="x")
    description = json.loads((tmp_path / "key.json").read_text())
    (tmp_path / "key.json").write_text(json.dumps(description | change))
    with pytest.raises(PenchantError) as caught:
        open_key(tmp_path, passphrase="x")
    assert "\n" not in str(caught.value)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    key = create_key(tmp_path, method="file")
    with pytest.raises(PenchantError, match="already has a key"):
        create_key(tmp_path, method="passphrase", passphrase="x")
    assert open_key(tmp_path) == key


def test_a_start_interrupted_before_the_description_keeps_the_first_key(tmp_path: Path) -> None:
    key = create_key(tmp_path, method="file")
    (tmp_path / "key.json").unlink()
    assert not key_exists(tmp_path)
    assert create_key(tmp_path, method="file") == key


def test_no_device_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="penchant remember"):
        open_key(tmp_path / "nowhere")


class _Store:
    """A key store in RAM with the three calls of the keyring package."""

    def __init__(self, priority: float) -> None:
        self.priority, self.kept = priority, dict[tuple[str, str], str]()

    def module(self) -> types.ModuleType:
        module = types.ModuleType("keyring")
        module.get_keyring = lambda: self  # type: ignore[attr-defined]
        module.set_password = lambda s, n, v: self.kept.__setitem__((s, n), v)  # type: ignore[attr-defined]
        module.get_password = lambda s, n: self.kept.get((s, n))  # type: ignore[attr-defined]
        module.delete_password = lambda s, n: self.kept.pop((s, n))  # type: ignore[attr-defined]
        return module


def test_auto_prefers_a_working_key_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _Store(priority=5)
    monkeypatch.setitem(sys.modules, "keyring", store.module())
    key = create_key(tmp_path)
    assert list(store.kept.values()) == [key.hex()] and open_key(tmp_path) == key
    assert not (tmp_path / "device.key").exists()
    store.kept.clear()
    with pytest.raises(PenchantError, match="no longer holds"):
        open_key(tmp_path)


def test_auto_without_a_key_store_warns_and_writes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", _Store(priority=0).module())
    with pytest.warns(KeyFileWarning, match="file permissions"):
        key = create_key(tmp_path)
    assert open_key(tmp_path) == key


def test_auto_takes_a_passphrase_when_one_is_given(tmp_path: Path) -> None:
    key = create_key(tmp_path, passphrase="x")
    assert needs_passphrase(tmp_path) and open_key(tmp_path, passphrase="x") == key


def test_without_hard_links_the_first_key_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    key = create_key(tmp_path, method="file")
    assert open_key(tmp_path) == key
    with pytest.raises(FileExistsError):
        keys._write_private(tmp_path / "key.json", b"other")
