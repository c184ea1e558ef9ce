"""The key of one device: 32 random bytes that open its encrypted file, and where they are kept.

Three places, in order of preference; `home/key.json` says which one holds the key of this home and never
holds the bare key itself:

- ``keyring``: the operating system's key store, under the service ``penchant`` and a random account name;
- ``passphrase``: in ``key.json``, wrapped under scrypt(passphrase) (RFC 7914; N = 2**15, r = 8, p = 1: about
  32 MiB and 0.1 s a guess);
- ``file``: as hexadecimal in ``home/device.key``, readable by its owner only. Whoever can read the disk can
  read the memory, so choosing it by default warns; fleets of simulated devices ask for it by name.

The data key never changes, so a new passphrase would re-wrap 32 bytes and leave the encrypted file as it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from protocol.errors import PenchantError, ProtocolError
from protocol.keys import seal, unseal

KeyMethod = Literal["auto", "keyring", "passphrase", "file"]

KEY_BYTES = 32
_DESCRIPTION, _KEY_FILE = "key.json", "device.key"
_KEYRING_SERVICE = "penchant"
_SCRYPT = {"n": 2**15, "r": 8, "p": 1}
# A damaged or hostile key.json must not make us reserve gigabytes: scrypt needs 128 * n * r bytes.
_SCRYPT_LIMITS = {"n": 2**20, "r": 16, "p": 4}


class KeyFileWarning(UserWarning):
    """The key lies in a plain file because neither a key store nor a passphrase was available."""


def key_exists(home: Path) -> bool:
    """Whether a device was set up in `home`."""
    return (home / _DESCRIPTION).exists()


def create_key(home: Path, *, method: KeyMethod = "auto", passphrase: str | None = None) -> bytes:
    """Draws a new data key, stores it by `method` and returns its 32 bytes.

    ``auto`` takes a passphrase if one is given, else the key store if a real one answers, else a key file
    with a `KeyFileWarning`. Never overwrites: a home that already has a key raises PenchantError, since a
    lost key is a lost memory.
    """
    if method == "auto":
        method = "passphrase" if passphrase else "keyring" if _keyring_works() else "file"
        if method == "file":
            warnings.warn(
                f"No system key store and no passphrase: the key is in {home / _KEY_FILE}, "
                "protected only by file permissions.",
                KeyFileWarning,
                stacklevel=2,
            )
    if key_exists(home):
        raise PenchantError(f"{home} already has a key; open it, or choose another home.")
    _make_private_folder(home)
    key = secrets.token_bytes(KEY_BYTES)
    description: dict[str, object] = {"version": 1, "method": method}
    if method == "passphrase":
        if not passphrase:
            raise PenchantError("A passphrase is needed to protect the key with a passphrase.")
        salt = secrets.token_bytes(16)
        wrapped = seal(_derive(passphrase, salt, _SCRYPT), key, _associated_data(salt))
        description |= {**_SCRYPT, "salt": _encode(salt), "wrapped": _encode(wrapped)}
    elif method == "keyring":
        account = secrets.token_hex(8)
        description["account"] = account
        _keyring_write(account, key.hex())
    elif method == "file":
        # The bare key comes first: a description that points to nothing would block this home for ever. A
        # file left by an interrupted start, or written by another process a moment ago, is taken over: never
        # replace a key that may already be in use.
        try:
            _write_private(home / _KEY_FILE, key.hex().encode())
        except FileExistsError:
            key = _parse_hex(_read_private(home / _KEY_FILE), str(home / _KEY_FILE))
    else:
        raise PenchantError(f"Unknown key method '{method}'; use auto, keyring, passphrase or file.")
    try:
        _write_private(home / _DESCRIPTION, json.dumps(description, indent=1).encode())
    except FileExistsError:
        raise PenchantError(f"{home} already has a key; open it, or choose another home.") from None
    return key


def open_key(home: Path, *, passphrase: str | None = None) -> bytes:
    """The 32-byte data key of the device in `home`; PenchantError with the way out if it cannot be had."""
    description = _read_description(home)
    method = description.get("method")
    if method == "passphrase":
        return _unwrap(description, passphrase, home)
    if method == "keyring":
        return _parse_hex(_keyring_read(str(description.get("account", ""))), "the system key store")
    if method == "file":
        return _parse_hex(_read_private(home / _KEY_FILE), str(home / _KEY_FILE))
    raise PenchantError(f"{home / _DESCRIPTION} is damaged: unknown key method. Restore it from a backup.")


def needs_passphrase(home: Path) -> bool:
    """Whether the key of `home` is wrapped under a passphrase (so that a command knows to ask for it)."""
    return key_exists(home) and _read_description(home).get("method") == "passphrase"


def _read_description(home: Path) -> Mapping[str, object]:
    try:
        description = json.loads((home / _DESCRIPTION).read_text("utf-8"))
    except FileNotFoundError:
        raise PenchantError(
            f'No device in {home}; `penchant remember "..."` sets one up, --home chooses another place.'
        ) from None
    except (OSError, ValueError):
        raise PenchantError(f"{home / _DESCRIPTION} cannot be read; restore it from a backup.") from None
    if not isinstance(description, dict) or description.get("version") != 1:
        raise PenchantError(f"{home / _DESCRIPTION} is damaged or from a newer version.")
    return description


def _unwrap(description: Mapping[str, object], passphrase: str | None, home: Path) -> bytes:
    if not passphrase:
        raise PenchantError(f"{home} is protected by a passphrase; give it at the prompt or in PENCHANT_PASSPHRASE.")
    try:
        salt, wrapped = _decode(str(description["salt"])), _decode(str(description["wrapped"]))
        cost = {name: int(str(description[name])) for name in _SCRYPT}
    except (KeyError, ValueError):
        raise PenchantError(f"{home / _DESCRIPTION} is damaged; restore it from a backup.") from None
    if any(not 1 <= cost[name] <= limit for name, limit in _SCRYPT_LIMITS.items()) or cost["n"] & (cost["n"] - 1):
        raise PenchantError(f"{home / _DESCRIPTION} is damaged; restore it from a backup.")
    try:
        key = unseal(_derive(passphrase, salt, cost), wrapped, _associated_data(salt))
    except ProtocolError:
        raise PenchantError(f"Wrong passphrase for {home}.") from None
    return _check_length(key, str(home / _DESCRIPTION))


def _derive(passphrase: str, salt: bytes, cost: Mapping[str, int]) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=KEY_BYTES, n=cost["n"], r=cost["r"], p=cost["p"]).derive(passphrase.encode("utf-8"))


def _associated_data(salt: bytes) -> bytes:
    return b"penchant device key 1" + salt


def _keyring_works() -> bool:
    """A key store that keeps what it is given: the fail and null backends have priority 0 or less, and some
    real ones are locked."""
    try:
        import keyring

        if keyring.get_keyring().priority <= 0:  # the chain backend reports the best of its members
            return False
        probe = f"probe-{secrets.token_hex(4)}"
        keyring.set_password(_KEYRING_SERVICE, probe, "1")
        kept = keyring.get_password(_KEYRING_SERVICE, probe) == "1"
        keyring.delete_password(_KEYRING_SERVICE, probe)
        return kept
    except Exception:  # backends raise errors of the desktop's own libraries; any of them means: not usable
        return False


def _keyring_write(account: str, value: str) -> None:
    import keyring

    try:
        keyring.set_password(_KEYRING_SERVICE, account, value)
    except Exception:  # see _keyring_works
        raise PenchantError(
            "The system key store refused the key; unlock it or protect this home with a passphrase."
        ) from None


def _keyring_read(account: str) -> str:
    import keyring

    try:
        value = keyring.get_password(_KEYRING_SERVICE, account)
    except Exception:  # see _keyring_works
        raise PenchantError("The system key store cannot be opened; unlock it and try again.") from None
    if value is None:
        raise PenchantError(
            "The system key store no longer holds this device's key; its memory cannot be opened without it."
        )
    return value


def _make_private_folder(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise PenchantError(f"Cannot create {home}: {error.strerror}.") from None


def _write_private(path: Path, data: bytes) -> None:
    """Writes a new file with mode 0600, complete or not at all, on disk before it returns; FileExistsError if
    it is there already."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
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


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_private(path: Path) -> str:
    try:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise PenchantError(f"{path} can be read by others; run `chmod 600 {path}` and treat the key as known.")
        return path.read_text("ascii")
    except FileNotFoundError:
        raise PenchantError(f"{path} is missing; this memory cannot be opened without it.") from None
    except (OSError, UnicodeDecodeError):
        raise PenchantError(f"{path} cannot be read.") from None


def _parse_hex(text: str, place: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        raise PenchantError(f"The key in {place} is damaged; restore it from a backup.") from None
    return _check_length(key, place)


def _check_length(key: bytes, place: str) -> bytes:
    if len(key) != KEY_BYTES:
        raise PenchantError(f"The key in {place} is damaged; restore it from a backup.")
    return key


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
