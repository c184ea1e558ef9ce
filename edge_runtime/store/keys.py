"""The key of one device: 32 random bytes that open its encrypted file, and where they are kept.

Three places, in order of preference; `home/key.json` says which one holds the key of this home and never
holds the bare key itself:

- ``keyring``: the operating system's key store, under the service ``penchant`` and a random account name;
- ``passphrase``: in ``key.json``, wrapped under scrypt(passphrase) (RFC 7914; N = 2**15, r = 8, p = 1: about
  32 MiB and 0.1 s a guess);
- ``file``: as hexadecimal in ``home/device.key``, readable by its owner only. Whoever can read the disk can
  read the memory, so choosing it by default warns; fleets of simulated devices ask for it by name.

While the key changes (``rotation``), ``key.json`` names two keys, the present one and the ``next``. Whoever opens
the device finds out which of them opens the encrypted file and settles on it; the other is destroyed first and
struck from ``key.json`` afterwards, so a program killed at any point leaves a device that opens. A new passphrase
re-wraps 32 bytes and leaves the encrypted file as it is.

Keys are held in byte arrays and overwritten by `HomeKey.wipe`. That is all Python can do: copies that libraries
made on the way (hexadecimal text, immutable bytes) stay in the process until their memory is used again.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import warnings
from pathlib import Path
from typing import Any, Final, Literal

from edge_runtime.store import system_key_store
from edge_runtime.store.private_files import (
    create_private,
    destroy_private,
    make_private_folder,
    read_private,
    replace_private,
)
from edge_runtime.store.wrapping import KEY_BYTES, SCRYPT_COST, decode, encode, stretch
from protocol.errors import PenchantError, ProtocolError
from protocol.keys import seal, unseal

KeyMethod = Literal["auto", "keyring", "passphrase", "file"]

_DESCRIPTION: Final = "key.json"
_KEY_FILES: Final = ("device.key", "device-2.key")  # in turn, so that a next key can lie beside the present one
# The field of key.json that says where the present key is; `next` says the same of the next one.
_FIELDS: Final = {"passphrase": "wrapped", "keyring": "account", "file": "file"}


class KeyFileWarning(UserWarning):
    """The key lies in a plain file because neither a key store nor a passphrase was available."""


class HomeKey:
    """The key of an open device, in RAM, and the ways to change it on disk.

    Only who has the device alone (``home_lock``) may `draw_next` or `protect`.
    """

    def __init__(self, home: Path, description: dict[str, Any], wrapping: bytes | None) -> None:
        self._home, self._description = home, description
        self._wrapping = bytearray(wrapping) if wrapping is not None else None
        self._present, self._next = self._read(self._field), self._read("next")
        if self._present is None and self._next is None:
            raise PenchantError(f"{home / _DESCRIPTION} names no key; restore it from a backup.")

    @property
    def candidates(self) -> list[bytearray]:
        """The keys that may open the file, newest first: one, or two after an interrupted rotation."""
        return [key for key in (self._next, self._present) if key is not None]

    def draw_next(self) -> bytearray:
        """A fresh key, on disk beside the present one when the call returns."""
        key = bytearray(secrets.token_bytes(KEY_BYTES))
        for stray in (*self._home.glob(".key.json.*"), *self._home.glob(".device*.key.*")):
            destroy_private(stray)  # of a program killed while it wrote a key
        reference = _keep(self._home, self._description, self._wrapping, key)
        self._write_description(self._description | {"next": reference})
        self._next = key
        return key

    @property
    def in_use(self) -> bool:
        """Whether the encrypted file has been opened before: if it is missing now, it was lost."""
        return bool(self._description.get("in_use"))

    def settle(self, key: bytes | bytearray) -> None:
        """`key`, which has opened the file, is the key from now on; every trace of another is destroyed."""
        taken = self._next is not None and secrets.compare_digest(bytes(key), bytes(self._next))
        described = {name: value for name, value in self._description.items() if name not in ("next", "stale")}
        described["in_use"] = True
        if taken:
            described[self._field] = self._description["next"]
        if self._description != described:
            if "next" in self._description:
                self._destroy(self._description[self._field] if taken else self._description["next"])
            if "stale" in self._description:
                system_key_store.delete(str(self._description["stale"]))
            self._write_description(described)
        if taken:
            _overwrite(self._present)
            self._present = self._next
        else:
            _overwrite(self._next)
        self._next = None
        for name in _KEY_FILES:
            if name != described.get("file") and (self._home / name).exists():
                destroy_private(self._home / name)

    def protect(self, method: KeyMethod, passphrase: str | None = None) -> None:
        """Moves the present key to another place, or wraps it under another passphrase."""
        if self._present is None or self._next is not None:
            raise PenchantError("The key of this device is being changed; open it again.")
        description, wrapping = _new_description(method, passphrase)
        description["in_use"] = True
        description[_FIELDS[description["method"]]] = _keep(self._home, description, wrapping, self._present)
        if self._description["method"] == "keyring":
            description["stale"] = self._description["account"]
        self._write_description(description)
        _overwrite(self._wrapping)
        self._wrapping = wrapping
        self.settle(self._present)

    def wipe(self) -> None:
        """Overwrites the keys in RAM; the object is of no use afterwards."""
        for secret in (self._present, self._next, self._wrapping):
            _overwrite(secret)
        self._present = self._next = self._wrapping = None

    @property
    def _field(self) -> str:
        return _FIELDS[self._description["method"]]

    def _read(self, field: str) -> bytearray | None:
        """The key that `field` of the description points to; None if it names none, or one that is gone while
        there is another."""
        if field not in self._description:
            return None
        place, method = str(self._description[field]), self._description["method"]
        try:
            if method == "passphrase":
                return self._unwrapped(place)
            if method == "keyring":
                return _parsed(system_key_store.read(place), "the system key store")
            if place not in _KEY_FILES:
                raise PenchantError(f"{self._home / _DESCRIPTION} is damaged; restore it from a backup.")
            return _parsed(read_private(self._home / place), str(self._home / place))
        except PenchantError:
            if "next" in self._description and method != "passphrase":
                return None
            raise

    def _unwrapped(self, wrapped: str) -> bytearray:
        try:
            salt, box = decode(str(self._description["salt"])), decode(wrapped)
        except (KeyError, ValueError):
            raise PenchantError(f"{self._home / _DESCRIPTION} is damaged; restore it from a backup.") from None
        try:
            key = unseal(bytes(self._wrapping or b""), box, _associated_data(salt))
        except ProtocolError:
            raise PenchantError(f"Wrong passphrase for {self._home}.") from None
        return _checked(key, str(self._home / _DESCRIPTION))

    def _destroy(self, reference: str) -> None:
        if self._description["method"] == "keyring":
            system_key_store.delete(reference)
        elif self._description["method"] == "file":
            destroy_private(self._home / reference)

    def _write_description(self, description: dict[str, Any]) -> None:
        replace_private(self._home / _DESCRIPTION, json.dumps(description, indent=1).encode())
        self._description = description


def key_exists(home: Path) -> bool:
    """Whether a device was set up in `home`."""
    return (home / _DESCRIPTION).exists()


def create_key(home: Path, *, method: KeyMethod = "auto", passphrase: str | None = None) -> None:
    """Draws a new key and stores it by `method`.

    ``auto`` takes a passphrase if one is given, else the key store if a real one answers, else a key file
    with a `KeyFileWarning`. Never overwrites: a home that already has a key raises PenchantError, since a
    lost key is a lost memory.
    """
    description, wrapping = _new_description(method, passphrase, home / _KEY_FILES[0])
    if key_exists(home):
        raise PenchantError(f"{home} already has a key; open it, or choose another home.")
    make_private_folder(home)
    key = bytearray(secrets.token_bytes(KEY_BYTES))
    if description["method"] == "file":
        # The bare key comes first: a description that points to nothing would block this home for ever. A
        # file left by an interrupted start, or written by another process a moment ago, is taken over: never
        # replace a key that may already be in use.
        with contextlib.suppress(FileExistsError):
            create_private(home / _KEY_FILES[0], key.hex().encode())
        description["file"] = _KEY_FILES[0]
    else:
        description[_FIELDS[description["method"]]] = _keep(home, description, wrapping, key)
    for secret in (key, wrapping):
        _overwrite(secret)
    try:
        create_private(home / _DESCRIPTION, json.dumps(description, indent=1).encode())
    except FileExistsError:
        raise PenchantError(f"{home} already has a key; open it, or choose another home.") from None


def open_key(home: Path, *, passphrase: str | None = None) -> HomeKey:
    """The key of the device in `home`; PenchantError with the way out if it cannot be had."""
    description = _read_description(home)
    if description["method"] != "passphrase":
        return HomeKey(home, description, None)
    if not passphrase:
        raise PenchantError(f"{home} is protected by a passphrase; give it at the prompt or in PENCHANT_PASSPHRASE.")
    try:
        salt, cost = decode(str(description["salt"])), {name: int(description[name]) for name in SCRYPT_COST}
        wrapping = stretch(passphrase, salt, cost)
    except (KeyError, TypeError, ValueError):
        raise PenchantError(f"{home / _DESCRIPTION} is damaged; restore it from a backup.") from None
    return HomeKey(home, description, wrapping)


def needs_passphrase(home: Path) -> bool:
    """Whether the key of `home` is wrapped under a passphrase (so that a command knows to ask for it)."""
    return key_exists(home) and _read_description(home)["method"] == "passphrase"


def _new_description(
    method: KeyMethod, passphrase: str | None, key_file: Path | None = None
) -> tuple[dict[str, Any], bytearray | None]:
    """What key.json will say of a new place, without the key; and the wrapping key, if there is a passphrase."""
    if method == "auto":
        method = "passphrase" if passphrase else "keyring" if system_key_store.works() else "file"
        if method == "file":
            warnings.warn(
                f"No system key store and no passphrase: the key is in {key_file or 'a file of this home'}, "
                "protected only by file permissions.",
                KeyFileWarning,
                stacklevel=3,
            )
    if method not in _FIELDS:
        raise PenchantError(f"Unknown key method '{method}'; use auto, keyring, passphrase or file.")
    description: dict[str, Any] = {"version": 1, "method": method}
    if method != "passphrase":
        return description, None
    if not passphrase:
        raise PenchantError("A passphrase is needed to protect the key with a passphrase.")
    salt = secrets.token_bytes(16)
    return description | SCRYPT_COST | {"salt": encode(salt)}, bytearray(stretch(passphrase, salt, SCRYPT_COST))


def _read_description(home: Path) -> dict[str, Any]:
    path = home / _DESCRIPTION
    try:
        description = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PenchantError(
            f'No device in {home}; `penchant remember "..."` sets one up, --home chooses another place.'
        ) from None
    except (OSError, ValueError, RecursionError):
        raise PenchantError(f"{path} cannot be read; restore it from a backup.") from None
    if not isinstance(description, dict) or description.get("version") != 1:
        raise PenchantError(f"{path} is damaged or from a newer version.")
    if description.get("method") not in list(_FIELDS):
        raise PenchantError(f"{path} is damaged: unknown key method. Restore it from a backup.")
    if description["method"] == "file":
        description.setdefault("file", _KEY_FILES[0])  # the first devices had one name for it
    return description


def _keep(home: Path, description: dict[str, Any], wrapping: bytearray | None, key: bytearray) -> str:
    """Stores `key` where the description says that its kind is kept, beside the one it names; the reference."""
    if description["method"] == "passphrase":
        salt = decode(str(description["salt"]))
        return encode(seal(bytes(wrapping or b""), bytes(key), _associated_data(salt)))
    if description["method"] == "keyring":
        return system_key_store.write(key.hex())
    name = _KEY_FILES[1] if description.get("file") == _KEY_FILES[0] else _KEY_FILES[0]
    replace_private(home / name, key.hex().encode())
    return name


def _associated_data(salt: bytes) -> bytes:
    return b"penchant device key 1" + salt


def _parsed(text: str, place: str) -> bytearray:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        raise PenchantError(f"The key in {place} is damaged; restore it from a backup.") from None
    return _checked(key, place)


def _checked(key: bytes, place: str) -> bytearray:
    if len(key) != KEY_BYTES:
        raise PenchantError(f"The key in {place} is damaged; restore it from a backup.")
    return bytearray(key)


def _overwrite(secret: bytearray | None) -> None:
    if secret is not None:
        secret[:] = bytes(len(secret))
