"""The log of a device's own adapters: it only grows, one entry is live, and a forget takes the bytes away."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.device import Device
from edge_runtime.forgetting import forget, forget_everything
from edge_runtime.store.keys import open_key
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder, decrypted_pages
from tests.edge_runtime.model_helpers import random_factors

KEY = bytes(range(32))
BASE = "a" * 64


def tiny_adapter(seed: int, *, epsilon: float | None = 2.5) -> bytes:
    """The file of a small random adapter; another seed gives other bytes."""
    return write_adapter(
        random_factors(seed),
        alpha=4.0,
        metadata=AdapterMetadata(BASE, "", epsilon=epsilon),
        architecture="llama",
        heads=4,
        kv_heads=2,
    )


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path, KEY) as opened:
        yield opened


@pytest.fixture
def log(vault: Vault) -> AdapterLog:
    return AdapterLog(vault)


def test_a_new_device_has_no_adapter(log: AdapterLog) -> None:
    assert log.versions() == [] and log.live() is None


def test_an_installed_adapter_is_live_and_says_where_it_comes_from(log: AdapterLog) -> None:
    data = tiny_adapter(0)
    version = log.install(data, note="own texts")
    assert version.sha256 == sha256(data).hexdigest() and version.base_sha256 == BASE
    assert version.note == "own texts" and version.epsilon == 2.5 and version.installed_at.startswith("20")
    assert version.live and version.held
    assert log.live() == (version, data)


def test_a_version_is_live_for_the_tasks_that_it_serves(log: AdapterLog, vault: Vault) -> None:
    both, drafts = log.install(tiny_adapter(0), note=""), log.install(tiny_adapter(1), note="", serves=["drafts"])
    assert (both.serves, drafts.serves) == (("drafts", "answers"), ("drafts",))
    assert log.live() == log.live("drafts") == (drafts, tiny_adapter(1)) and log.live("answers") is None
    log.use(both.id)
    answering = AdapterLog(vault).live("answers")
    assert answering is not None and answering[0].id == both.id


def test_without_a_guarantee_no_number_is_kept(log: AdapterLog) -> None:
    assert log.install(tiny_adapter(0, epsilon=None), note="").epsilon is None


def test_the_log_only_grows_and_the_newest_is_live(log: AdapterLog) -> None:
    first, second = log.install(tiny_adapter(0), note="first"), log.install(tiny_adapter(1), note="second")
    again = log.install(tiny_adapter(0), note="the first bytes again")
    assert [version.id for version in log.versions()] == [first.id, second.id, again.id]
    assert [version.note for version in log.versions()] == ["first", "second", "the first bytes again"]
    assert [version.live for version in log.versions()] == [False, False, True]
    assert all(version.held for version in log.versions())


def test_roll_back_and_off_change_only_what_is_live(log: AdapterLog, vault: Vault) -> None:
    first, _ = log.install(tiny_adapter(0), note="first"), log.install(tiny_adapter(1), note="second")
    log.use(first.id)
    live = log.live()
    assert live is not None and live[0].id == first.id and live[1] == tiny_adapter(0)
    log.use(None)
    assert log.live() is None and not any(version.live for version in log.versions())
    assert len(log.versions()) == 2 and all(version.held for version in log.versions())
    log.use(first.id)
    reopened = AdapterLog(vault).live()
    assert reopened is not None and reopened[0].id == first.id


def test_an_unknown_version_is_refused_and_nothing_changes(log: AdapterLog) -> None:
    version = log.install(tiny_adapter(0), note="")
    with pytest.raises(PenchantError, match="no adapter 7"):
        log.use(7)
    live = log.live()
    assert live is not None and live[0].id == version.id


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", tiny_adapter(0)[:200], tiny_adapter(0)[:-200], b"X" + tiny_adapter(0)[1:]],
    ids=["empty", "text", "header cut", "weights cut", "other magic"],
)
def test_garbage_is_refused_and_leaves_nothing(log: AdapterLog, vault: Vault, data: bytes) -> None:
    kept = log.install(tiny_adapter(1), note="kept")
    with pytest.raises(PenchantError):
        log.install(data, note="garbage")
    assert [version.id for version in log.versions()] == [kept.id]
    assert len(vault.blob_names(f"{LEARNT_PREFIX}adapter/")) == 1
    live = log.live()
    assert live is not None and live[0].id == kept.id


@pytest.mark.parametrize("everything", [False, True])
def test_a_forget_drops_the_bytes_and_the_log_says_so(tmp_path: Path, everything: bool) -> None:
    data = tiny_adapter(0)
    with Device.open(tmp_path, create=True, key_method="file", embedder=HashingEmbedder()) as device:
        item, log = device.memory.remember("My dog is called Bruno"), device.adapters
        version = log.install(data, note="notes on bruno")
        weights = data[-1000:-900]
        assert weights in decrypted_pages(tmp_path, bytes(open_key(tmp_path).candidates[0]))

        receipt = forget_everything(device) if everything else forget(device, [item.id])[0]

        assert receipt.removed["learnt"] == 1
        assert log.live() is None
        (entry,) = log.versions()
        assert entry.id == version.id and entry.sha256 == version.sha256 and not entry.held and entry.note == ""
        assert device.vault.blob_names(LEARNT_PREFIX) == []
        assert weights not in decrypted_pages(tmp_path, bytes(open_key(tmp_path).candidates[0]))
        with pytest.raises(PenchantError, match=f"no adapter {version.id}"):
            log.use(version.id)


def test_a_new_adapter_after_a_forget_is_live_again(tmp_path: Path) -> None:
    with Device.open(tmp_path, create=True, key_method="file", embedder=HashingEmbedder()) as device:
        item, log = device.memory.remember("My dog is called Bruno"), device.adapters
        log.install(tiny_adapter(0), note="before")
        forget(device, [item.id])
        after = log.install(tiny_adapter(1), note="after")
        assert [(version.held, version.live) for version in log.versions()] == [(False, False), (True, True)]
        live = log.live()
        assert live is not None and live[0] == after
