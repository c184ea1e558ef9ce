"""Export and import: everything arrives, all or nothing, once; and one privacy budget is never spent twice."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.ledger import DeviceLedger
from client.progress import RoundProgress, StageResult
from edge_runtime import transfer
from edge_runtime.device import Device
from edge_runtime.forgetting import forget, forget_everything
from edge_runtime.store import bundle as bundle_module
from edge_runtime.store.bundle import open_bundle
from edge_runtime.store.vault import LEARNT_PREFIX
from edge_runtime.transfer import Imported, export_bundle, import_bundle
from protocol.errors import BudgetExceeded, PenchantError
from tests.client.test_ledger import task_of
from tests.edge_runtime.memory_helpers import HashingEmbedder

PASSPHRASE = "four blue herons"


@pytest.fixture(autouse=True)
def _fast_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "SCRYPT_COST", {"n": 2, "r": 8, "p": 1})


def opened(home: Path) -> Device:
    return Device.open(home, create=True, key_method="file", embedder=HashingEmbedder())


def imported(device: Device, path: Path, passphrase: str) -> Imported:
    return import_bundle(device, open_bundle(path, passphrase))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device with something of everything."""
    device = opened(tmp_path / "a")
    old = device.memory.remember("I live in Ghent", said_at="2024-01-01")
    device.memory.remember("My parrot is called Zebedee", said_at="2025-01-01")
    device.memory.supersede(old.id, "2025-06-01")
    conversation = device.conversations.new()
    device.conversations.add(conversation, "user", "Who recites?")
    audit = {"candidates": [{"id": "memory:2", "kept": True}]}
    answer = device.conversations.add(conversation, "assistant", "Your parrot.", audit)
    device.feedback.thumbs(answer, "Who recites?", True)
    device.feedback.add_preference("Name a sea", "the Baltic", "the Aral", said_at="2025-02-02")
    device.profile.set_attribute("pet", "a parrot")
    device.profile.add_rule("Answer in one sentence")
    device.vault.put_blob(f"{LEARNT_PREFIX}weights", b"learnt")
    device.change_settings(share=True, epsilon_budget=3.0)
    return device


def state(device: Device) -> dict[str, Any]:
    """What the owner would miss."""
    talks = [device.conversations.turns(found.id) for found in device.conversations.listing()]
    return {
        "memories": [(item.text, item.said_at, item.valid_until) for item in device.memory.items()],
        "turns": [(turn.role, turn.text, turn.said_at) for turns in talks for turn in turns],
        "preferences": [
            (pair.prompt, pair.chosen, pair.rejected, pair.said_at) for pair in device.feedback.preferences()
        ],
        "ratings": [(rating.prompt, rating.up) for rating in device.feedback.ratings()],
        "own": [(found.name, found.value) for found in device.profile.attributes() if found.source == "you"],
        "rules": [rule.text for rule in device.profile.rules()],
    }


def spend(device: Device, rounds: int) -> None:
    """Enters contributions to as many rounds."""
    for number in range(rounds):
        DeviceLedger(device.vault).write(task_of(number), size_bytes=10, roster_size=20)


def test_a_new_device_gets_everything(device: Device, tmp_path: Path) -> None:
    path = export_bundle(device, tmp_path / "b.penchant", PASSPHRASE)
    data = path.read_bytes().lower()
    assert b"zebedee" not in data and b"sqlite" not in data
    other = opened(tmp_path / "b")
    identity = other.identity.public_bytes
    done = imported(other, path, PASSPHRASE)
    assert done.how == "whole" and done.added["memories"] == 2
    assert state(other) == state(device)
    assert other.vault.get_blob(f"{LEARNT_PREFIX}weights") == b"learnt"
    assert other.memory.recall("parrot", now="2025-05-05")[0].item.text == "My parrot is called Zebedee"
    assert other.identity.public_bytes == identity != device.identity.public_bytes
    other.close()
    with opened(tmp_path / "b") as again:
        assert state(again) == state(device) and again.identity.public_bytes == identity
    assert [path.name for path in (tmp_path / "b").iterdir() if path.name.startswith(".")] == []
    assert [path.name for path in (tmp_path / "a").iterdir() if path.name.startswith(".")] == []


def test_a_device_in_use_gets_what_is_new(device: Device, tmp_path: Path) -> None:
    other = opened(tmp_path / "b")
    other.memory.remember("my PARROT is called zebedee", said_at="2023-03-03")
    other.memory.remember("I play the viola")
    other.profile.set_attribute("pet", "none of your business")
    mine = other.conversations.new()
    other.conversations.add(mine, "user", "Hello")
    done = imported(other, export_bundle(device, tmp_path / "b.penchant", PASSPHRASE), PASSPHRASE)
    assert done.how == "merged" and done.added["memories"] == 1 and done.added["turns"] == 2
    merged = state(other)
    assert [text for text, *_ in merged["memories"]] == [
        "my PARROT is called zebedee",
        "I live in Ghent",
        "I play the viola",
    ]
    assert ("I live in Ghent", "2024-01-01", "2025-06-01") in merged["memories"]
    assert merged["own"] == [("pet", "none of your business")] and merged["rules"] == ["Answer in one sentence"]
    assert merged["preferences"] == state(device)["preferences"] and merged["ratings"] == state(device)["ratings"]
    assert len(merged["turns"]) == 3
    assert all(
        turn.memory_ids == set()
        for info in other.conversations.listing()
        for turn in other.conversations.turns(info.id)
    )


def test_twice_is_once_even_after_a_forget(device: Device, tmp_path: Path) -> None:
    path = export_bundle(device, tmp_path / "b.penchant", PASSPHRASE)
    for name in ("empty", "used"):
        other = opened(tmp_path / name)
        if name == "used":
            other.memory.remember("I play the viola")
        imported(other, path, PASSPHRASE)
        forget(other, [item.id for item in other.memory.items() if "Zebedee" in item.text])
        before = state(other)
        assert imported(other, path, PASSPHRASE).how == "nothing"
        assert state(other) == before and "Zebedee" not in str(before)


def test_anything_wrong_is_one_line_and_changes_nothing(device: Device, tmp_path: Path) -> None:
    path = export_bundle(device, tmp_path / "b.penchant", PASSPHRASE)
    other = opened(tmp_path / "b")
    other.memory.remember("I play the viola")
    before = state(other)
    whole = path.read_bytes()
    for number, (data, passphrase) in enumerate(
        [
            (whole, "wrong"),
            (whole[:-1], PASSPHRASE),
            (whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], PASSPHRASE),
            (b"?", PASSPHRASE),
        ]
    ):
        bad = tmp_path / f"bad{number}"
        bad.write_bytes(data)
        with pytest.raises(PenchantError) as caught:
            imported(other, bad, passphrase)
        assert "\n" not in str(caught.value)
    with opened(tmp_path / "b"), pytest.raises(PenchantError, match="Another program"):
        imported(other, path, PASSPHRASE)
    assert state(other) == before and not list((tmp_path / "b").glob(".*"))


def test_a_failure_in_the_middle_of_a_merge_changes_nothing(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = opened(tmp_path / "b")
    other.memory.remember("I play the viola")
    before = state(other)
    path = export_bundle(device, tmp_path / "b.penchant", PASSPHRASE)

    def failing(*_: object) -> None:
        raise PenchantError("The disk is full")

    monkeypatch.setattr(transfer, "note_bundle", failing)
    with pytest.raises(PenchantError, match="disk is full"):
        imported(other, path, PASSPHRASE)
    monkeypatch.undo()
    assert (
        state(other) == before and [found.item.text for found in other.memory.recall("parrot", rankers=("bm25",))] == []
    )
    monkeypatch.setattr(bundle_module, "SCRYPT_COST", {"n": 2, "r": 8, "p": 1})
    assert imported(other, path, PASSPHRASE).how == "merged"


def test_a_bundle_of_a_newer_version_is_refused(device: Device, tmp_path: Path) -> None:
    device.vault.connection.execute("UPDATE versions SET version = 99 WHERE room = 'feedback' OR room = 'preferences'")
    path = export_bundle(device, tmp_path / "b.penchant", PASSPHRASE)
    for used in (False, True):
        other = opened(tmp_path / f"b{used}")
        if used:
            other.memory.remember("I play the viola")
        before = state(other)
        with pytest.raises(PenchantError, match="newer version"):
            imported(other, path, PASSPHRASE)
        assert state(other) == before


def test_an_export_needs_a_passphrase_and_replaces_nothing(device: Device, tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="passphrase"):
        export_bundle(device, tmp_path / "b.penchant", "")
    (tmp_path / "b.penchant").write_bytes(b"mine")
    with pytest.raises(PenchantError, match="there already"):
        export_bundle(device, tmp_path / "b.penchant", PASSPHRASE, move=True)
    assert (tmp_path / "b.penchant").read_bytes() == b"mine" and device.may_contribute
    with pytest.raises(PenchantError, match="Cannot write"):
        export_bundle(device, tmp_path / "nowhere" / "b.penchant", PASSPHRASE, move=True)
    assert device.may_contribute and device.settings.share


def test_receipts_count_the_bundles_that_are_out(device: Device, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_bundle(device, tmp_path / name, PASSPHRASE)
    assert forget_everything(device).bundles_elsewhere == 2


def test_a_copy_never_contributes(device: Device, tmp_path: Path) -> None:
    spend(device, 3)
    spent = DeviceLedger(device.vault).epsilon(1e-5)
    path = export_bundle(device, tmp_path / "b.penchant", PASSPHRASE)
    copy = opened(tmp_path / "b")
    done = imported(copy, path, PASSPHRASE)
    assert not done.may_contribute and not copy.settings.share and copy.settings.epsilon_budget == 3.0
    with pytest.raises(PenchantError, match="--move"):
        copy.change_settings(share=True)
    assert copy.change_settings(epsilon_budget=5.0).epsilon_budget == 5.0
    assert DeviceLedger(copy.vault).epsilon(1e-5) == spent > 0
    assert device.may_contribute and device.settings.share  # the exporter goes on
    with pytest.raises(PenchantError, match="without --move"):  # the right cannot be multiplied from a copy
        export_bundle(copy, tmp_path / "c.penchant", PASSPHRASE, move=True)


def test_a_move_takes_identity_and_right_along(device: Device, tmp_path: Path) -> None:
    spend(device, 3)
    identity, spent = device.identity.public_bytes, DeviceLedger(device.vault).epsilon(1e-5)
    path = export_bundle(device, tmp_path / "b.penchant", PASSPHRASE, move=True)
    assert not device.may_contribute and not device.settings.share
    with pytest.raises(PenchantError, match="Another device"):
        device.change_settings(share=True)
    moved = opened(tmp_path / "b")
    assert imported(moved, path, PASSPHRASE).may_contribute
    assert moved.identity.public_bytes == identity and moved.settings.share
    ledger = DeviceLedger(moved.vault)
    assert ledger.epsilon(1e-5) == spent
    settings = moved.change_settings(epsilon_budget=spent)
    with pytest.raises(BudgetExceeded):
        ledger.refuse_overspending(task_of(99), settings)


def test_the_contributions_of_two_devices_to_one_round_cost_twice_and_only_twice(
    device: Device, tmp_path: Path
) -> None:
    other = opened(tmp_path / "b")
    other.memory.remember("I play the viola")
    for each in (device, other):
        spend(each, 2)
    settings = other.change_settings(epsilon_budget=100.0)
    imported(other, export_bundle(device, tmp_path / "1", PASSPHRASE, move=True), PASSPHRASE)
    assert len(DeviceLedger(other.vault).entries()) == 4 and other.may_contribute
    # a task of the other's own that the exporter has paid for is not paid for here
    settings = replace(settings, epsilon_budget=DeviceLedger(other.vault).epsilon(settings.delta))
    device_only = task_of(7)
    DeviceLedger(device.vault).write(device_only, size_bytes=1, roster_size=20)
    imported(other, export_bundle(device, tmp_path / "2", PASSPHRASE), PASSPHRASE)
    assert len(DeviceLedger(other.vault).entries()) == 5
    with pytest.raises(BudgetExceeded):
        DeviceLedger(other.vault).refuse_overspending(device_only, settings)
    # and what comes back to where it was spent is known there
    imported(device, export_bundle(other, tmp_path / "3", PASSPHRASE), PASSPHRASE)
    assert len(DeviceLedger(device.vault).entries()) == 5


def test_secrets_of_rounds_stay_behind(device: Device, tmp_path: Path) -> None:
    RoundProgress(device.vault).open(task_of(1), b"request", StageResult(b"reply", os.urandom(32)))
    count = "SELECT count(*) FROM federated_rounds"
    other = opened(tmp_path / "b")
    imported(other, export_bundle(device, tmp_path / "1", PASSPHRASE), PASSPHRASE)
    assert other.vault.connection.execute(count).fetchone()[0] == 0
    assert device.vault.connection.execute(count).fetchone()[0] == 1
    export_bundle(device, tmp_path / "2", PASSPHRASE, move=True)  # what it would still contribute would not be entered
    assert device.vault.connection.execute(count).fetchone()[0] == 0


def test_a_device_that_takes_its_own_move_back_contributes_again(device: Device, tmp_path: Path) -> None:
    path = export_bundle(device, tmp_path / "1", PASSPHRASE, move=True)
    assert imported(device, path, PASSPHRASE).may_contribute and device.may_contribute
    backup = export_bundle(device, tmp_path / "2", PASSPHRASE)
    assert imported(device, backup, PASSPHRASE).may_contribute
    assert json.loads(device.vault.get_blob("device/settings") or b"{}")["epsilon_budget"] == 3.0
