"""Until when a statement holds: what its owner says later may contradict it.

The claims of every statement (claims.py) are kept beside it. A statement is closed, never deleted, on the day by
which every claim it makes has been contradicted by a later statement; while one of its claims still stands, it stays.
That day is recomputed from the claims whenever one is added, changed or forgotten, so that forgetting what closed a
statement opens it again, and the order in which dated statements arrive does not matter. What the owner closed by
hand stays so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

from edge_runtime.memory.claims import Claim, claims_of, contradicts
from edge_runtime.store.vault import Vault

_FIELDS: Final = "subject, attribute, value, polarity, single, temporal"
# Claims that a claim (subject, attribute, value, single) may contradict or be contradicted by: one topic, and the same
# value or only one value at a time. `contradicts` decides.
_RIVALS: Final = (
    f"SELECT said_at, memory_id, {_FIELDS} FROM memory_claims JOIN memories ON id = memory_id "
    "WHERE subject = ? AND attribute = ? AND (value = ? OR single OR ?)"
)


def read_new_claims(vault: Vault) -> bool:
    """Reads the claims of all statements whose claims have not been read; whether some statement's end changed.
    Call it, as all here, inside a transaction."""
    rows = vault.connection.execute("SELECT id FROM memories WHERE NOT claims_read").fetchall()
    return read_claims(vault, [memory_id for (memory_id,) in rows])


def read_claims(vault: Vault, memory_ids: Iterable[int]) -> bool:
    """Reads the claims of these memories anew and settles until when they, and the statements they touch, hold;
    whether some statement's end changed."""
    connection = vault.connection
    memory_ids = list(memory_ids)
    touched = touched_by(vault, memory_ids)
    for memory_id in memory_ids:
        connection.execute("DELETE FROM memory_claims WHERE memory_id = ?", (memory_id,))
        text, kind, speaker = connection.execute(
            "SELECT text, kind, speaker FROM memories WHERE id = ?", (memory_id,)
        ).fetchone()
        for claim in claims_of(text, speaker=speaker) if kind == "statement" else ():
            topic = (claim.subject.casefold(), claim.attribute.casefold(), claim.value.casefold())
            connection.execute(
                "INSERT INTO memory_claims VALUES (?, ?, ?, ?, ?, ?, ?)",
                (memory_id, *topic, claim.polarity, claim.single, claim.temporal),
            )
        connection.execute("UPDATE memories SET claims_read = 1 WHERE id = ?", (memory_id,))
    return settle(vault, touched | touched_by(vault, memory_ids))


def touched_by(vault: Vault, memory_ids: Collection[int]) -> set[int]:
    """These memories and all whose claims theirs contradict."""
    touched = set(memory_ids)
    for memory_id in memory_ids:
        for said_at, claim in _claims(vault, memory_id):
            touched |= {
                other
                for day, other, older in _rivals(vault, claim)
                if (day, other) < (said_at, memory_id) and contradicts(claim, older)
            }
    return touched


def settle(vault: Vault, memory_ids: Iterable[int]) -> bool:
    """Sets, or clears, until when each of these statements holds; whether one of them changed. What its owner closed
    stays closed."""
    changed = 0
    for memory_id in sorted(memory_ids):
        until, closed_by = _end(vault, memory_id)
        changed += vault.connection.execute(
            "UPDATE memories SET valid_until = ?, closed_by = ? WHERE id = ? "
            "AND (valid_until IS NULL OR closed_by IS NOT NULL) AND (valid_until IS NOT ? OR closed_by IS NOT ?)",
            (until, closed_by, memory_id, until, closed_by),
        ).rowcount
    return changed > 0


def _end(vault: Vault, memory_id: int) -> tuple[str | None, int | None]:
    """The day on which the last standing claim of a statement was contradicted and by which memory, or neither."""
    ends = []
    for said_at, claim in _claims(vault, memory_id):
        later = sorted(
            (day, other)
            for day, other, newer in _rivals(vault, claim)
            if (day, other) > (said_at, memory_id) and contradicts(newer, claim)
        )
        if not later:
            return None, None
        ends.append(later[0])
    return max(ends) if ends else (None, None)


def _claims(vault: Vault, memory_id: int) -> list[tuple[str, Claim]]:
    rows = vault.connection.execute(
        f"SELECT said_at, {_FIELDS} FROM memory_claims JOIN memories ON id = memory_id WHERE memory_id = ?",
        (memory_id,),
    ).fetchall()
    return [(said_at, _claim(fields)) for said_at, *fields in rows]


def _rivals(vault: Vault, claim: Claim) -> list[tuple[str, int, Claim]]:
    rows = vault.connection.execute(_RIVALS, (claim.subject, claim.attribute, claim.value, claim.single)).fetchall()
    return [(said_at, memory_id, _claim(fields)) for said_at, memory_id, *fields in rows]


def _claim(fields: list[Any]) -> Claim:
    subject, attribute, value, polarity, single, temporal = fields
    return Claim(subject, attribute, value, bool(polarity), bool(single), temporal)
