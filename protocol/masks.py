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


def expand(seed: bytes, length: int, ring_bits: int) -> NDArray[np.uint32]:
    """`length` values, uniform in [0, 2^ring_bits), that nobody without the 32-byte `seed` can tell from
    random."""
    if len(seed) != 32:
        raise ProtocolError("a mask seed has 32 bytes")
    width = 2 if ring_bits <= 16 else 4
    stream = keystream(seed, f"mask/{ring_bits}", width * length)
    words = np.frombuffer(stream, dtype="<u2" if width == 2 else "<u4").astype(np.uint32)
    return words & ring_mask(ring_bits)


def keystream(key: bytes, label: str, length: int) -> bytes:
    """`length` bytes of AES-256-CTR under `key` (32 bytes); `label` separates uses of one key."""
    start = hashlib.sha256(b"penchant/keystream/1/" + label.encode()).digest()[:12] + b"\0\0\0\0"
    return Cipher(AES256(key), CTR(start)).encryptor().update(bytes(length))


def ring_mask(ring_bits: int) -> np.uint32:
    """2^ring_bits - 1: `values & ring_mask(b)` is `values mod 2^b` for unsigned values."""
    if not 1 <= ring_bits <= 32:
        raise ProtocolError("ring_bits is between 1 and 32")
    return np.uint32((1 << ring_bits) - 1)


def reduce_to_ring(values: NDArray[np.integer], ring_bits: int) -> NDArray[np.uint32]:
    """Integers of any sign to [0, 2^ring_bits); a fresh array. Sums of such arrays wrap at 2^32, a multiple
    of 2^b."""
    return (values.astype(np.int64) & np.int64((1 << ring_bits) - 1)).astype(np.uint32)
