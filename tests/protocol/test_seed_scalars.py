"""The pool's directions are the same everywhere, of unit length, and scalars stand for their sum exactly."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from protocol.errors import ProtocolError
from protocol.seed_scalars import SeedPool

POOL = SeedPool(bytes(range(32)), count=64, dimension=513)


def test_directions_are_unit_vectors_of_balanced_signs_that_hardly_overlap() -> None:
    rows = np.array([POOL.direction(index) for index in range(POOL.count)])
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0)
    assert len(np.unique(np.abs(rows))) == 1
    assert abs((rows > 0).mean() - 0.5) < 0.01
    overlaps = (rows @ rows.T)[~np.eye(POOL.count, dtype=bool)]
    assert np.abs(overlaps).max() < 5 / np.sqrt(POOL.dimension)


def test_directions_never_change_from_one_version_or_machine_to_the_next() -> None:
    signs = np.array([POOL.direction(index) > 0 for index in range(3)])
    digest = hashlib.sha256(np.packbits(signs).tobytes()).hexdigest()
    assert digest == "5fd52487dc8ba1056931d826ae569d628c4aaef0df103ff0f3be00b1ad4562c4"


def test_rebuilding_is_linear() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, POOL.count))
    rows = np.array([POOL.direction(index) for index in range(POOL.count)])
    assert np.allclose(POOL.rebuild(one), one @ rows)
    assert np.allclose(POOL.rebuild((one + other) / 2), (POOL.rebuild(one) + POOL.rebuild(other)) / 2)
    assert not POOL.rebuild(np.zeros(POOL.count)).any()


def test_another_seed_count_or_dimension_is_another_pool() -> None:
    pools = [
        POOL, SeedPool(bytes(32), 64, 513), SeedPool(POOL.seed, 65, 513), SeedPool(POOL.seed, 64, 514),
    ]  # fmt: skip
    assert len({pool.digest for pool in pools}) == 4
    assert not np.array_equal(POOL.direction(0), pools[1].direction(0))


def test_what_is_no_pool_or_not_of_this_pool_is_refused() -> None:
    for seed, count, dimension in ((b"short", 4, 4), (bytes(32), 0, 4), (bytes(32), 1 << 17, 4), (bytes(32), 4, 0)):
        with pytest.raises(ProtocolError, match="a pool needs"):
            SeedPool(seed, count, dimension)
    for index in (-1, 64):
        with pytest.raises(ProtocolError, match="directions 0 to 63"):
            POOL.direction(index)
    for scalars in (np.zeros(63), np.full(64, np.nan)):
        with pytest.raises(ProtocolError, match="64 finite scalars"):
            POOL.rebuild(scalars)
