"""The device's own adapters: an append-only log in the encrypted file, and which of them is live.

The bytes (GGUF, see ``adapter_file``) lie under ``LEARNT_PREFIX``, so that a forget drops them with everything else
that was learnt from the owner's words; the log then says that the adapter is gone. They are decrypted to memory
only. What versions did for their owner, and whether one of them has to go, is in ``versions``.

A version serves the tasks on which it was shown to help: *drafts* (a message in the owner's voice) and *answers* (to
their questions). Writing like somebody is not answering them: an adapter that was trained on a person's messages can
make drafts better and answers worse. For a task that it does not serve the model stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

from edge_runtime.memory.statements import checked_text, utc_now
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.errors import PenchantError

Task = Literal["drafts", "answers"]
TASKS: Final[tuple[Task, ...]] = ("drafts", "answers")

_STEPS: Final = (
    "CREATE TABLE adapters (id INTEGER PRIMARY KEY AUTOINCREMENT, sha256 TEXT NOT NULL, base_sha256 TEXT NOT NULL, "
    "note TEXT NOT NULL, epsilon REAL, installed_at TEXT NOT NULL)",
    "CREATE TABLE live_adapter (only INTEGER PRIMARY KEY CHECK (only = 1), adapter_id INTEGER)",
    # What was live when the version was installed; NULL: the model alone.
    "ALTER TABLE adapters ADD COLUMN parent_id INTEGER",
    "ALTER TABLE adapters ADD COLUMN serves TEXT NOT NULL DEFAULT 'drafts,answers'",
)


@dataclass(frozen=True)
class AdapterVersion:
    """One row of the log. ``note``: what it is, then a line for each thing noted since. ``epsilon`` None: no privacy is
    claimed. ``held``: its bytes are still there (a forget removes them). ``parent_id``: the version it took over from
    (None: the model alone). ``serves``: the tasks that it is used for.
    """

    id: int
    sha256: str
    base_sha256: str
    note: str
    epsilon: float | None
    installed_at: str
    live: bool
    held: bool
    parent_id: int | None = None
    serves: tuple[Task, ...] = TASKS


class AdapterLog:
    """The adapters of one device."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("adapters", _STEPS)

    def install(self, data: bytes, *, note: str, serves: Sequence[Task] = TASKS) -> AdapterVersion:
        """Append an adapter (checked to be one) and make it live for the tasks that it ``serves``; what was live is its
        parent."""
        # gguf: not for the many openings of a device that install nothing
        from edge_runtime.adapters.adapter_file import read_adapter_metadata

        metadata = read_adapter_metadata(data)
        digest = sha256(data).hexdigest()
        with self._vault.transaction() as connection:
            parent = next((version.id for version in self.versions() if version.live and version.held), None)
            self._vault.put_blob(_blob(digest), data)
            cursor = connection.execute(
                "INSERT INTO adapters (sha256, base_sha256, note, epsilon, installed_at, parent_id, serves) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (digest, metadata.base_sha256, note, metadata.epsilon, utc_now(), parent, ",".join(serves)),
            )
            self._set_live(cursor.lastrowid)
        return self.versions()[-1]

    def versions(self) -> list[AdapterVersion]:
        """The log, oldest first."""
        live = self._live_id()
        held = set(self._vault.blob_names(_blob("")))
        rows = self._vault.connection.execute(
            "SELECT id, sha256, base_sha256, note, epsilon, installed_at, parent_id, serves FROM adapters ORDER BY id"
        ).fetchall()
        return [
            AdapterVersion(
                id=number,
                sha256=digest,
                base_sha256=base,
                note=note,
                epsilon=epsilon,
                installed_at=installed_at,
                live=number == live,
                held=_blob(digest) in held,
                parent_id=parent,
                serves=tuple(task for task in TASKS if task in serves.split(",")),
            )
            for number, digest, base, note, epsilon, installed_at, parent, serves in rows
        ]

    def version(self, version_id: int) -> AdapterVersion:
        """The version with this id; PenchantError if there is none."""
        for version in self.versions():
            if version.id == version_id:
                return version
        raise PenchantError(f"there is no adapter {version_id} on this device: see `penchant adapters`")

    def live(self, task: Task | None = None) -> tuple[AdapterVersion, bytes] | None:
        """The adapter in use (with ``task``: for that one) with its bytes, or None (none installed, switched off,
        forgotten, or it does not serve the task)."""
        for version in self.versions():
            if version.live and version.held and (task is None or task in version.serves):
                data = self._vault.get_blob(_blob(version.sha256))
                return (version, data) if data is not None else None
        return None

    def use(self, version_id: int | None) -> None:
        """Make an earlier version live again (roll back), or none with None."""
        if version_id is not None and not self.version(version_id).held:
            raise PenchantError(f"there is no adapter {version_id} on this device any more: it was forgotten")
        with self._vault.transaction():
            self._set_live(version_id)

    def annotate(self, version_id: int, text: str) -> AdapterVersion:
        """Add a line to a version's note; earlier lines stay. PenchantError if there is no such version or no text."""
        line = " ".join(text.split())
        if not line:
            raise PenchantError("the note is empty: say what there is to note about this adapter")
        line = checked_text(line)
        with self._vault.transaction() as connection:
            noted = self.version(version_id).note
            connection.execute(
                "UPDATE adapters SET note = ? WHERE id = ?", (f"{noted}\n{line}" if noted else line, version_id)
            )
        return self.version(version_id)

    def _live_id(self) -> int | None:
        row = self._vault.connection.execute("SELECT adapter_id FROM live_adapter").fetchone()
        return int(row[0]) if row and row[0] is not None else None

    def _set_live(self, version_id: int | None) -> None:
        self._vault.connection.execute("INSERT OR REPLACE INTO live_adapter VALUES (1, ?)", (version_id,))


def _blob(digest: str) -> str:
    return f"{LEARNT_PREFIX}adapter/{digest}"
