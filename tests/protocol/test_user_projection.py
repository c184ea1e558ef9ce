"""The shared projection: its token, its pull-back, its bytes."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.user_projection import ProjectionFrame, UserProjection, pool

MODEL, TEXT, OUT, IN = 12, 9, 4, 3


def some_frame(seed: int = 0) -> ProjectionFrame:
    random = np.random.default_rng(seed)
    anchor = random.normal(size=MODEL)
    return ProjectionFrame(
        base_sha256="a" * 64,
        embedder_sha256="b" * 64,
        temperature=0.1,
        norm=3.2,
        anchor=(anchor / np.linalg.norm(anchor)).astype(np.float32),
        centre=(0.1 * random.normal(size=TEXT)).astype(np.float32),
        inputs=np.linalg.qr(random.normal(size=(TEXT, IN)))[0].T.astype(np.float32),
        outputs=np.linalg.qr(random.normal(size=(MODEL, OUT)))[0].astype(np.float32),
    )


def some_theta(seed: int = 1) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).normal(size=some_frame().dimension)


def history(count: int, seed: int = 2) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, TEXT))
    unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_without_anything_learnt_the_token_is_the_anchor_whoever_it_is_for() -> None:
    frame = some_frame()
    for rows in (history(5), history(0)):
        token = frame.token(np.zeros(frame.dimension), frame.person(rows))
        assert token == pytest.approx(frame.norm * frame.anchor, rel=1e-6)


def test_every_token_has_the_norm_of_a_token() -> None:
    frame = some_frame()
    token = frame.token(5 * some_theta(), frame.person(history(5)))
    assert np.linalg.norm(token) == pytest.approx(frame.norm)


def test_strength_0_and_no_history_give_the_fleets_token() -> None:
    frame, theta = some_frame(), some_theta()
    person = frame.person(history(5))
    shared = frame.token(theta, np.zeros(IN))
    assert np.array_equal(frame.token(theta, person, strength=0.0), shared)
    assert np.array_equal(frame.token(theta, frame.person(history(0))), shared)
    assert np.abs(frame.token(theta, person) - shared).max() > 0.05
    _, bias = frame.parts(theta)
    by_hand = frame.anchor + frame.outputs @ bias
    assert shared == pytest.approx(frame.norm * by_hand / np.linalg.norm(by_hand))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_pull_back_is_the_gradient_of_whatever_is_read_off_the_token(seed: int) -> None:
    frame, theta = some_frame(seed), some_theta(seed + 1)
    person = frame.person(history(4, seed + 2))
    direction = np.random.default_rng(seed + 3).normal(size=MODEL)
    gradient = frame.pull_back(theta, person, direction)
    step = 1e-5
    for place in range(frame.dimension):
        move = np.zeros(frame.dimension)
        move[place] = step
        change = frame.token(theta + move, person) - frame.token(theta - move, person)
        assert direction @ change / (2 * step) == pytest.approx(gradient[place], abs=1e-6)


def test_the_matrix_moves_by_at_most_what_the_shared_token_moves() -> None:
    """Neither part of theta drowns the other under one clip norm."""
    frame, theta = some_frame(), some_theta()
    gradient = frame.pull_back(theta, frame.person(history(6)), np.ones(MODEL))
    assert np.linalg.norm(gradient[:-OUT]) == pytest.approx(np.linalg.norm(gradient[-OUT:]))
    gradient = frame.pull_back(theta, np.zeros(IN), np.ones(MODEL))
    assert not gradient[:-OUT].any() and gradient[-OUT:].any()


def test_pooling_leans_to_what_is_close_to_the_request_and_evenly_without_one() -> None:
    rows = history(6)
    assert pool(rows, None, 0.1) == pytest.approx(rows.mean(0, dtype=np.float64))
    assert pool(rows, rows[2], 1e6) == pytest.approx(rows.mean(0, dtype=np.float64), abs=1e-5)
    assert pool(rows, rows[2], 1e-3) == pytest.approx(rows[2], abs=1e-6)
    between = pool(rows, rows[2], 0.1) @ rows[2]
    assert pool(rows, None, 0.1) @ rows[2] < between < 1.0
    shuffled = np.random.default_rng(0).permutation(rows)
    assert pool(shuffled, rows[2], 0.1) == pytest.approx(pool(rows, rows[2], 0.1))


def test_bytes_bring_back_the_same_projection_with_the_same_digest() -> None:
    frame = some_frame()
    again = ProjectionFrame.from_bytes(frame.to_bytes())
    assert again.digest == frame.digest
    person = frame.person(history(3), history(1)[0])
    assert np.array_equal(again.token(some_theta(), person), frame.token(some_theta(), person))
    for change in ({"temperature": 0.2}, {"norm": 1.0}, {"base_sha256": "c" * 64}, {"embedder_sha256": "c" * 64}):
        assert replace(frame, **change).digest != frame.digest


def test_a_release_brings_back_the_projection_and_refuses_numbers_for_another() -> None:
    projection = UserProjection(some_frame(), some_theta().astype(np.float32).astype(np.float64))
    again = UserProjection.from_bytes(projection.to_bytes())
    assert again.digest == projection.digest and np.array_equal(again.theta, projection.theta)
    body = cbor2.loads(projection.to_bytes())
    for data in (
        b"\xa0",
        projection.to_bytes()[:-1],
        cbor2.dumps({**body, "frame": some_frame(9).to_bytes()}),
        cbor2.dumps({**body, "theta": b""}),
    ):
        with pytest.raises(ProtocolError):
            UserProjection.from_bytes(data)


def test_damaged_bytes_are_refused_in_one_line() -> None:
    body = cbor2.loads(some_frame().to_bytes())
    bad = [
        b"",
        b"\xa0",
        some_frame().to_bytes()[:-3],
        cbor2.dumps({**body, "format": "another"}),
        cbor2.dumps({**body, "ranks": [IN, OUT + 1]}),
        cbor2.dumps({**body, "ranks": [0, 0]}),
        cbor2.dumps({**body, "norm": 0.0}),
        cbor2.dumps({**body, "temperature": float("inf")}),
        cbor2.dumps({**body, "outputs": np.full(MODEL * OUT, np.nan, "<f4").tobytes()}),
        cbor2.dumps({**body, "anchor": bytes(4 * MODEL)}),
    ]
    for data in bad:
        with pytest.raises(ProtocolError):
            ProjectionFrame.from_bytes(data)


def test_what_does_not_fit_is_refused() -> None:
    frame = some_frame()
    with pytest.raises(ProtocolError, match="numbers"):
        UserProjection(frame, np.zeros(frame.dimension + 1))
    with pytest.raises(ProtocolError, match="finite"):
        UserProjection(frame, np.full(frame.dimension, np.inf))
    with pytest.raises(ProtocolError, match="vectors"):
        frame.person(np.zeros((2, TEXT + 1), np.float32))
    with pytest.raises(ProtocolError):
        replace(frame, centre=np.zeros(TEXT + 1, np.float32))
