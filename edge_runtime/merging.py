"""Merging what another device of the same person knows into this one, through the parts' own interfaces.

Memories by their content (an equal one stays as it is, vectors are made by this device's embedding model), with the end
of their validity; choices between answers and thumbs; the owner's own entries in the profile where this device has
none of that name, and rules; conversations by their id, without the audits of their answers, which name memories by the
other device's numbers; ledger entries by round. Adapters, settings, summaries and the derived part of the profile are
not merged: the first two are this device's own, the others are made anew from the memories.

Ledger entries of another identity are marked with it (``run@1a2b3c4d``): contributions of two devices to one round
cost twice.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.memory.statements import Statement
from edge_runtime.store.vault import Vault

if TYPE_CHECKING:
    from edge_runtime.device import Device

_LEDGER_ROOM: Final = "ledger"
_LEDGER_TABLE: Final = "ledger"


def merge(source: Device, target: Device, signer: bytes) -> dict[str, int]:
    """Adds to `target` what `source` has more, inside the caller's transaction; how many entries were new, by part.
    `signer` is the identity of the device that `source` is a copy of."""
    turn_ids = _merge_conversations(source.vault, target.vault)
    return {
        "memories": _merge_memories(source, target),
        "turns": len(turn_ids),
        "feedback": _merge_feedback(source, target, turn_ids),
        "profile": _merge_profile(source, target),
        "ledger": _merge_ledger(source.vault, target.vault, _mark(signer), _mark(target.identity.public_bytes)),
    }


def mark_ledger(vault: Vault, signer: bytes) -> None:
    """Marks the entries of a copy that gets an identity of its own as those of the device it came from."""
    if vault.has_table(_LEDGER_TABLE):
        vault.connection.execute(
            f"UPDATE {_LEDGER_TABLE} SET run_id = run_id || ?, task_digest = '' WHERE instr(run_id, '@') = 0",
            (_mark(signer),),
        )


def _merge_memories(source: Device, target: Device) -> int:
    before = len(target.memory)
    items = source.memory.items()
    names = [field.name for field in fields(Statement)]
    statements = [Statement(**{name: getattr(item, name) for name in names}) for item in items]
    held = {item.id for item in target.memory.items()}
    for item, stored in zip(items, target.memory.remember_many(statements), strict=True):
        if item.valid_until is not None and stored.id not in held:
            target.memory.supersede(stored.id, item.valid_until)
    return len(target.memory) - before


def _merge_conversations(source: Vault, target: Vault) -> dict[int, int]:
    """The new turns: their ids there, and here."""
    turn_ids = {}
    for conversation, started_at in source.connection.execute("SELECT id, started_at FROM conversations").fetchall():
        if target.connection.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation,)).fetchone():
            continue
        target.connection.execute("INSERT INTO conversations VALUES (?, ?)", (conversation, started_at))
        for turn_id, *turn in source.connection.execute(
            "SELECT id, conversation, role, text, said_at, consolidated FROM turns WHERE conversation = ? ORDER BY id",
            (conversation,),
        ).fetchall():
            cursor = target.connection.execute(
                "INSERT INTO turns (conversation, role, text, said_at, consolidated) VALUES (?, ?, ?, ?, ?)", turn
            )
            turn_ids[turn_id] = int(cursor.lastrowid or 0)
    return turn_ids


def _merge_feedback(source: Device, target: Device, turn_ids: dict[int, int]) -> int:
    before = len(target.feedback.preferences())
    for choice in source.feedback.preferences():
        target.feedback.add_preference(choice.prompt, choice.chosen, choice.rejected, said_at=choice.said_at)
    thumbs = 0
    for rating in source.feedback.ratings():
        if rating.turn in turn_ids:
            turn = target.conversations.turn(turn_ids[rating.turn])
            target.feedback.thumbs(turn, rating.prompt, rating.up, rating.note)
            thumbs += 1
    return len(target.feedback.preferences()) - before + thumbs


def _merge_profile(source: Device, target: Device) -> int:
    added = 0
    own = {attribute.name for attribute in target.profile.attributes() if attribute.source == "you"}
    for attribute in source.profile.attributes():
        if attribute.source == "you" and attribute.until is None and attribute.name not in own:
            target.profile.set_attribute(attribute.name, attribute.value)
            added += 1
    rules = {rule.text for rule in target.profile.rules()}
    for rule in source.profile.rules():
        if rule.active and rule.text not in rules:
            target.profile.add_rule(rule.text)
            added += 1
    target.profile.rebuild(target.memory)
    return added


def _merge_ledger(source: Vault, target: Vault, theirs: str, ours: str) -> int:
    if not source.has_table(_LEDGER_TABLE):
        return 0
    if not target.has_table(_LEDGER_TABLE):
        _copy_table(source, target)
    cursor = source.connection.execute(f"SELECT * FROM {_LEDGER_TABLE} ORDER BY entry")
    columns = [column for column, *_ in cursor.description]
    added = 0
    for values in cursor.fetchall():
        row: dict[str, Any] = dict(zip(columns, values, strict=True))
        del row["entry"]
        run, at, mark = str(row["run_id"]).partition("@")
        if not at:
            mark = theirs.removeprefix("@")
        if f"@{mark}" != ours:
            # no digest: else a task of this device's own could pass as paid for
            row |= {"run_id": f"{run}@{mark}", "task_digest": ""}
        else:
            row["run_id"] = run
        added += target.connection.execute(
            f"INSERT OR IGNORE INTO {_LEDGER_TABLE} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
            tuple(row.values()),
        ).rowcount
    return added


def _copy_table(source: Vault, target: Vault) -> None:
    """Gives the target the ledger's table as the source has it."""
    (statement,) = source.connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (_LEDGER_TABLE,)
    ).fetchone()
    target.connection.execute(statement)
    (version,) = source.connection.execute("SELECT version FROM versions WHERE room = ?", (_LEDGER_ROOM,)).fetchone()
    target.connection.execute("INSERT OR REPLACE INTO versions VALUES (?, ?)", (_LEDGER_ROOM, version))


def _mark(identity: bytes) -> str:
    return f"@{identity.hex()[:8]}"
