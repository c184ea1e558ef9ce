"""From a passphrase to a key that wraps keys (scrypt, RFC 7914), and bytes as text."""

from __future__ import annotations

import base64
import binascii
from typing import Final

KEY_BYTES: Final = 32
SCRYPT_COST: Final = {"n": 2**15, "r": 8, "p": 1}  # about 32 MiB and 0.1 s a guess
# A damaged or hostile description must not make us reserve gigabytes: scrypt needs 128 * n * r bytes.
_SCRYPT_LIMITS: Final = {"n": 2**20, "r": 16, "p": 4}


def stretch(passphrase: str, salt: bytes, cost: dict[str, int]) -> bytes:
    """scrypt(passphrase): 32 bytes; ValueError for a cost that no version of ours has written."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    if any(not 1 <= cost[name] <= limit for name, limit in _SCRYPT_LIMITS.items()) or cost["n"] & (cost["n"] - 1):
        raise ValueError("scrypt cost out of range")
    return Scrypt(salt=salt, length=KEY_BYTES, n=cost["n"], r=cost["r"], p=cost["p"]).derive(passphrase.encode("utf-8"))


def encode(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode("ascii")


def decode(text: str) -> bytes:
    """Inverse of `encode`; ValueError for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
