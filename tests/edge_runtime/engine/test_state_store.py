"""Saved prefixes: exact when they come back, unreadable without their key, capped, and never a reason to fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.state_store import StateStore
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import load_factors, open_tiny, random_factors, random_tokens

OVERHEAD = 28


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("states")) as opened:
        yield opened


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path / "home", bytes(32)) as opened:
        yield opened


@pytest.fixture
def store(vault: Vault, tmp_path: Path) -> StateStore:
    return StateStore(vault, tmp_path / "states", 1 << 20)


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "states").iterdir())


def test_what_goes_in_comes_out_and_the_file_is_noise(store: StateStore, tmp_path: Path) -> None:
    state = b"the dog is called Bruno " * 100
    assert store.put(b"key", state)
    assert store.get(b"key") == state and store.get(b"other") is None
    (path,) = files(tmp_path)
    data = path.read_bytes()
    assert b"Bruno" not in data and len(data) == len(state) + OVERHEAD == store.bytes_held
    assert path.stat().st_mode & 0o777 == 0o600
    store.put(b"key", b"new")
    assert store.get(b"key") == b"new" and len(store) == len(files(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove", "swap"])
def test_a_damaged_file_is_a_miss_and_is_removed(store: StateStore, tmp_path: Path, damage: str) -> None:
    store.put(b"key", b"x" * 1000)
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    if damage == "remove":
        path.unlink()
    elif damage == "swap":  # another state's file, whole, in this one's place
        store.put(b"other", b"y" * 1000)
        (other,) = (each for each in files(tmp_path) if each != path)
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes({"flip": bytes(data), "truncate": bytes(data[:300]), "empty": b""}[damage])
    assert store.get(b"key") is None
    assert not path.exists()
    assert store.put(b"key", b"again") and store.get(b"key") == b"again"


def test_a_state_cannot_be_passed_off_as_anothers(store: StateStore, vault: Vault) -> None:
    store.put(b"key", b"state")
    vault.connection.execute("UPDATE states SET cache_key = ?", (b"forged",))
    assert store.get(b"forged") is None


def test_the_least_recently_used_make_room(vault: Vault, tmp_path: Path) -> None:
    store = StateStore(vault, tmp_path / "states", 3 * (100 + OVERHEAD))
    for name in (b"a", b"b", b"c"):
        assert store.put(name, name * 100)
    assert store.get(b"a")
    assert store.put(b"d", b"d" * 100)
    assert store.get(b"b") is None and all(store.get(name) for name in (b"a", b"c", b"d"))
    assert store.put(b"e", b"e" * (300 + OVERHEAD)) and len(store) == 1
    assert not store.put(b"f", b"f" * 1000) and store.get(b"e")
    assert sum(path.stat().st_size for path in files(tmp_path)) == store.bytes_held


def test_the_cap_holds_after_a_restart_with_a_smaller_one(vault: Vault, tmp_path: Path) -> None:
    StateStore(vault, tmp_path / "states", 10_000).put(b"old", bytes(5000))
    smaller = StateStore(vault, tmp_path / "states", 1000)
    smaller.put(b"new", bytes(500))
    assert smaller.bytes_held <= 1000 and smaller.get(b"new")


def test_a_full_disk_means_no_state_and_no_error(
    store: StateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(b"kept", b"kept")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        assert not store.put(b"key", b"state")
        patched.setattr(os, "open", full)
        assert not store.put(b"key", b"state")
    assert store.get(b"key") is None and store.get(b"kept") == b"kept"
    assert len(files(tmp_path)) == 1


def test_strays_of_an_interrupted_write_are_removed(store: StateStore, vault: Vault, tmp_path: Path) -> None:
    store.put(b"key", b"state")
    (tmp_path / "states" / "abc.part").write_bytes(b"half")
    (tmp_path / "states" / "def").write_bytes(b"whole, but its key was never written")
    assert StateStore(vault, tmp_path / "states", 1000).get(b"key") == b"state"
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("everything", [False, True])
def test_any_forget_drops_every_state(store: StateStore, vault: Vault, tmp_path: Path, everything: bool) -> None:
    for name in (b"a", b"b"):
        store.put(name, b"state")
    with vault.transaction():
        dropped = store.forget_all() if everything else store.forget_traces([1], lambda _: False)
    assert dropped == 2 and len(store) == 0 and files(tmp_path) == []
    assert vault.connection.execute("SELECT count(secret) FROM states").fetchone() == (0,)


def test_a_negative_capacity_is_refused(vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(PenchantError):
        StateStore(vault, tmp_path, -1)


# ---- with the engine


def test_a_saved_prefix_comes_back_in_another_engine(store: StateStore, engine: Engine, tmp_path: Path) -> None:
    prefix, prompt = random_tokens(0, 200), random_tokens(0, 200) + random_tokens(1, 10)
    expected = list(engine.generate(prompt, max_tokens=10))
    assert engine.save_prefix(store, prefix)
    with open_tiny(tmp_path) as second:
        assert second.restore_prefix(store, prompt) == 0  # other tokens
        assert second.restore_prefix(store, prefix) == 200
        sequences = second._generation_sequences()
        assert list(second.generate(prompt, max_tokens=10)) == expected
        assert sequences.evaluated < 10 + 11
        assert second.restore_prefix(store, prefix) == 200  # held: nothing to do


def test_a_state_is_found_under_its_own_weights_only(store: StateStore, engine: Engine) -> None:
    prefix = random_tokens(2, 50)
    adapter = load_factors(engine, random_factors(0), alpha=4.0)
    engine.save_prefix(store, prefix)
    engine.forget_texts()
    engine.use_adapters([(adapter, 1.0)])
    assert engine.restore_prefix(store, prefix) == 0
    engine.use_adapters([(adapter, 1.0)], activation="answer")  # a beginning that only the base model reads
    assert engine.restore_prefix(store, prefix) == 50
    engine.use_adapters([])
    engine.forget_texts()
    assert engine.restore_prefix(store, prefix) == 50


def test_a_state_that_llama_cpp_does_not_take_is_dropped(store: StateStore, engine: Engine) -> None:
    prefix = random_tokens(3, 50)
    expected = list(engine.generate(prefix, max_tokens=5))
    engine.save_prefix(store, prefix)
    (key,) = store._vault.connection.execute("SELECT cache_key FROM states").fetchone()
    state = store.get(key)
    assert state is not None
    store.put(key, state[: len(state) // 2])
    engine.forget_texts()
    assert engine.restore_prefix(store, prefix) == 0 and len(store) == 0
    assert list(engine.generate(prefix, max_tokens=5)) == expected


def test_a_restored_state_makes_room_for_itself(store: StateStore, engine: Engine) -> None:
    prefix = random_tokens(4, 300)
    engine.save_prefix(store, prefix)
    engine.forget_texts()
    for seed in (5, 6):
        list(engine.generate(random_tokens(seed, 200), max_tokens=1))
    assert engine.restore_prefix(store, prefix) == 300
