"""Artefacts that a device holds: frames, shared adapters and bases, by SHA-256, in its vault.

The server sends each only to devices that do not hold it yet. No byte of one is looked at before the server's signed
statement has been checked (`client.stages`): it says which bytes, for which fleet, base and round. An artefact is
public to the fleet; it is kept in the vault because everything on the device is, and its digest is checked when it
arrives and again whenever it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError, ProtocolError
from protocol.fleet_trust import ReleaseStatement
from protocol.messages import RoundTask

STEPS = (
    """CREATE TABLE fleet_artefacts (
        sha256 TEXT PRIMARY KEY, name TEXT NOT NULL, run_id TEXT NOT NULL, round INTEGER NOT NULL,
        statement BLOB NOT NULL, data BLOB NOT NULL)""",
)


class Artefacts:
    """The artefacts in one device's vault."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("fleet artefacts", STEPS)

    def keep(self, releases: Iterable[tuple[ReleaseStatement, bytes]]) -> None:
        """Store artefacts whose statements have been verified. Raises ProtocolError, storing none, if the bytes are
        not those of the statement, or if it is from an earlier round of its run than one held under its name."""
        with self._vault.transaction() as connection:
            for statement, data in releases:
                if hashlib.sha256(data).hexdigest() != statement.sha256:
                    raise ProtocolError("an artefact is not the one that its statement names: altered on the way")
                (newest,) = connection.execute(
                    "SELECT max(round) FROM fleet_artefacts WHERE run_id=? AND name=?",
                    (statement.run_id, statement.name),
                ).fetchone()
                if newest is not None and newest > statement.round:
                    raise ProtocolError("a release is older than the one of its run that this device holds")
                connection.execute(
                    "INSERT OR REPLACE INTO fleet_artefacts VALUES (?,?,?,?,?,?)",
                    (statement.sha256, statement.name, statement.run_id, statement.round, statement.to_bytes(), data),
                )

    def digests(self) -> tuple[str, ...]:
        """SHA-256 (hex) of every artefact held, sorted."""
        rows = self._vault.connection.execute("SELECT sha256 FROM fleet_artefacts ORDER BY sha256")
        return tuple(digest for (digest,) in rows)

    def of_task(self, task: RoundTask) -> dict[str, bytes]:
        """{role: bytes} of what the task names. Raises PenchantError if one is missing, was altered in the vault, or
        was released for another fleet or base."""
        found: dict[str, bytes] = {}
        for role, digest in task.artefacts.items():
            row = self._vault.connection.execute(
                "SELECT statement, data FROM fleet_artefacts WHERE sha256=?", (digest,)
            ).fetchone()
            if row is None:
                raise PenchantError(
                    f"this device does not hold the {role!r} artefact {digest[:12]}: run the setup stage"
                )
            statement, data = ReleaseStatement.from_bytes(bytes(row[0])), bytes(row[1])
            if (statement.fleet_id, statement.base_sha256) != (task.fleet_id, task.base_sha256):
                raise PenchantError(f"the {role!r} artefact {digest[:12]} was released for another fleet or base")
            if hashlib.sha256(data).hexdigest() != digest:
                raise PenchantError(
                    f"the {role!r} artefact {digest[:12]} was altered on this device: delete it and set up"
                )
            found[role] = data
        return found
