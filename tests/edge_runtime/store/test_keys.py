"""The device key: created once, opened by what protects it, and by nothing else."""

from __future__ import annotations

import json
import stat
import sys
import types
from pathlib import Path

import pytest

from edge_runtime.store import keys, system_key_store
from edge_runtime.store.keys import KeyFileWarning, KeyMethod, create_key, key_exists, needs_passphrase, open_key
from protocol.errors import PenchantError


@pytest.fixture(autouse=True)
def _fast_scrypt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.function is not test_passphrase_opens_and_a_wrong_one_says_so:
        monkeypatch.setattr(keys, "SCRYPT_COST", {"n": 2, "r": 8, "p": 1})


def made(home: Path, method: KeyMethod = "auto", passphrase: str | None = None) -> bytes:
    """A new home's key."""
    create_key(home, method=method, passphrase=passphrase)
    return only_key(home, passphrase)


def only_key(home: Path, passphrase: str | None = None) -> bytes:
    """The one key of a home."""
    (key,) = open_key(home, passphrase=passphrase).candidates
    return bytes(key)


def test_key_file_is_private_and_opens_the_same_key(tmp_path: Path) -> None:
    key = made(tmp_path, "file")
    assert len(key) == 32 and only_key(tmp_path) == key
    assert key.hex() not in (tmp_path / "key.json").read_text()
    for name in ("key.json", "device.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device.key", "key.json"]


def test_two_homes_have_different_keys(tmp_path: Path) -> None:
    assert made(tmp_path / "a", "file") != made(tmp_path / "b", "file")


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path, method="file")
    (tmp_path / "device.key").chmod(0o644)
    with pytest.raises(PenchantError, match="chmod 600"):
        open_key(tmp_path)


def test_passphrase_opens_and_a_wrong_one_says_so(tmp_path: Path) -> None:
    key = made(tmp_path, "passphrase", "four blue herons")
    assert needs_passphrase(tmp_path) and only_key(tmp_path, "four blue herons") == key
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
    key = made(tmp_path, "file")
    with pytest.raises(PenchantError, match="already has a key"):
        create_key(tmp_path, method="passphrase", passphrase="x")
    assert only_key(tmp_path) == key


def test_a_start_interrupted_before_the_description_keeps_the_first_key(tmp_path: Path) -> None:
    key = made(tmp_path, "file")
    (tmp_path / "key.json").unlink()
    assert not key_exists(tmp_path)
    assert made(tmp_path, "file") == key


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
    key = made(tmp_path)
    assert list(store.kept.values()) == [key.hex()] and only_key(tmp_path) == key
    assert not (tmp_path / "device.key").exists()
    store.kept.clear()
    with pytest.raises(PenchantError, match="no longer holds"):
        open_key(tmp_path)


def test_auto_without_a_key_store_warns_and_writes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", _Store(priority=0).module())
    with pytest.warns(KeyFileWarning, match="file permissions"):
        key = made(tmp_path)
    assert only_key(tmp_path) == key


def test_auto_takes_a_passphrase_when_one_is_given(tmp_path: Path) -> None:
    key = made(tmp_path, passphrase="x")
    assert needs_passphrase(tmp_path) and only_key(tmp_path, "x") == key


@pytest.mark.parametrize("method", ["file", "passphrase", "keyring"])
def test_a_next_key_lies_beside_the_present_one_until_it_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: KeyMethod
) -> None:
    store = _Store(priority=5)
    monkeypatch.setitem(sys.modules, "keyring", store.module())
    passphrase = "x" if method == "passphrase" else None
    old = made(tmp_path, method, passphrase)
    for takes_next in (True, True, False):
        key = open_key(tmp_path, passphrase=passphrase)
        new = bytes(key.draw_next())
        interrupted = open_key(tmp_path, passphrase=passphrase)
        assert [bytes(candidate) for candidate in interrupted.candidates] == [new, old]
        kept, lost = (new, old) if takes_next else (old, new)
        interrupted.settle(kept)
        assert only_key(tmp_path, passphrase) == kept
        places = b"".join(path.read_bytes() for path in tmp_path.iterdir()) + str(store.kept).encode()
        assert lost.hex().encode() not in places and len(store.kept) <= 1
        old = kept


@pytest.mark.parametrize("takes_next", [True, False])
def test_a_program_killed_between_destroying_and_describing_leaves_one_key(tmp_path: Path, takes_next: bool) -> None:
    old = made(tmp_path, "file")
    new = bytes(open_key(tmp_path).draw_next())
    (tmp_path / ("device.key" if takes_next else "device-2.key")).unlink()
    key = open_key(tmp_path)
    assert [bytes(candidate) for candidate in key.candidates] == [new if takes_next else old]
    key.settle(key.candidates[0])
    assert only_key(tmp_path) == (new if takes_next else old)


def test_a_passphrase_is_set_changed_and_removed_without_a_new_key(tmp_path: Path) -> None:
    key = made(tmp_path, "file")
    for method, before, after in (
        ("passphrase", None, "four blue herons"),
        ("passphrase", "four blue herons", "five"),
        ("file", "five", None),
    ):
        opened = open_key(tmp_path, passphrase=before)
        opened.protect(method, after)  # type: ignore[arg-type]
        assert only_key(tmp_path, after) == key and needs_passphrase(tmp_path) == (after is not None)
        bare = any(key.hex().encode() in path.read_bytes() for path in tmp_path.iterdir())
        assert bare == (after is None)
        if before and after:
            with pytest.raises(PenchantError, match="Wrong passphrase"):
                open_key(tmp_path, passphrase=before)


def test_leaving_the_key_store_empties_it_even_if_the_program_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _Store(priority=5)
    monkeypatch.setitem(sys.modules, "keyring", store.module())
    key = made(tmp_path)
    monkeypatch.setattr(system_key_store, "delete", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        open_key(tmp_path).protect("passphrase", "x")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "keyring", store.module())
    opened = open_key(tmp_path, passphrase="x")
    opened.settle(opened.candidates[0])
    assert store.kept == {} and only_key(tmp_path, "x") == key


def test_wiping_leaves_no_key_in_our_objects(tmp_path: Path) -> None:
    create_key(tmp_path, method="passphrase", passphrase="x")
    key = open_key(tmp_path, passphrase="x")
    held = key.candidates[0]
    key.wipe()
    assert held == bytes(32) and key.candidates == [] and not any(vars(key)[name] for name in ("_present", "_wrapping"))


@pytest.mark.parametrize("method", ["file", "passphrase"])
def test_a_flipped_byte_of_the_key_files_is_one_line_or_harmless(tmp_path: Path, method: KeyMethod) -> None:
    key = made(tmp_path, method, "x")
    for name in ("key.json", "device.key"):
        path = tmp_path / name
        if not path.exists():
            continue
        whole = path.read_bytes()
        for position in range(len(whole)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
            try:
                changed = only_key(tmp_path, "x")
            except PenchantError as error:
                assert "\n" not in str(error)
            else:  # a bare key has no check of its own: the vault says that it is wrong
                assert changed == key or name == "device.key"
        path.write_bytes(whole)
