"""Export and import: one bundle (``store.bundle``) holds a device, as a backup, for another device, or to move.

**What travels.** The whole encrypted file, page by page: memories, profile, conversations, feedback, adapters, ledger,
settings. Not the secrets of rounds under way (the device drops out of them) nor cached states.

**Into an empty device** it becomes the device's file in one step. **Into one that is in use**, what the owner said
is merged (``merging``); adapters and settings stay the device's own. Importing the same bundle again changes nothing,
even if something of it was forgotten since. All or nothing: one transaction, while no other program has the device.

**One person, one budget.** The privacy budget is a person's, so only one of their devices may contribute: it *holds the
right*. A plain export is a copy: the right stays behind, the importing device draws an identity of its own, does not
contribute, and cannot be told to. An export that *moves* takes the right and the identity with it: the exporting
device retires (in the transaction before the bundle gets its name, so a killed program may lose the right but never
double it). In every case the ledger travels, and the importing device counts all that the other has spent. What
software without a server cannot prevent is that one moving bundle is imported on two devices; they then share an
identity, which a fleet admits to a round once.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edge_runtime.device import CONTRIBUTES_ELSEWHERE_BLOB, IDENTITY_BLOB, Device
from edge_runtime.forgetting import parts_of
from edge_runtime.merging import mark_ledger, merge
from edge_runtime.store.bundle import Bundle, publish_bundle, write_bundle
from edge_runtime.store.connection import clear_errors
from edge_runtime.store.exports import drop_notes, note_bundle, noted_bundles
from edge_runtime.store.rotation import SCRATCH_PREFIX
from edge_runtime.store.vault import VAULT_FILE, Vault
from protocol.errors import PenchantError

# What makes no sense on another device: secrets of rounds, keys of cached states.
_ROUND_TABLES: Final = ("federated_replies", "federated_rounds")
_STATE_TABLE: Final = "states"
_RIGHT_BLOB: Final = "bundle/right"

# Where the right to contribute is once the bundle is out: in it, with the exporting device, or with a third.
Right = Literal["moves", "stays", "elsewhere"]


@dataclass(frozen=True)
class Imported:
    """What an import did: ``whole`` (the device was empty), ``merged``, or ``nothing`` (it was imported before);
    how many entries were new, and whether this device may contribute now."""

    how: Literal["whole", "merged", "nothing"]
    added: dict[str, int]
    may_contribute: bool


def export_bundle(device: Device, path: Path, passphrase: str, *, move: bool = False) -> Path:
    """Writes a bundle of `device` to `path`, which must not exist; `move` retires this device. Returns `path`."""
    if not passphrase:
        raise PenchantError("A bundle needs a passphrase; the other device will ask for it.")
    if path.exists():
        raise PenchantError(f"{path} is there already; choose another name.")
    elsewhere = device.vault.get_blob(CONTRIBUTES_ELSEWHERE_BLOB) is not None
    if move and elsewhere:
        raise PenchantError("This device does not contribute, another of yours does: export a copy, without --move.")
    right: Right = "moves" if move else "elsewhere" if elsewhere else "stays"
    with _scratch(device.home) as folder:
        key = secrets.token_bytes(32)
        with Vault.open(folder, key) as copy:
            with clear_errors(copy.path):
                device.vault.connection.backup(copy.connection)
            with copy.transaction():
                _leave_behind(copy, right)
            copy.connection.execute("PRAGMA journal_mode = DELETE")  # all in one file
        written = write_bundle(path, folder / VAULT_FILE, key, passphrase=passphrase, identity=device.identity)
    try:
        with device.vault.transaction():
            note_bundle(device.vault, "written", written.payload_sha256.hex())
            if move:
                _empty(device.vault, *_ROUND_TABLES)  # their entries would miss the ledger that moves
                device.change_settings(share=False)
                device.vault.put_blob(CONTRIBUTES_ELSEWHERE_BLOB, b"1")
    except BaseException:
        written.path.unlink(missing_ok=True)
        raise
    publish_bundle(written.path, path)
    return path


def import_bundle(device: Device, bundle: Bundle) -> Imported:
    """Takes over what a verified bundle (``store.bundle.open_bundle``) holds, all or nothing; PenchantError, and
    nothing changed, if it is of a newer version or another program has the device open."""
    digest = bundle.payload_sha256.hex()
    if digest in noted_bundles(device.vault, "read"):
        return Imported("nothing", {}, device.may_contribute)
    with device.alone() as alone, _scratch(device.home) as folder:
        if not alone:
            raise PenchantError(f"Another program has {device.home} open; close it and try again.")
        bundle.copy_payload(folder / VAULT_FILE)
        with Vault.open(folder, bundle.key, create=False) as vault:
            source = device.beside(vault)
            _refuse_newer(source, device)
            if is_empty(device.vault):
                return _replace_all(source, device, bundle)
            with device.vault.transaction():
                added = merge(source, device, bundle.signer)
                note_bundle(device.vault, "read", digest)
                if bundle.signer != device.identity.public_bytes or _right(vault) == "moves":
                    _take_right(device, _right(vault))
            return Imported("merged", added, device.may_contribute)


def is_empty(vault: Vault) -> bool:
    """Whether the owner has left nothing in the file yet."""
    tables = [
        name
        for _, name, kind, *_ in vault.connection.execute("PRAGMA table_list")
        if kind == "table" and not name.startswith("sqlite_") and name not in ("versions", "blobs", _STATE_TABLE)
    ]
    return not any(vault.connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone() for name in tables)


def _leave_behind(copy: Vault, right: Right) -> None:
    """Takes out of the copy what does not travel."""
    _empty(copy, *_ROUND_TABLES, _STATE_TABLE)
    drop_notes(copy)
    copy.put_blob(_RIGHT_BLOB, right.encode())
    if right != "moves":
        copy.delete_blob(IDENTITY_BLOB)


def _empty(vault: Vault, *tables: str) -> None:
    for table in tables:
        if vault.has_table(table):
            vault.connection.execute(f"DELETE FROM {table}")


def _replace_all(source: Device, device: Device, bundle: Bundle) -> Imported:
    """The copy, adapted to what the empty device will be, becomes its file in one step."""
    with source.vault.transaction():
        note_bundle(source.vault, "read", bundle.payload_sha256.hex())
        if _right(source.vault) != "moves":
            mark_ledger(source.vault, bundle.signer)
            source.vault.put_blob(IDENTITY_BLOB, device.identity.private_bytes)
            source.change_settings(share=False)
            source.vault.put_blob(CONTRIBUTES_ELSEWHERE_BLOB, b"1")
        source.vault.delete_blob(_RIGHT_BLOB)
    with clear_errors(device.vault.path):
        source.vault.connection.backup(device.vault.connection)
    device.drop_parts()
    added = {"memories": len(device.memory), "conversations": len(device.conversations.listing())}
    return Imported("whole", added, device.may_contribute)


def _take_right(device: Device, right: str) -> None:
    if right == "moves":
        device.vault.delete_blob(CONTRIBUTES_ELSEWHERE_BLOB)
    elif right == "stays":
        device.change_settings(share=False)
        device.vault.put_blob(CONTRIBUTES_ELSEWHERE_BLOB, b"1")


def _right(source: Vault) -> str:
    return (source.get_blob(_RIGHT_BLOB) or b"stays").decode()


def _refuse_newer(source: Device, target: Device) -> None:
    """PenchantError if the bundle is ahead of this program; brings its tables up to date if it is behind."""
    for device in (target, source):
        parts_of(device)
    ours = dict(target.vault.connection.execute("SELECT room, version FROM versions").fetchall())
    for room, version in source.vault.connection.execute("SELECT room, version FROM versions").fetchall():
        if version > ours.get(room, version):
            raise PenchantError(f"The bundle was written by a newer version of penchant ({room} {version}); upgrade.")


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    """A folder in `home` for a moment; what lies in it is encrypted under a key that is nowhere on disk."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=home))
    except OSError as error:
        raise PenchantError(f"Cannot write in {home}: {error.strerror}.") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
