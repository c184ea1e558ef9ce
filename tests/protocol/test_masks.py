"""Masks depend on every bit of their key, are uniform in the ring, and are the same on every machine."""

import hashlib

import numpy as np
import pytest

from protocol.errors import ProtocolError
from protocol.masks import expand, reduce_to_ring, ring_mask, word


def test_every_bit_of_the_key_matters():
    """Flower's SecAgg+ folds the key to 32 bits: equal folds gave equal masks."""
    key = bytes(range(32))
    seen = {expand(key, 64, 16).tobytes()}
    for bit in range(256):
        changed = bytearray(key)
        changed[bit // 8] ^= 1 << (bit % 8)
        seen.add(expand(bytes(changed), 64, 16).tobytes())
    assert len(seen) == 257
    swapped = key[4:8] + key[:4] + key[8:]  # same XOR of 32-bit words
    assert not np.array_equal(expand(key, 64, 16), expand(swapped, 64, 16))


@pytest.mark.parametrize("ring_bits", [8, 11, 16, 17, 24, 32])
def test_masks_are_uniform_in_the_ring(ring_bits):
    values = expand(b"s" * 32, 200_000, ring_bits)
    assert values.dtype == word(ring_bits) and int(values.max()) <= int(ring_mask(ring_bits))
    for shift in (0, ring_bits - 8):
        counts = np.bincount((values >> np.uint32(shift)) & np.uint32(255), minlength=256)
        expected = values.size / 256
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * 22.6


def test_masks_are_stable_across_machines_and_versions():
    digest = hashlib.sha256(expand(bytes(32), 1000, 16).astype("<u4").tobytes()).hexdigest()
    assert digest == "be8f7ede13fcb57042452d43e96c556d254bc7ae819d40944070f7aeededbab0"


def test_rings_and_prefixes():
    key = b"k" * 32
    np.testing.assert_array_equal(expand(key, 10, 16), expand(key, 20, 16)[:10])
    assert not np.array_equal(expand(key, 64, 16) & 0xFF, expand(key, 64, 8))
    assert expand(key, 0, 16).shape == (0,)
    with pytest.raises(ProtocolError):
        expand(b"short", 4, 16)
    with pytest.raises(ProtocolError):
        expand(key, 4, 33)


def test_reduction_of_signed_integers():
    values = np.array([-1, 0, 1, 65_535, 65_536, -65_537, 1 << 40], dtype=np.int64)
    assert reduce_to_ring(values, 16).tolist() == [65_535, 0, 1, 65_535, 0, 65_535, 0]
