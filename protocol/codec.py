"""A real vector to integers mod 2^b and back, so that sums of integers are sums of vectors (Kairouz et al.
2021).

Encoding, for a vector x of L2 norm <= c (clipped before), d values, scale s (integers per unit):

    rotate   y = R x, R orthogonal and random but public: no coordinate stays large
    scale    y <- s y
    round    each coordinate up or down at random, unbiased; again until the norm is within the bound Delta
    below

    Delta^2 = min( (s c)^2 + d/4 + sqrt(2 ln(1/beta)) (s c + sqrt(d)/2),   (s c + sqrt(d))^2 )       (their
    eq. 1, 3)

Conditioning on the norm biases the mean a little (they bound it; at our scales s c >> sqrt(d) it is far below
a unit). Decoding takes the *sum* mod 2^b: centre, divide by s, rotate back.

Rotation without padding: with p the largest power of two <= d, one Hadamard with random signs on the first p
values, then one on the last p. Both are orthogonal, so no bytes are spent on padding (up to 2x). The price: a
coordinate is sub-gaussian with variance |x|^2 / p instead of |x|^2 / d, at worst sqrt(2) less room in the
ring.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError
from protocol.masks import Residues, keystream, ring_mask, word

_MAXIMUM_ROUNDING_TRIES = 256  # each succeeds with probability >= 1 - beta = 0.39
_RADIX = 16  # of a pass of the Hadamard transform: 1,048,576 values in 8 ms; two at a time took 109


@dataclass(frozen=True)
class VectorCodec:
    """`dimension` d, `clip_norm` c, `scale` s (integers per unit), `ring_bits` b,
    `rounding_bound_probability` beta."""

    dimension: int
    clip_norm: float
    scale: float
    ring_bits: int
    rotation_seed: int
    rounding_bound_probability: float = math.exp(-0.5)

    def __post_init__(self) -> None:
        if self.dimension < 1 or not (self.clip_norm > 0 and self.scale > 0) or not 8 <= self.ring_bits <= 32:
            raise ProtocolError("a codec needs dimension >= 1, positive clip_norm and scale, ring_bits 8 to 32")
        if not 0.0 < self.rounding_bound_probability < 1.0:
            raise ProtocolError("rounding_bound_probability lies between 0 and 1")

    @property
    def rounded_sensitivity(self) -> float:
        """Delta: L2 norm in integers that no encoded vector exceeds (zero-out sensitivity)."""
        return rounded_norm_bound(self.dimension, self.clip_norm * self.scale, self.rounding_bound_probability)

    @property
    def rounded_l1_sensitivity(self) -> float:
        """L1 norm in integers that no encoded vector exceeds: |k|_1 <= min(sqrt(d) |k|_2, |k|_2^2) for
        integers."""
        bound = self.rounded_sensitivity
        return min(math.sqrt(self.dimension) * bound, bound * bound)

    def encode(self, vector: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Integers, shape (d,), L2 norm <= `rounded_sensitivity`, not yet reduced mod 2^b. Zero gives zero
        exactly.

        Raises ProtocolError if the vector is not within `clip_norm`: the noise would not cover it.
        """
        if vector.shape != (self.dimension,):
            raise ProtocolError(f"the vector has shape {vector.shape}, the codec expects ({self.dimension},)")
        if not float(np.linalg.norm(vector)) <= self.clip_norm * (1 + 1e-9):  # NaN fails too
            raise ProtocolError("the vector is longer than clip_norm; clip it first")
        exact = self.scale * rotate(vector, self.rotation_seed)
        floor = np.floor(exact)
        remainder = exact - floor
        bound = self.rounded_sensitivity
        for _ in range(_MAXIMUM_ROUNDING_TRIES):
            rounded = floor + (rng.random(self.dimension) < remainder)
            if float(np.linalg.norm(rounded)) <= bound:
                return rounded.astype(np.int64)
        raise ProtocolError("no rounding stayed within the norm bound; the random generator is broken")

    def decode(self, ring_sum: NDArray[np.unsignedinteger]) -> NDArray[np.float64]:
        """The sum of the encoded vectors from its residues mod 2^b, both of shape (d,)."""
        if ring_sum.shape != (self.dimension,):
            raise ProtocolError(f"the sum has shape {ring_sum.shape}, the codec expects ({self.dimension},)")
        return rotate_back(centre(ring_sum, self.ring_bits) / self.scale, self.rotation_seed)


def rounded_norm_bound(dimension: int, scaled_norm: float, beta: float) -> float:
    """Delta of the module docstring for s * c = `scaled_norm`."""
    root = math.sqrt(dimension)
    probable = scaled_norm**2 + dimension / 4 + math.sqrt(2 * math.log(1 / beta)) * (scaled_norm + root / 2)
    return math.sqrt(min(probable, (scaled_norm + root) ** 2))


def centre(ring_values: NDArray[np.unsignedinteger], ring_bits: int) -> NDArray[np.int64]:
    """Residues mod 2^b to the integers they stand for in [-2^(b-1), 2^(b-1))."""
    half = np.int64(1) << np.int64(ring_bits - 1)
    residues = ring_values.astype(np.int64) & np.int64(ring_mask(ring_bits))
    return (residues ^ half) - half


# ----- rotation -----


def rotate(vector: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """R x for the public `seed`; shape (d,) to (d,), L2 norm unchanged."""
    first, second = _signs(vector.shape[0], seed)
    block = first.shape[0]
    result = vector.astype(np.float64)
    result[:block] = _hadamard(first * result[:block])
    if block < result.shape[0]:
        result[-block:] = _hadamard(second * result[-block:])
    return result


def rotate_back(vector: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The inverse (= transpose) of `rotate`."""
    first, second = _signs(vector.shape[0], seed)
    block = first.shape[0]
    result = vector.astype(np.float64)
    if block < result.shape[0]:
        result[-block:] = second * _hadamard(result[-block:])
    result[:block] = first * _hadamard(result[:block])
    return result


def rotation_block(dimension: int) -> int:
    """p: the largest power of two <= d."""
    return 1 << (dimension.bit_length() - 1)


@lru_cache(maxsize=4)
def _signs(dimension: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two vectors of random signs, shape (p,), drawn alike by every machine and version."""
    block = rotation_block(dimension)
    stream = keystream(seed.to_bytes(32, "big"), "rotation", -(-2 * block // 8))
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8))[: 2 * block]
    signs = 1.0 - 2.0 * bits.astype(np.float64)
    signs.setflags(write=False)
    return signs[:block], signs[block:]


def _hadamard(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal Walsh-Hadamard transform, its own inverse; shape (p,), p a power of two.

    H_p is a Kronecker product of small H_r: each pass applies one to the leading digit of the index (base r) and turns
    that digit to the end, as one matrix product; after the last pass every digit is back in its place.
    """
    size, left, values = vector.shape[0], vector.shape[0], vector
    while left > 1:
        radix = min(_RADIX, left)
        values = (values.reshape(radix, -1).T @ _signs_matrix(radix)).reshape(-1)
        left //= radix
    return values / math.sqrt(size)


@lru_cache(maxsize=6)
def _signs_matrix(order: int) -> NDArray[np.float64]:
    """Sylvester's matrix of +1 and -1, shape (order, order), symmetric."""
    matrix = np.ones((1, 1))
    while matrix.shape[0] < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix.setflags(write=False)
    return matrix


# ----- bytes -----


def pack(values: NDArray[np.unsignedinteger], ring_bits: int) -> bytes:
    """ceil(b * length / 8) bytes, b bits per value, little-endian. Values must lie in [0, 2^b)."""
    room = np.iinfo(values.dtype).max
    if room > int(ring_mask(ring_bits)) and values.size and int(values.max()) > int(ring_mask(ring_bits)):
        raise ProtocolError("a value does not fit the ring")
    if ring_bits in (8, 16, 32):
        return values.astype(f"<u{ring_bits // 8}", copy=False).tobytes()
    octets = values.astype("<u4").view(np.uint8).reshape(-1, 4)
    bits = np.unpackbits(octets, axis=1, bitorder="little")[:, :ring_bits]
    return np.packbits(bits, bitorder="little").tobytes()


def unpack(data: bytes, length: int, ring_bits: int) -> Residues:
    """Inverse of `pack`, shape (length,), possibly read-only. Raises ProtocolError unless `data` has exactly the right
    size and form."""
    if len(data) != packed_size(length, ring_bits):
        raise ProtocolError(
            f"a packed vector of {length} values has {packed_size(length, ring_bits)} bytes, not {len(data)}"
        )
    if ring_bits in (8, 16, 32):
        return np.frombuffer(data, dtype=f"<u{ring_bits // 8}").astype(word(ring_bits), copy=False)
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
    if bits[length * ring_bits :].any():
        raise ProtocolError("a packed vector ends in stray bits")
    full = np.zeros((length, 32), dtype=np.uint8)
    full[:, :ring_bits] = bits[: length * ring_bits].reshape(length, ring_bits)
    return np.packbits(full, axis=1, bitorder="little").view("<u4").reshape(length).astype(word(ring_bits))


def packed_size(length: int, ring_bits: int) -> int:
    """Bytes of a packed vector."""
    return -(-length * ring_bits // 8)


# ----- room in the ring -----


def overflow_probability(
    dimension: int, scaled_norm: float, ring_bits: int, people: int, noise_variance: float
) -> float:
    """Upper bound on the probability that any coordinate of the noisy sum leaves [-2^(b-1), 2^(b-1)).

    `scaled_norm` = s * c; `noise_variance` is the *total* Skellam variance per coordinate (integers^2).
    Chernoff over the random signs (worst case: all people send the same vector) and the noise, union over
    coordinates; rounding moves a coordinate by at most 1 per person and is subtracted from the room. Holds
    for vectors chosen without knowledge of the rotation seed.
    """
    room = 2.0 ** (ring_bits - 1) - people
    if room <= 0.0:
        return 1.0
    signal_variance = (people * scaled_norm) ** 2 / rotation_block(dimension)

    def exponent(t: float) -> float:
        return t * t * signal_variance / 2 + noise_variance * (math.cosh(t) - 1) - t * room

    low, high = 0.0, 30.0
    for _ in range(200):  # the exponent is convex
        third = (high - low) / 3
        low, high = (low, high - third) if exponent(low + third) < exponent(high - third) else (low + third, high)
    return min(1.0, math.exp(min(0.0, math.log(2 * dimension) + exponent((low + high) / 2))))


def choose_scale(
    *,
    dimension: int,
    clip_norm: float,
    noise_multiplier: float,
    cohort_size: int,
    minimum_survivors: int,
    ring_bits: int = 16,
    maximum_overflow: float = 1e-9,
    rounding_bound_probability: float = math.exp(-0.5),
) -> float:
    """The largest scale for which a full cohort's noisy sum overflows with probability <= `maximum_overflow`.

    `dimension` and `clip_norm` are those of the codec, i.e. of the joint vector. Raises ProtocolError if the
    ring is so small that one unit of rounding would be as long as the clipped vector.
    """

    def overflow(scale: float) -> float:
        bound = rounded_norm_bound(dimension, scale * clip_norm, rounding_bound_probability)
        variance = (noise_multiplier * bound) ** 2 * cohort_size / minimum_survivors
        return overflow_probability(dimension, scale * clip_norm, ring_bits, cohort_size, variance)

    low, high = 1.0 / clip_norm, 2.0**ring_bits / clip_norm
    if overflow(low) > maximum_overflow:
        raise ProtocolError(f"{ring_bits} bits are too few for {cohort_size} people; choose more ring_bits")
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if overflow(middle) <= maximum_overflow else (low, middle)
    return low
