"""After a forget nothing of the memory is left in any part of the device, in any page, or under the old key."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from edge_runtime import forgetting
from edge_runtime.device import Device
from edge_runtime.forgetting import forget, forget_everything, parts_of
from edge_runtime.memory.statements import Statement
from edge_runtime.store.keys import open_key
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder, decrypted_pages

SECRET = "My parrot Zebedee recites Cavafy"
WORDS = (b"zebedee", b"cavafy", b"parrot", b"recites", b"recit")  # the index holds stems


def key_of(home: Path) -> bytes:
    (key,) = open_key(home).candidates
    return bytes(key)


def every_byte(home: Path, key: bytes) -> bytes:
    """All pages of the database and its log in plaintext, and every file of the home as it is; lower case."""
    files = b"".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())
    return (decrypted_pages(home, key) + files).lower()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder())


def filled(device: Device) -> int:
    """A device that holds the secret in every way it can; the id of the memory."""
    device.memory.remember_many([Statement(f"I noted the number {n} in my diary") for n in range(200)])
    item = device.memory.remember(SECRET, cue="Do you have a parrot?", said_at="2025-01-01")
    device.memory.remember("I am called Ottoline")
    conversation = device.conversations.new()
    audit = {"candidates": [{"id": f"memory:{item.id}", "kept": True, "text": SECRET}]}
    device.conversations.add(conversation, "user", "What does Zebedee recite?")
    answer = device.conversations.add(conversation, "assistant", "It recites poems.", audit)
    device.conversations.add(conversation, "user", "And what is 2 + 2?")
    device.conversations.add(conversation, "assistant", "4")
    device.feedback.thumbs(answer, "What does Zebedee recite?", True)
    device.feedback.add_preference("Name a poet", "Cavafy", "Rilke")
    device.feedback.add_preference("Name a sea", "the Baltic", "the Aral")
    device.profile.set_attribute("parrot", "Zebedee")
    device.profile.rebuild(device.memory)
    device.profile.add_rule("Never mention Zebedee in the morning")
    device.profile.set_summary("Has a parrot, Zebedee, who recites Cavafy.")
    device.vault.put_blob(f"{LEARNT_PREFIX}weights", b"learnt from zebedee")
    assert device.states.put(b"key", SECRET.encode())
    device.entities.observe(device.memory.items())
    return item.id


def test_no_byte_of_it_is_left_anywhere(device: Device) -> None:
    item_id, old = filled(device), key_of(device.home)
    before = every_byte(device.home, old)
    assert all(word in before for word in WORDS)
    (receipt,) = forget(device, [item_id])
    after = every_byte(device.home, key_of(device.home))
    assert b"ottoline" in after and b"diary" in after and b"baltic" in after
    assert [word for word in WORDS if word in after] == []
    assert b"ottoline" not in decrypted_pages(device.home, old).lower()
    assert old.hex().encode() not in after
    assert receipt.log_emptied and receipt.key_rotated and receipt.what == f"memory {item_id}"
    assert receipt.removed["memories"] == 1 and receipt.removed["learnt"] == 1
    assert receipt.removed["conversation turns"] == 2 and receipt.removed["feedback"] == 2
    assert receipt.removed["profile entries"] >= 3
    assert receipt.removed["cached states"] == 1 and not list((device.home / "states").iterdir())
    assert not any(word.decode() in str(receipt.to_dict()).lower() for word in WORDS)
    assert [turn.text for turn in device.conversations.turns(device.conversations.listing()[0].id)][-1] == "4"
    device.close()
    with Device.open(device.home, embedder=HashingEmbedder()) as again:
        assert len(again.memory) == 201 and again.memory.recall("Zebedee the parrot", rankers=("bm25",)) == []
        assert not any(word in every_byte(again.home, key_of(again.home)) for word in WORDS)


def test_everything_leaves_keys_settings_and_ledger_only(device: Device) -> None:
    filled(device)
    device.change_settings(epsilon_budget=3.0)
    identity = device.identity.public_bytes
    receipt = forget_everything(device)
    after = every_byte(device.home, key_of(device.home))
    for word in (*WORDS, b"ottoline", b"diary", b"baltic"):
        assert word not in after
    assert receipt.what == "everything" and receipt.removed["memories"] == 202 and receipt.key_rotated
    assert device.settings.epsilon_budget == 3.0 and device.identity.public_bytes == identity


def test_all_or_nothing_and_one_receipt_each(device: Device) -> None:
    filled(device)
    ids = [item.id for item in device.memory.items()][:3]
    with pytest.raises(PenchantError, match="no memory 999"):
        forget(device, [ids[0], 999])
    assert len(device.memory) == 202 and forget(device, []) == []
    receipts = forget(device, [*ids, ids[0]])
    assert [receipt.what for receipt in receipts] == [f"memory {item_id}" for item_id in ids]
    assert sum(receipt.removed["memories"] for receipt in receipts) == 3 and len(device.memory) == 199


def test_a_part_that_fails_leaves_every_part_as_it_was(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    item_id, real = filled(device), parts_of

    class Failing:
        def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
            raise PenchantError("no")

        def forget_all(self) -> int:
            raise PenchantError("no")

    monkeypatch.setattr(forgetting, "parts_of", lambda device: real(device) | {"failing": Failing()})
    old = key_of(device.home)
    for attempt in (lambda: forget(device, [item_id]), lambda: forget_everything(device)):
        with pytest.raises(PenchantError, match="no"):
            attempt()
    assert device.memory.item(item_id).text == SECRET and key_of(device.home) == old
    assert device.memory.recall("Zebedee", rankers=("bm25",)) and len(device.feedback.preferences()) == 2


def test_another_program_postpones_the_key_and_the_next_start_makes_up_for_it(device: Device) -> None:
    item_id, old = filled(device), key_of(device.home)
    with Device.open(device.home, embedder=HashingEmbedder()) as other:
        (receipt,) = forget(device, [item_id])
        assert not receipt.key_rotated and key_of(device.home) == old
        assert [item.text for item in other.memory.items() if "Zebedee" in item.text] == []
    assert not any(word in every_byte(device.home, old) for word in WORDS)  # overwritten all the same
    device.close()
    Device.open(device.home, embedder=HashingEmbedder()).close()
    assert key_of(device.home) != old


def test_what_another_memory_still_says_stays(device: Device) -> None:
    first = device.memory.remember("My sister Philippa plays the viola")
    device.memory.remember("Philippa was born in Ghent")
    conversation = device.conversations.new()
    device.conversations.add(conversation, "user", "Where was Philippa born?")
    device.conversations.add(conversation, "user", "What does she play, the viola?")
    forget(device, [first.id])
    assert [turn.text for turn in device.conversations.turns(conversation)] == ["Where was Philippa born?"]


def test_every_part_of_a_device_that_can_forget_is_asked(device: Device) -> None:
    asked = {type(part) for part in parts_of(device).values()}
    can = {
        type(value)
        for name in dir(type(device))
        if not name.startswith("_") and hasattr(value := getattr(device, name), "forget_traces")
    }
    assert can and can <= asked
