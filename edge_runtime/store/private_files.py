"""Small secret files: complete or not at all, on disk before the call returns, readable by their owner only.

Destroying one overwrites its bytes before it is unlinked. A flash disk may keep a stale copy of that sector
until it is reused; nothing above the disk can prevent it, which is why only 32-byte keys are ever destroyed this
way and never the data itself (see ``rotation``).
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from protocol.errors import PenchantError


def make_private_folder(folder: Path) -> None:
    """`folder` with mode 0700, if it is not there yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise PenchantError(f"Cannot create {folder}: {error.strerror}.") from None


def create_private(path: Path, data: bytes) -> None:
    """Writes a new file; FileExistsError if it is there already."""
    temporary = _written_beside(path, data)
    try:
        try:
            os.link(temporary, path)  # unlike a rename, this fails if another process was first
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if path.exists():
                raise FileExistsError(path) from None
            temporary.rename(path)
        _sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise PenchantError(f"Cannot write {path}: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def replace_private(path: Path, data: bytes) -> None:
    """Puts `data` in the place of the file at `path` in one step, then overwrites what the old file said."""
    temporary = _written_beside(path, data)
    try:
        try:
            old = os.open(path, os.O_RDWR) if os.name == "posix" else None  # elsewhere an open file cannot be replaced
        except FileNotFoundError:
            old = None
        try:
            temporary.replace(path)
            _sync_folder(path.parent)
            if old is not None:
                _overwrite(old)
        finally:
            if old is not None:
                os.close(old)
    except OSError as error:
        raise PenchantError(f"Cannot write {path}: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def destroy_private(path: Path) -> None:
    """Overwrites the file and removes it; nothing if there is none."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    except OSError as error:
        raise PenchantError(f"Cannot remove {path}: {error.strerror}.") from None
    try:
        _overwrite(descriptor)
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise PenchantError(f"Cannot remove {path}: {error.strerror}.") from None
    finally:
        os.close(descriptor)


def read_private(path: Path) -> str:
    """The ASCII text of a secret file; refused if others may read it."""
    try:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise PenchantError(f"{path} can be read by others; run `chmod 600 {path}` and treat the key as known.")
        return path.read_text("ascii")
    except FileNotFoundError:
        raise PenchantError(f"{path} is missing; this memory cannot be opened without it.") from None
    except (OSError, UnicodeDecodeError):
        raise PenchantError(f"{path} cannot be read.") from None


def _written_beside(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PenchantError(f"Cannot write {path}: {error.strerror}.") from None
    return temporary


def _overwrite(descriptor: int) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, bytes(os.fstat(descriptor).st_size))
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
