from __future__ import annotations

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from protocol.coordinates import Coordinates
from protocol.errors import ProtocolError

FRAME = "f" * 64


def read(data: bytes, frame: str = FRAME, dimension: int = 4) -> Coordinates:
    return Coordinates.from_bytes(data, frame_sha256=frame, dimension=dimension)


@given(some.integers(1, 5), some.integers(1, 20), some.integers(0, 2**32 - 1))
def test_round_trip(count: int, dimension: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(count, dimension))
    data = Coordinates(FRAME, rows).to_bytes()
    again = read(data, dimension=dimension)
    assert again.rows.dtype == np.float64 and again.rows.shape == rows.shape
    assert np.array_equal(again.rows, rows.astype(np.float32))  # float32 on the wire, nothing else lost
    assert again.to_bytes() == data and again.frame_sha256 == FRAME


def test_zeros_change_nothing() -> None:
    none = Coordinates.zeros(FRAME, 2, 4)
    assert none.rows.shape == (2, 4) and not read(none.to_bytes()).rows.any()


def test_another_frame_or_length_is_refused() -> None:
    data = Coordinates(FRAME, np.ones((1, 4))).to_bytes()
    with pytest.raises(ProtocolError, match="another frame"):
        read(data, frame="e" * 64)
    with pytest.raises(ProtocolError, match="another frame"):
        read(data, dimension=5)


def test_garbage_is_refused_in_one_line() -> None:
    body = cbor2.loads(Coordinates(FRAME, np.ones((2, 4))).to_bytes())

    def changed(**fields: object) -> bytes:
        return cbor2.dumps({**body, **fields}, canonical=True)

    infinite = np.array([np.inf] * 8, dtype="<f4").tobytes()
    for data in (
        b"",
        b"\xff",
        cbor2.dumps("text"),
        changed(format="penchant-coordinates-0"),
        changed(shape=[2]),
        changed(shape=[3, 4]),
        changed(shape=[0, 4], rows=b""),
        changed(shape=["2", "x"]),
        changed(rows=body["rows"][:-1]),
        changed(rows=infinite),
    ):
        with pytest.raises(ProtocolError) as caught:
            read(data)
        assert "\n" not in str(caught.value)


def test_rows_that_are_no_adapters_are_refused() -> None:
    for rows in (np.ones(4), np.array([[1.0, np.nan]]), np.zeros((0, 4))):
        with pytest.raises(ProtocolError, match="one row per adapter"):
            Coordinates(FRAME, rows)
