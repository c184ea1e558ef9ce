"""Forgetting: everything that a device keeps of a memory goes in one step, and the key with it.

1. One transaction over all parts that keep anything of the owner's (`parts_of`): the memory with its index and vector,
   the chats that repeat it, feedback, profile (rebuilt from what stays), entities, cached states, imported documents,
   and all that was learnt (adapters, weights). No adapter says which memories it was trained on, and a chat may have
   said the same before; so all go, and the next training starts from what stays.
2. The write-ahead log is emptied.
3. The file is encrypted under a fresh key and the old one destroyed (``store.rotation``), so that no copy of an old
   page can be read again.

A program killed in step 1 has forgotten nothing, later on everything; 2 and 3 are then made up for by the next start.
Bundles that were exported before are out of reach: the receipt counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from edge_runtime.device import Device
from edge_runtime.memory.statements import MemoryItem, utc_now
from edge_runtime.store.exports import noted_bundles
from edge_runtime.store.rotation import owe_rotation
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from edge_runtime.traces import Traces, trace_finder, words_of


@dataclass(frozen=True)
class Receipt:
    """What a forget removed, counted per part; never what it said.

    `log_emptied` and `key_rotated` are False if another program had the device open: the next one that opens it alone
    makes up for both. `bundles_elsewhere`: how many bundles were exported before; they may still hold it.
    """

    what: str
    forgotten_at: str
    removed: dict[str, int] = field(default_factory=dict)
    log_emptied: bool = True
    key_rotated: bool = True
    bundles_elsewhere: int = 0

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def parts_of(device: Device) -> dict[str, Traces]:
    """Every part that keeps the owner's words or something made of them, by what a receipt calls its entries."""
    return {
        # before the memories, with which its rows would go uncounted
        "document passages": device.documents,
        "memories": device.memory,
        "profile entries": device.profile,
        "conversation turns": device.conversations,
        "feedback": device.feedback,
        "entities": device.entities,
        "cached states": device.states,
        "learnt": Learnt(device.vault),
    }


def forget(device: Device, item_ids: Sequence[int]) -> list[Receipt]:
    """Forgets these memories, all or none; PenchantError if one does not exist.

    One receipt for each. They go in one step, so what went with them is counted together, on the first receipt.
    """
    wanted = list(dict.fromkeys(item_ids))
    if not wanted:
        return []
    parts = parts_of(device)  # before the transaction: else a part whose tables are made in it outlives its failure
    with device.vault.transaction():
        items = [device.memory.item(item_id) for item_id in wanted]
        gone, known = set(wanted), set[str]()
        for item in device.memory.items():
            if item.id not in gone:
                known |= words_of(_text_of(item))
        is_trace = trace_finder((text for item in items for text in (item.text, item.cue)), known)
        removed = {name: part.forget_traces(gone, is_trace) for name, part in parts.items()}
        if any(item.kind == "statement" for item in items):  # passages make no attributes
            device.profile.rebuild(device.memory)
        owe_rotation(device.vault)
    first, *others = [f"memory {item.id}" for item in items]
    counts = {first: removed | {"memories": removed["memories"] - len(others)}}
    return _receipts(device, counts | {name: {"memories": 1} for name in others})


def forget_everything(device: Device) -> Receipt:
    """Forgets all that the owner said and all that was learnt from it. Keys, settings and the ledger stay."""
    parts = parts_of(device)
    with device.vault.transaction():
        removed = {name: part.forget_all() for name, part in parts.items()}
        owe_rotation(device.vault)
    return _receipts(device, {"everything": removed})[0]


class Learnt:
    """Adapters, weights and whatever else lies under ``LEARNT_PREFIX``, with the notes of the adapters' log."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
        return self._forget(is_trace)

    def forget_all(self) -> int:
        return self._forget(lambda _: True)

    def _forget(self, is_trace: Callable[[str], bool]) -> int:
        if self._vault.has_table("adapters"):
            rows = self._vault.connection.execute("SELECT id, note FROM adapters").fetchall()
            self._vault.connection.executemany(
                "UPDATE adapters SET note = '' WHERE id = ?", [(number,) for number, note in rows if is_trace(note)]
            )
        return sum(self._vault.delete_blob(name) for name in self._vault.blob_names(LEARNT_PREFIX))


def _text_of(item: MemoryItem) -> str:
    return f"{item.text}\n{item.cue}\n{item.speaker}"


def _receipts(device: Device, removed: Mapping[str, dict[str, int]]) -> list[Receipt]:
    emptied = device.vault.sweep_log()
    rotated = device.rotate_key()
    now, bundles = utc_now(), len(noted_bundles(device.vault, "written"))
    return [Receipt(what, now, counts, emptied or rotated, rotated, bundles) for what, counts in removed.items()]
