"""Shamir's secret sharing of 32-byte secrets (Shamir 1979): any `threshold` shares give the secret, fewer
nothing.

The secret is f(0) of a random polynomial f of degree threshold - 1 over GF(p), p = 2^256 + 297, the smallest
prime that holds every 32-byte secret. A share is f(point), 33 bytes. Python's integers are not constant-time:
a share is computed once per round from fresh randomness, on the owner's device.
"""

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

from protocol.errors import ProtocolError

PRIME = 2**256 + 297
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, threshold: int, points: Sequence[int]) -> dict[int, bytes]:
    """Shares of `secret` (32 bytes) by point. Points are distinct positive integers, at least `threshold` of
    them."""
    if len(secret) != SECRET_BYTES:
        raise ProtocolError(f"a shared secret has {SECRET_BYTES} bytes")
    if not 1 <= threshold <= len(points) or len(set(points)) != len(points) or min(points) < 1:
        raise ProtocolError("sharing needs distinct positive points, at least as many as the threshold")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]  # highest power first
    constant = int.from_bytes(secret, "big")
    shares = {}
    for point in points:
        value = 0
        for coefficient in coefficients:  # Horner
            value = (value * point + coefficient) % PRIME
        shares[point] = ((value * point + constant) % PRIME).to_bytes(SHARE_BYTES, "big")
    return shares


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from at least `threshold` shares by point; uses the `threshold` smallest points.

    Wrong shares give a wrong secret or ProtocolError: callers check the secret against a commitment.
    """
    if threshold < 1 or len(shares) < threshold:
        raise ProtocolError(f"{len(shares)} shares, {threshold} are needed")
    points = tuple(sorted(shares)[:threshold])
    if points[0] < 1 or any(len(shares[point]) != SHARE_BYTES for point in points):
        raise ProtocolError("a share is malformed")
    weights = _weights_at_zero(points)
    secret = sum(weight * int.from_bytes(shares[point], "big") for weight, point in zip(weights, points, strict=True))
    secret %= PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ProtocolError("the shares do not belong together")
    return secret.to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=4096)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange weights w_i = prod_j x_j / (x_i prod_{j != i} (x_j - x_i)) mod p, with one inversion for all of them."""
    # Points are small, so their products are short integers: one reduction for each is enough.
    product = prod(points) % PRIME
    denominators = [own * prod([other - own for other in points if other != own]) % PRIME for own in points]
    prefix = [1]
    for denominator in denominators:
        prefix.append(prefix[-1] * denominator % PRIME)
    inverse = pow(prefix[-1], -1, PRIME)
    weights = [0] * len(points)
    for position in range(len(points) - 1, -1, -1):
        weights[position] = product * inverse * prefix[position] % PRIME
        inverse = inverse * denominators[position] % PRIME
    return tuple(weights)
