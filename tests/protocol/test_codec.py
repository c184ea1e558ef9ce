"""Integers stand for the vector: unbiased, bounded, exact in sums, and they fit the ring as promised."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import codec
from protocol.codec import VectorCodec, choose_scale, overflow_probability, rotate, rotate_back
from protocol.errors import ProtocolError
from protocol.masks import reduce_to_ring


def unit(rng, dimension, norm=1.0):
    vector = rng.normal(size=dimension)
    return vector * (norm / np.linalg.norm(vector))


@settings(max_examples=60, deadline=None)
@given(dimension=st.integers(1, 700), seed=st.integers(0, 2**63 - 1))
def test_rotation_is_orthogonal(dimension, seed):
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=dimension), rng.normal(size=dimension)
    turned = rotate(one, seed)
    np.testing.assert_allclose(rotate_back(turned, seed), one, atol=1e-9)
    assert turned @ rotate(two, seed) == pytest.approx(one @ two, abs=1e-8)
    # The transpose undoes it too: R^T R = 1 from both sides.
    assert two @ turned == pytest.approx(rotate_back(two, seed) @ one, abs=1e-8)


@pytest.mark.parametrize("dimension", [64, 65, 100, 127, 700, 3587])
def test_rotation_spreads_a_spike_over_all_coordinates(dimension):
    block = codec.rotation_block(dimension)
    for position in (0, dimension // 2, dimension - 1):
        spike = np.zeros(dimension)
        spike[position] = 1.0
        turned = rotate(spike, 3)
        # Sub-gaussian with variance 1 / p: six deviations for a thousand coordinates.
        assert np.abs(turned).max() <= 6 / math.sqrt(block)
    dense = np.arange(1.0, dimension + 1)
    assert not np.allclose(rotate(dense, 3), rotate(dense, 4))


def test_rotation_is_stable_across_machines_and_versions():
    turned = rotate(np.arange(1.0, 11.0), 12345)
    np.testing.assert_allclose(
        turned,
        [
            4.94974746831,
            -6.36396103068,
            -9.21751442127,
            0.353553390593,
            -1.78248557873,
            -3.35355339059,
            11.2175144213,
            -2.35355339059,
            -8.21751442127,
            -4.64644660941,
        ],
        atol=1e-9,
    )


@settings(max_examples=60, deadline=None)
@given(
    dimension=st.integers(1, 300),
    people=st.integers(1, 12),
    ring_bits=st.integers(12, 32),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_decode_to_sums(dimension, people, ring_bits, seed):
    rng = np.random.default_rng(seed)
    scale = choose_scale(
        dimension=dimension, clip_norm=2.0, noise_multiplier=0.0, cohort_size=people,
        minimum_survivors=people, ring_bits=ring_bits,
    )  # fmt: skip
    coder = VectorCodec(dimension, 2.0, scale, ring_bits, seed)
    vectors = [unit(rng, dimension, rng.uniform(0, 2.0)) for _ in range(people)]
    total = sum(coder.encode(vector, rng) for vector in vectors)
    decoded = coder.decode(reduce_to_ring(total, ring_bits))
    # Every coordinate of every person is off by less than one unit of rounding.
    assert np.linalg.norm(decoded - sum(vectors)) <= people * math.sqrt(dimension) / scale + 1e-9


@settings(max_examples=60, deadline=None)
@given(dimension=st.integers(1, 500), scale=st.floats(0.5, 5000.0), seed=st.integers(0, 2**32 - 1))
def test_encoded_norm_never_exceeds_the_sensitivities(dimension, scale, seed):
    rng = np.random.default_rng(seed)
    coder = VectorCodec(dimension, 1.0, scale, 32, seed)
    for vector in (unit(rng, dimension), np.eye(dimension)[0], np.full(dimension, dimension**-0.5)):
        integers = coder.encode(vector, rng)
        assert np.linalg.norm(integers) <= coder.rounded_sensitivity * (1 + 1e-12)
        assert np.abs(integers).sum() <= coder.rounded_l1_sensitivity * (1 + 1e-12)


def test_sensitivity_is_the_papers_bound():
    coder = VectorCodec(100, 2.0, 50.0, 16, 0)
    scaled = 100.0  # scale * clip
    probable = scaled**2 + 100 / 4 + math.sqrt(2 * 0.5) * (scaled + 10 / 2)
    assert coder.rounded_sensitivity == pytest.approx(math.sqrt(min(probable, (scaled + 10) ** 2)))
    assert coder.rounded_sensitivity >= scaled


def test_rounding_is_unbiased():
    rng = np.random.default_rng(1)
    coder = VectorCodec(16, 1.0, 40.0, 16, 9)
    vector = unit(rng, 16, 0.9)  # below the clip norm: the norm bound never rejects
    mean = np.mean([coder.encode(vector, rng) for _ in range(20_000)], axis=0)
    np.testing.assert_allclose(mean, 40.0 * rotate(vector, 9), atol=5 * 0.5 / math.sqrt(20_000))


def test_zero_stays_zero_and_long_or_broken_vectors_are_refused():
    rng = np.random.default_rng(0)
    coder = VectorCodec(10, 1.0, 100.0, 16, 1)
    assert not coder.encode(np.zeros(10), rng).any()
    for wrong in (np.full(10, 1.0), np.full(10, np.nan), np.full(10, np.inf), np.zeros(9)):
        with pytest.raises(ProtocolError):
            coder.encode(wrong, rng)
    with pytest.raises(ProtocolError):
        coder.decode(np.zeros(9, dtype=np.uint32))
    with pytest.raises(ProtocolError):
        VectorCodec(0, 1.0, 1.0, 16, 0)


def test_centre_of_the_ring():
    values = np.array([0, 1, 32_767, 32_768, 65_535], dtype=np.uint32)
    assert codec.centre(values, 16).tolist() == [0, 1, 32_767, -32_768, -1]
    assert codec.centre(np.array([2**32 - 1, 2**31], dtype=np.uint32), 32).tolist() == [-1, -(2**31)]


@settings(max_examples=80, deadline=None)
@given(ring_bits=st.integers(8, 32), length=st.integers(0, 50), seed=st.integers(0, 2**32 - 1))
def test_packing_round_trip(ring_bits, length, seed):
    values = np.random.default_rng(seed).integers(0, 1 << ring_bits, length).astype(np.uint32)
    data = codec.pack(values, ring_bits)
    assert len(data) == codec.packed_size(length, ring_bits) == math.ceil(length * ring_bits / 8)
    np.testing.assert_array_equal(codec.unpack(data, length, ring_bits), values)
    for wrong in (data + b"\0", data[:-1]):
        if len(wrong) != len(data):
            with pytest.raises(ProtocolError):
                codec.unpack(wrong, length, ring_bits)


def test_packing_refuses_what_does_not_fit():
    assert codec.pack(np.array([1, 0x0203], dtype=np.uint32), 16) == b"\x01\x00\x03\x02"
    with pytest.raises(ProtocolError, match="does not fit"):
        codec.pack(np.array([1 << 12], dtype=np.uint32), 12)
    with pytest.raises(ProtocolError, match="stray bits"):
        codec.unpack(b"\xff\xff", 1, 9)


@pytest.mark.parametrize(("dimension", "people", "noise"), [(700, 26, 1.0), (3587, 500, 1.0), (67, 24, 0.0)])
def test_scale_is_the_largest_that_fits(dimension, people, noise):
    arguments = {
        "dimension": dimension, "clip_norm": 0.7, "noise_multiplier": noise, "cohort_size": people,
        "minimum_survivors": max(2, 2 * people // 3),
    }  # fmt: skip
    scale = choose_scale(**arguments)

    def overflow(factor):
        bound = codec.rounded_norm_bound(dimension, factor * scale * 0.7, math.exp(-0.5))
        variance = (noise * bound) ** 2 * people / arguments["minimum_survivors"]
        return overflow_probability(dimension, factor * scale * 0.7, 16, people, variance)

    assert overflow(1.0) <= 1e-9 < overflow(1.02)
    # Worst case, everybody sends the same vector: the real sum stays well within the ring.
    rng = np.random.default_rng(people)
    coder = VectorCodec(dimension, 0.7, scale, 16, 77)
    exact = people * scale * rotate(unit(rng, dimension, 0.7), 77)
    spread = noise * coder.rounded_sensitivity * math.sqrt(people / arguments["minimum_survivors"])
    assert np.abs(exact + rng.normal(size=dimension) * spread).max() < 2**15


def test_overflow_bound_holds_where_overflow_can_be_counted():
    """A scale far too large: the measured frequency stays below the bound, and the bound below 1."""
    rng, dimension, people = np.random.default_rng(4), 64, 4
    scaled = 2**7 * 8 / people / 3.2  # room = 3.2 deviations of the signal
    bound = overflow_probability(dimension, scaled, 8, people, 0.0)
    hits = 0
    vector = unit(rng, dimension, scaled)
    for seed in range(2000):
        hits += bool(np.abs(people * rotate(vector, seed)).max() >= 2**7)
    assert 0 < hits / 2000 <= bound


def test_too_small_a_ring_says_so():
    with pytest.raises(ProtocolError, match="more ring_bits"):
        choose_scale(
            dimension=100,
            clip_norm=1.0,
            noise_multiplier=1.0,
            cohort_size=500,
            minimum_survivors=300,
            ring_bits=8,
        )
