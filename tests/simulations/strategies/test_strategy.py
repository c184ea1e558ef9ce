from __future__ import annotations

import numpy as np
import pytest

from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from simulations.strategies.strategy import pack, size_of, unpack
from tests.simulations.strategies.strategy_help import products, tiny_maps


def test_packing_is_undone_by_unpacking() -> None:
    maps, draw = tiny_maps(), np.random.default_rng(0)
    matrices = [draw.normal(size=shape).astype(np.float32) for shape in [*maps.a_shapes, *maps.b_shapes]]
    vector = pack(matrices)
    assert len(vector) == size_of(maps.a_shapes) + size_of(maps.b_shapes)
    restored = unpack(vector, [*maps.a_shapes, *maps.b_shapes])
    assert all(np.array_equal(one, other) for one, other in zip(matrices, restored, strict=True))
    with pytest.raises(PenchantError, match="another model"):
        unpack(vector[:-1], [*maps.a_shapes, *maps.b_shapes])


def test_everybody_starts_from_the_same_adapter_that_changes_nothing() -> None:
    maps = tiny_maps()
    first, second = maps.random_a(), maps.random_a()
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert np.mean([np.linalg.norm(a, axis=1).mean() for a in first]) == pytest.approx(1.0, abs=0.1)
    adapter = maps.factors(first, maps.zero_b())
    assert not any(product.any() for product in products(adapter).values())
    assert all(np.array_equal(a, b) for a, b in zip(maps.split(adapter)[0], first, strict=True))


def test_a_release_belongs_to_its_space() -> None:
    maps = tiny_maps()
    numbers = np.arange(5.0)
    data = maps.release(numbers)
    assert np.array_equal(Coordinates.from_bytes(data, frame_sha256=maps.digest, dimension=5).rows[0], numbers)
    with pytest.raises(PenchantError, match="another frame"):
        Coordinates.from_bytes(data, frame_sha256=tiny_maps(rank=2).digest, dimension=5)
