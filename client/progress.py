"""How far this device is in each round, kept in its vault, so that any message may meet a fresh process.

For every round the vault holds the task, the device's secret state and, per stage, the digest of the request
with the reply that was given. From that follow the four rules of this file:

- the same request again gets the same bytes again (a server that crashed may ask once more and learns nothing
  new);
- another request for a stage that has been answered is refused;
- rounds of a run only go forward: a round or attempt older than the newest known here is a replay;
- secrets live no longer than the round: the state is deleted with the last reply, and when a later round of
  the run opens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from edge_runtime.store.vault import Vault
from protocol.errors import ProtocolError
from protocol.messages import RoundTask

ABANDONED_AFTER = timedelta(days=7)
STEPS = (
    """CREATE TABLE federated_rounds (
        task_digest TEXT PRIMARY KEY, run_id TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
        task BLOB NOT NULL, state BLOB, opened TEXT NOT NULL, UNIQUE (run_id, round, attempt))""",
    """CREATE TABLE federated_replies (
        task_digest TEXT NOT NULL REFERENCES federated_rounds, stage TEXT NOT NULL,
        request_sha256 TEXT NOT NULL, reply BLOB NOT NULL, PRIMARY KEY (task_digest, stage))""",
)


@dataclass(frozen=True)
class StageResult:
    """What a stage hands back: its reply, and the secret state for the next stage (None: round over)."""

    reply: bytes
    state: bytes | None


class RoundProgress:
    """The rounds of one device. All changes of one answer, `record` included, are one transaction."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("federated rounds", STEPS)

    def repeated(self, task_digest: str, stage: str, request: bytes) -> bytes | None:
        """The reply already given to these very bytes; None if the stage is still to come; ProtocolError if
        it was answered for another request."""
        row = self._vault.connection.execute(
            "SELECT request_sha256, reply FROM federated_replies WHERE task_digest=? AND stage=?",
            (task_digest, stage),
        ).fetchone()
        if row is None:
            return None
        if row[0] != hashlib.sha256(request).hexdigest():
            raise ProtocolError(f"stage {stage} was answered for another request: a device answers each stage once")
        return bytes(row[1])

    def task_and_state(self, task_digest: str) -> tuple[RoundTask, bytes]:
        """The task and the secret state of an open round. ProtocolError if it was never opened or is over."""
        row = self._vault.connection.execute(
            "SELECT task, state FROM federated_rounds WHERE task_digest=?", (task_digest,)
        ).fetchone()
        if row is None or row[1] is None:
            raise ProtocolError("this round is not open on this device: it never began here, or it is over")
        return RoundTask.from_bytes(bytes(row[0])), bytes(row[1])

    def open(self, task: RoundTask, request: bytes, result: StageResult) -> None:
        """Begin a round: keep its task, state and first reply; destroy the secrets of rounds it replaces.

        Raises ProtocolError if this (run, round, attempt) is known already (two tasks under one name, or a replay),
        or older than one that is.
        """
        digest = task.digest()
        now = datetime.now(UTC)
        abandoned = (now - ABANDONED_AFTER).isoformat(timespec="seconds")
        with self._vault.transaction() as connection:
            known = connection.execute(
                "SELECT 1 FROM federated_rounds WHERE task_digest=? OR (run_id=? AND round=? AND attempt=?)",
                (digest, task.run_id, task.round, task.attempt),
            ).fetchone()
            if known is not None:
                raise ProtocolError("this round and attempt is known already: a new attempt needs a new number")
            newer = connection.execute(
                "SELECT 1 FROM federated_rounds WHERE run_id=? AND (round, attempt) > (?,?)",
                (task.run_id, task.round, task.attempt),
            ).fetchone()
            if newer is not None:
                raise ProtocolError("this round is older than one that this device has seen: rounds go forward")
            older = "SELECT task_digest FROM federated_rounds WHERE run_id=? OR opened<?"
            where = (task.run_id, abandoned)
            connection.execute(f"DELETE FROM federated_replies WHERE task_digest IN ({older})", where)
            connection.execute(f"UPDATE federated_rounds SET state=NULL WHERE task_digest IN ({older})", where)
            connection.execute(
                "INSERT INTO federated_rounds VALUES (?,?,?,?,?,?,?)",
                (
                    digest,
                    task.run_id,
                    task.round,
                    task.attempt,
                    task.to_bytes(),
                    result.state,
                    now.isoformat(timespec="seconds"),
                ),
            )
            self._keep(digest, "advertise", request, result)

    def answer(
        self,
        task_digest: str,
        stage: str,
        request: bytes,
        result: StageResult,
        record: Callable[[], None] | None = None,
    ) -> None:
        """Keep a later stage's reply and new state, and run `record` (the ledger), in one transaction."""
        with self._vault.transaction() as connection:
            if record is not None:
                record()
            connection.execute("UPDATE federated_rounds SET state=? WHERE task_digest=?", (result.state, task_digest))
            self._keep(task_digest, stage, request, result)

    def _keep(self, task_digest: str, stage: str, request: bytes, result: StageResult) -> None:
        self._vault.connection.execute(
            "INSERT INTO federated_replies VALUES (?,?,?,?)",
            (task_digest, stage, hashlib.sha256(request).hexdigest(), result.reply),
        )
