"""One file that carries a device elsewhere: `.penchant`, encrypted under a passphrase and signed by the device.

    magic 16 | version 2 | scrypt n 4, r 2, p 2, salt 16 | written at 8 | signer 32 | payload length 8, SHA-256 32
    sealed payload key 60  = ChaCha20-Poly1305(scrypt(passphrase), key; associated data: everything above)
    signature 64           = Ed25519(signer, SHA-256(everything above))
    payload                = a SQLCipher file (AES-256-CBC and HMAC-SHA512 per page) under that key

All fields have a fixed size, big-endian; nothing is parsed. The payload is an encrypted database from the moment it is
made, so no plaintext ever touches a disk, on either side. Everything is authenticated before it is used: the signature
says that the file is whole and who wrote it, the seal (which covers the signer and the payload's digest) that it was
written by somebody who knew the passphrase, the digest that the payload is the one that was sealed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from edge_runtime.store.wrapping import KEY_BYTES, SCRYPT_COST, stretch
from protocol.errors import PenchantError, ProtocolError
from protocol.keys import NONCE_BYTES, TAG_BYTES, SigningKey, seal, unseal, verify

BUNDLE_SUFFIX: Final = ".penchant"

_MAGIC: Final = b"penchant bundle\n"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">16sHIHH16sQ32sQ32s")
_SEALED_BYTES: Final = NONCE_BYTES + KEY_BYTES + TAG_BYTES
_SIGNATURE_BYTES: Final = 64
_FRONT_BYTES: Final = _HEADER.size + _SEALED_BYTES + _SIGNATURE_BYTES
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: who wrote it and when (seconds since 1970), the digest of its payload and the key that
    opens that."""

    path: Path
    signer: bytes
    written_at: int
    payload_sha256: bytes
    key: bytes

    def copy_payload(self, target: Path) -> None:
        """Writes the payload, a database under `key`, to a new file; PenchantError if the bundle has changed since
        it was verified."""
        try:
            with self.path.open("rb") as source, target.open("xb") as copy:
                source.seek(_FRONT_BYTES)
                digest = _hashed(source, copy.write)
        except OSError as error:
            raise PenchantError(f"Cannot copy {self.path}: {error.strerror}.") from None
        if digest != self.payload_sha256:
            raise _damaged(self.path)


def write_bundle(path: Path, database: Path, key: bytes, *, passphrase: str, identity: SigningKey) -> Bundle:
    """Writes the bundle of `database` (encrypted under `key`) beside `path`: naming it (`publish_bundle`) is the
    caller's last step. On disk when the call returns."""
    salt = secrets.token_bytes(16)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with database.open("rb") as payload:
            digest = _hashed(payload)
            cost, now = SCRYPT_COST, int(time.time())
            header = _HEADER.pack(
                _MAGIC, _VERSION, cost["n"], cost["r"], cost["p"], salt, now,
                identity.public_bytes, payload.tell(), digest,
            )  # fmt: skip
            front = header + seal(stretch(passphrase, salt, cost), key, header)
            payload.seek(0)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(front + identity.sign(hashlib.sha256(front).digest()))
                _hashed(payload, file.write)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise PenchantError(f"Cannot write {path}: {error.strerror}.") from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return Bundle(part, identity.public_bytes, now, digest, key)


def publish_bundle(part: Path, path: Path) -> None:
    """Gives a written bundle its name, unless there is a file of that name."""
    try:
        os.link(part, path)  # unlike a rename, this never replaces
        part.unlink()
    except FileExistsError:
        part.unlink(missing_ok=True)
        raise PenchantError(f"{path} is there already; choose another name.") from None
    except OSError:  # a file system without hard links
        part.replace(path)


def open_bundle(path: Path, passphrase: str) -> Bundle:
    """Verifies every byte of a bundle; PenchantError, before anything of it is used, if it is none, is damaged or
    newer, or the passphrase is another."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            front = file.read(_FRONT_BYTES)
            if not front.startswith(_MAGIC) or len(front) < len(_MAGIC) + 2:
                raise PenchantError(f"{path} is not a bundle of penchant.")
            if int.from_bytes(front[16:18], "big") != _VERSION:
                raise PenchantError(f"{path} was written by a newer version of penchant; upgrade to import it.")
            if len(front) < _FRONT_BYTES:
                raise _damaged(path)
            header, signed, signature = front[: _HEADER.size], front[:-_SIGNATURE_BYTES], front[-_SIGNATURE_BYTES:]
            _, _, n, r, p, salt, written_at, signer, length, sha256 = _HEADER.unpack(header)
            verify(signer, hashlib.sha256(signed).digest(), signature)
            if size != _FRONT_BYTES + length or _hashed(file) != sha256:
                raise _damaged(path)
    except OSError as error:
        raise PenchantError(f"Cannot read {path}: {error.strerror}.") from None
    except ProtocolError:
        raise _damaged(path) from None
    try:
        key = unseal(stretch(passphrase, salt, {"n": n, "r": r, "p": p}), signed[_HEADER.size :], header)
    except ValueError:
        raise _damaged(path) from None
    except ProtocolError:
        raise PenchantError(f"Wrong passphrase for {path}.") from None
    return Bundle(path, signer, written_at, sha256, key)


def _damaged(path: Path) -> PenchantError:
    return PenchantError(f"{path} is cut short or was changed; get a fresh copy of the bundle.")


def _hashed(source: BinaryIO, sink: Callable[[bytes], object] = len) -> bytes:
    """SHA-256 of what is left in `source`, which also goes to `sink`."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        sink(chunk)
    return digest.digest()
