"""The mask generator: a 32-byte key stretched to a vector over the ring of integers mod 2^b.

AES-256 in counter mode over the *whole* key (Flower 1.41 folds it to 32 bits; two keys with one fold then
give one mask). The counter block starts from a hash of the ring size, so one key never gives related masks in
two rings.
"""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from protocol.errors import ProtocolError

Residues = NDArray[np.unsignedinteger]
"""Integers mod 2^b in `word(b)`. Sums and differences wrap at 2^16 or 2^32, a multiple of 2^b."""


def word(ring_bits: int) -> np.dtype[np.unsignedinteger]:
    """The machine word of a ring: 2 bytes up to 16 bits, else 4. Half the memory to move is half the time to mask."""
    if not 1 <= ring_bits <= 32:
        raise ProtocolError("ring_bits is between 1 and 32")
    return np.dtype("<u2" if ring_bits <= 16 else "<u4")


def expand(seed: bytes, length: int, ring_bits: int) -> Residues:
    """`length` values, uniform in [0, 2^ring_bits), that nobody without the 32-byte `seed` can tell from
    random; a read-only array of `word(ring_bits)`."""
    if len(seed) != 32:
        raise ProtocolError("a mask seed has 32 bytes")
    kind = word(ring_bits)
    words = np.frombuffer(keystream(seed, f"mask/{ring_bits}", kind.itemsize * length), dtype=kind)
    return words if ring_bits in (16, 32) else words & ring_mask(ring_bits)


def keystream(key: bytes, label: str, length: int) -> bytes:
    """`length` bytes of AES-256-CTR under `key` (32 bytes); `label` separates uses of one key."""
    start = hashlib.sha256(b"penchant/keystream/1/" + label.encode()).digest()[:12] + b"\0\0\0\0"
    return Cipher(AES256(key), CTR(start)).encryptor().update(bytes(length))


def ring_mask(ring_bits: int) -> np.unsignedinteger:
    """2^ring_bits - 1 as a `word`: `values & ring_mask(b)` is `values mod 2^b` for unsigned values."""
    kind = word(ring_bits).type
    return kind((1 << ring_bits) - 1)


def reduce_to_ring(values: NDArray[np.integer], ring_bits: int) -> Residues:
    """Integers of any sign to [0, 2^ring_bits); a fresh array of `word(ring_bits)`."""
    reduced: Residues = values.astype(word(ring_bits))  # two's complement: the lowest bits are the residue
    reduced &= ring_mask(ring_bits)
    return reduced
