"""Any threshold shares give the secret, fewer are consistent with every secret."""

import contextlib
import random
import secrets
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.shamir import PRIME, SHARE_BYTES, combine, split


@settings(max_examples=50, deadline=None)
@given(secret=st.binary(min_size=32, max_size=32), data=st.data())
def test_any_threshold_of_shares_gives_the_secret(secret, data):
    points = data.draw(st.lists(st.integers(1, 70_000), min_size=1, max_size=20, unique=True))
    threshold = data.draw(st.integers(1, len(points)))
    shares = split(secret, threshold, points)
    chosen = data.draw(st.permutations(points))[: data.draw(st.integers(threshold, len(points)))]
    assert combine({point: shares[point] for point in chosen}, threshold) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x01"])
def test_extreme_secrets(secret):
    shares = split(secret, 3, [5, 1, 9, 65_536])
    assert combine({point: shares[point] for point in (9, 65_536, 1)}, 3) == secret
    assert all(len(share) == SHARE_BYTES for share in shares.values())


def test_fewer_shares_fit_every_secret():
    """With threshold - 1 shares, any other secret is explained by exactly one further share."""
    secret, other = secrets.token_bytes(32), secrets.token_bytes(32)
    shares = split(secret, 3, [1, 2, 3])
    first, second = (int.from_bytes(shares[point], "big") for point in (1, 2))
    # The quadratic through (0, other), (1, first), (2, second), at 3: f(3) = f(0) - 3 f(1) + 3 f(2).
    third = (int.from_bytes(other, "big") - 3 * first + 3 * second) % PRIME
    assert combine({1: shares[1], 2: shares[2], 3: third.to_bytes(SHARE_BYTES, "big")}, 3) == other


def test_shares_are_fresh_and_spread_over_the_field():
    secret = bytes(32)
    values = {split(secret, 2, [1, 2])[1] for _ in range(50)}
    assert len(values) == 50
    assert max(int.from_bytes(value, "big") for value in values) > PRIME // 2


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [
        (bytes(31), 1, [1]),
        (bytes(32), 0, [1]),
        (bytes(32), 3, [1, 2]),
        (bytes(32), 2, [1, 1]),
        (bytes(32), 1, [0]),
    ],
)
def test_impossible_sharings_are_refused(secret, threshold, points):
    with pytest.raises(ProtocolError):
        split(secret, threshold, points)


def test_malformed_or_missing_shares_are_refused():
    shares = split(bytes(32), 2, [1, 2, 3])
    with pytest.raises(ProtocolError, match="2 are needed"):
        combine({1: shares[1]}, 2)
    with pytest.raises(ProtocolError, match="malformed"):
        combine({1: shares[1], 2: shares[2][:-1]}, 2)
    with pytest.raises(ProtocolError, match="malformed"):
        combine({0: shares[1], 2: shares[2]}, 2)


def test_a_wrong_share_changes_the_secret():
    shares = split(b"k" * 32, 2, [1, 2])
    changed = (int.from_bytes(shares[2], "big") + 1) % PRIME
    with contextlib.suppress(ProtocolError):  # the result may not even fit 32 bytes
        assert combine({1: shares[1], 2: changed.to_bytes(SHARE_BYTES, "big")}, 2) != b"k" * 32


def test_25_neighbours_take_milliseconds():
    points = list(range(1, 26))
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        split(secrets.token_bytes(32), 11, points)
        shares = split(secrets.token_bytes(32), 11, points)
        combine(dict(random.sample(sorted(shares.items()), 11)), 11)
        best = min(best, time.perf_counter() - started)
    assert best < 0.005
