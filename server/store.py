"""The server's store: one SQLite file that knows, at any instant, how far every round has come.

Every change is one transaction (`Store.transaction`), flushed to disk before it counts, so a server killed at
any point resumes from the last finished transaction. A round moves through

    advertise -> share -> collect -> confirm -> unmask -> publish -> done    (or -> aborted, from any stage
    before publish)

and each stage stores whom it asks (`members`, fixed when the stage opens) and each reply as it arrives.
Requests are functions of what is stored, so a resumed server repeats the very bytes it had sent. When a round
ends, its replies are deleted: the sum and the public task stay. Devices are known by the hex of their Ed25519
identity key, because Flower's node ids may change from run to run.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from protocol.errors import PenchantError
from server.releases import Release

STAGES = ("advertise", "share", "collect", "confirm", "unmask", "publish", "done", "aborted")
STORE_VERSION = 2

SCHEMA = """
CREATE TABLE runs (run_id TEXT PRIMARY KEY, settings TEXT NOT NULL, opened TEXT NOT NULL);
CREATE TABLE rounds (
    round_key INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES runs, round INTEGER NOT NULL,
    attempt INTEGER NOT NULL, task BLOB NOT NULL, stage TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
    opened TEXT NOT NULL, UNIQUE (run_id, round, attempt));
CREATE TABLE stages (
    round_key INTEGER NOT NULL REFERENCES rounds, stage TEXT NOT NULL, members TEXT NOT NULL,
    PRIMARY KEY (round_key, stage));
CREATE TABLE replies (
    round_key INTEGER NOT NULL REFERENCES rounds, stage TEXT NOT NULL, identity TEXT NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (round_key, stage, identity));
CREATE TABLE ledger (
    round_key INTEGER PRIMARY KEY REFERENCES rounds, event TEXT NOT NULL, survivors INTEGER NOT NULL,
    written TEXT NOT NULL);
CREATE TABLE outcomes (round_key INTEGER PRIMARY KEY REFERENCES rounds, data BLOB NOT NULL);
CREATE TABLE releases (
    round_key INTEGER NOT NULL REFERENCES rounds, name TEXT NOT NULL, description TEXT NOT NULL,
    PRIMARY KEY (round_key, name));
"""


@dataclass(frozen=True)
class RoundRow:
    """One attempt at one round. `task` is the exact bytes of the RoundTask that devices were given."""

    round_key: int
    run_id: str
    round: int
    attempt: int
    task: bytes
    stage: str
    reason: str


@dataclass(frozen=True)
class LedgerRow:
    """One spend of privacy budget: `event` is the accountant's event as JSON."""

    round_key: int
    run_id: str
    round: int
    attempt: int
    event: str
    survivors: int
    written: str


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Store:
    """Open (and create if absent) the store at `path`. One server process at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit mode: transactions begin and end only where `transaction` says so. Flower calls the
        # ServerApp in a thread of its own, so the connection may be opened in one thread and used (never at
        # once) in another.
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")  # a spend survives a power cut, not only a kill
            self._connection.execute("PRAGMA foreign_keys=ON")
            version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
            if version == 0:
                self._connection.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={STORE_VERSION};COMMIT;")
        except sqlite3.DatabaseError as error:
            raise PenchantError(f"{path} is not a fleet store ({error}): choose another --out folder") from error
        if version not in (0, STORE_VERSION):
            raise PenchantError(f"{path} was written by another version ({version}): use that version of Penchant")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self, label: str) -> Iterator[sqlite3.Connection]:
        """All or nothing. `label` names the transition for logs and for tests that break the server there."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    # runs and rounds

    def open_run(self, run_id: str, settings: Mapping[str, object]) -> None:
        """Register a run; the same run may be opened again only with the same settings."""
        text = json.dumps(settings, sort_keys=True)
        row = self._connection.execute("SELECT settings FROM runs WHERE run_id=?", (run_id,)).fetchone()
        if row is None:
            with self.transaction("open run") as connection:
                connection.execute("INSERT INTO runs VALUES (?,?,?)", (run_id, text, _now()))
        elif row[0] != text:
            raise PenchantError(f"run {run_id!r} exists with other settings: resume it unchanged or name a new run")

    def open_round(self, run_id: str, round: int, attempt: int, task: bytes, members: Sequence[str]) -> RoundRow:
        """Start one attempt at a round with the sampled cohort `members` (identities in hex)."""
        with self.transaction("open round") as connection:
            cursor = connection.execute(
                "INSERT INTO rounds (run_id, round, attempt, task, stage, opened) VALUES (?,?,?,?,?,?)",
                (run_id, round, attempt, task, "advertise", _now()),
            )
            round_key = cursor.lastrowid
            connection.execute("INSERT INTO stages VALUES (?,?,?)", (round_key, "advertise", json.dumps(list(members))))
        return self.round_row(int(round_key or 0))

    def round_row(self, round_key: int) -> RoundRow:
        """The attempt with this key."""
        rows = self._rounds("WHERE round_key=?", (round_key,))
        if not rows:
            raise PenchantError(f"the store has no round with key {round_key}")
        return rows[0]

    def rounds(self, run_id: str) -> list[RoundRow]:
        """All attempts of a run, in order."""
        return self._rounds("WHERE run_id=? ORDER BY round, attempt", (run_id,))

    def _rounds(self, where: str, values: tuple[object, ...]) -> list[RoundRow]:
        columns = "round_key, run_id, round, attempt, task, stage, reason"
        return [RoundRow(*row) for row in self._connection.execute(f"SELECT {columns} FROM rounds {where}", values)]

    # stages and replies

    def members(self, round_key: int, stage: str) -> list[str]:
        """Identities that this stage asks, in the order fixed when it opened."""
        row = self._connection.execute(
            "SELECT members FROM stages WHERE round_key=? AND stage=?", (round_key, stage)
        ).fetchone()
        return [] if row is None else list(json.loads(row[0]))

    def advance(self, round_key: int, from_stage: str, to_stage: str, members: Sequence[str]) -> None:
        """Close one stage and open the next with those who answered."""
        with self.transaction(f"{from_stage} to {to_stage}") as connection:
            self._move(connection, round_key, from_stage, to_stage)
            connection.execute("INSERT INTO stages VALUES (?,?,?)", (round_key, to_stage, json.dumps(list(members))))

    def save_replies(self, round_key: int, stage: str, replies: Mapping[str, bytes]) -> None:
        """Keep replies as they arrive; a second reply of the same device does not replace the first."""
        with self.transaction(f"{stage} replies") as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO replies VALUES (?,?,?,?)",
                [(round_key, stage, identity, data) for identity, data in replies.items()],
            )

    def replies(self, round_key: int, stage: str) -> dict[str, bytes]:
        """Replies so far by identity."""
        rows = self._connection.execute(
            "SELECT identity, data FROM replies WHERE round_key=? AND stage=? ORDER BY identity",
            (round_key, stage),
        )
        return {identity: bytes(data) for identity, data in rows}

    # endings

    def spend(self, round_key: int, event: str, survivors: int, unmask_members: Sequence[str]) -> None:
        """Write the privacy spend and open the unmask stage in one transaction: no request to unmask precedes
        it.
        """
        with self.transaction("spend") as connection:
            self._move(connection, round_key, "confirm", "unmask")
            connection.execute(
                "INSERT INTO stages VALUES (?,?,?)", (round_key, "unmask", json.dumps(list(unmask_members)))
            )
            connection.execute("INSERT INTO ledger VALUES (?,?,?,?)", (round_key, event, survivors, _now()))

    def save_outcome(self, round_key: int, data: bytes) -> None:
        """Keep the decoded sum and delete every reply of the round: the parts are not needed any more."""
        with self.transaction("unmask to publish") as connection:
            self._move(connection, round_key, "unmask", "publish")
            connection.execute("INSERT INTO outcomes VALUES (?,?)", (round_key, data))
            connection.execute("DELETE FROM replies WHERE round_key=?", (round_key,))

    def finish(self, round_key: int, releases: Sequence[Release]) -> None:
        """Mark a round as done, with the releases that are now on disk."""
        with self.transaction("publish to done") as connection:
            self._move(connection, round_key, "publish", "done")
            connection.executemany(
                "INSERT INTO releases VALUES (?,?,?)",
                [(round_key, release.name, json.dumps(asdict(release))) for release in releases],
            )

    def abort(self, round_key: int, reason: str) -> None:
        """Give a round up: its replies are deleted, so nothing is learnt later either. A spend already
        written stays.
        """
        with self.transaction("abort") as connection:
            connection.execute("UPDATE rounds SET stage='aborted', reason=? WHERE round_key=?", (reason, round_key))
            connection.execute("DELETE FROM replies WHERE round_key=?", (round_key,))

    def outcome(self, round_key: int) -> bytes | None:
        """The decoded sum of a round, if it got that far."""
        row = self._connection.execute("SELECT data FROM outcomes WHERE round_key=?", (round_key,)).fetchone()
        return None if row is None else bytes(row[0])

    def ledger_rows(self) -> list[LedgerRow]:
        """Every spend of every run in this store: the same people may have been in all of them."""
        query = (
            "SELECT round_key, run_id, round, attempt, event, survivors, written "
            "FROM ledger JOIN rounds USING (round_key) ORDER BY round_key"
        )
        return [LedgerRow(*row) for row in self._connection.execute(query)]

    def releases(self) -> list[Release]:
        """Every release recorded as done."""
        rows = self._connection.execute("SELECT description FROM releases ORDER BY round_key, name")
        return [Release(**json.loads(text)) for (text,) in rows]

    def _move(self, connection: sqlite3.Connection, round_key: int, from_stage: str, to_stage: str) -> None:
        changed = connection.execute(
            "UPDATE rounds SET stage=? WHERE round_key=? AND stage=?", (to_stage, round_key, from_stage)
        ).rowcount
        if changed != 1:
            raise PenchantError(f"round is not at stage {from_stage!r}: is a second server using this store?")
