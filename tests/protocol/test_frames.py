from __future__ import annotations

import dataclasses

import cbor2
import numpy as np
import pytest

from protocol.errors import ProtocolError
from protocol.frames import MAX_FRAME_BYTES, Frame, carry

BASE = "a" * 64


def some_frame(rank: int = 3, scale: float = 2.0, seed: int = 0) -> Frame:
    random = np.random.default_rng(seed)
    shapes = {"blk.2.attn_v": (6, 10), "blk.2.ffn_down": (10, 14), "blk.3.attn_v": (6, 10)}
    left = tuple(np.linalg.qr(random.normal(size=(out, rank)))[0].astype(np.float32) for out, _ in shapes.values())
    right = tuple(
        np.linalg.qr(random.normal(size=(inner, rank)))[0].T.astype(np.float32) for _, inner in shapes.values()
    )
    return Frame(BASE, rank, scale, tuple(shapes), left, right)


def deltas(frame: Frame, theta: np.ndarray) -> list[np.ndarray]:
    """delta W of each module from the LoRA factors as llama.cpp applies them at alpha = rank."""
    return [b.astype(np.float64) @ a for a, b in frame.lora_factors(theta).values()]


def test_dimension_and_order_of_the_coordinates() -> None:
    frame = some_frame()
    assert frame.dimension == 3 * 9
    theta = np.arange(27.0)
    assert np.array_equal(frame.coordinates(theta)[1], [[9, 10, 11], [12, 13, 14], [15, 16, 17]])  # row-major
    with pytest.raises(ProtocolError, match="27 numbers"):
        frame.coordinates(np.zeros(26))


def test_lora_factors_multiply_to_scale_u_r_v() -> None:
    frame, theta = some_frame(), np.random.default_rng(1).normal(size=27)
    factors = frame.lora_factors(theta)
    assert tuple(factors) == frame.modules
    for position, (a, b) in enumerate(factors.values()):
        assert a.shape[0] == b.shape[1] == 3 and a.dtype == b.dtype == np.float32
        wanted = 2.0 * frame.left[position] @ frame.coordinates(theta)[position] @ frame.right[position]
        assert np.allclose(b @ a, wanted, atol=1e-5)


def test_sums_of_adapters_are_exact() -> None:
    # The point of the frame: in plain LoRA the product of averaged factors has cross terms.
    frame, random = some_frame(), np.random.default_rng(2)
    people = random.normal(size=(5, 27))
    weights = random.normal(size=5)
    mixed = deltas(frame, weights @ people)
    summed = [
        sum(w * d for w, d in zip(weights, parts, strict=True))
        for parts in zip(*map(lambda p: deltas(frame, p), people), strict=True)
    ]
    for one, other in zip(mixed, summed, strict=True):
        assert np.allclose(one, other, atol=1e-5)


def test_round_trip_keeps_the_digest() -> None:
    frame = some_frame()
    read = Frame.from_bytes(frame.to_bytes())
    assert read.digest == frame.digest and read.to_bytes() == frame.to_bytes()
    assert (read.base_sha256, read.rank, read.scale, read.modules) == (BASE, 3, 2.0, frame.modules)
    for one, other in zip(frame.left + frame.right, read.left + read.right, strict=True):
        assert other.dtype == np.float32 and np.abs(one - other).max() < 5e-4  # float16 on the wire


def test_everything_is_in_the_digest() -> None:
    frame = some_frame()
    left = (frame.left[0] + np.float32(0.01), *frame.left[1:])
    right = (*frame.right[:2], -frame.right[2])
    others = [
        some_frame(scale=1.0),
        some_frame(seed=1),
        dataclasses.replace(frame, base_sha256="b" * 64),
        dataclasses.replace(frame, modules=(*frame.modules[:2], "blk.3.attn_k")),
        dataclasses.replace(frame, left=left),
        dataclasses.replace(frame, right=right),
    ]
    assert len({other.digest for other in others} | {frame.digest}) == len(others) + 1


def test_frames_that_are_none_are_refused() -> None:
    frame = some_frame()
    bad = (np.full_like(frame.left[0], np.nan), *frame.left[1:])
    for changes in (
        {"modules": (), "left": (), "right": ()},
        {"modules": frame.modules[:2]},
        {"rank": 2},
        {"left": tuple(u.T for u in frame.left)},
        {"left": bad},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"modules": (frame.modules[0],) * 3},
        {"modules": (1, 2, 3)},
    ):
        with pytest.raises(ProtocolError):
            dataclasses.replace(frame, **changes)  # type: ignore[arg-type]


def test_garbage_is_refused_in_one_line() -> None:
    body = cbor2.loads(some_frame().to_bytes())

    def changed(**fields: object) -> bytes:
        return cbor2.dumps({**body, **fields}, canonical=True)

    garbage = [
        b"",
        b"\xff\x00 not a frame",
        cbor2.dumps([1, 2]),
        cbor2.dumps({"format": "penchant-frame-0"}),
        some_frame().to_bytes()[:-5],
        changed(format="other"),
        changed(rank=4),
        changed(rank=0),
        changed(rank="three"),
        changed(scale=float("nan")),
        changed(modules=["blk.2.attn_v"]),
        changed(modules=[1, 2, 3]),
        changed(shapes=[[1, 1]] * 3),
        changed(left=[b"\x00"] * 3),
        changed(right=body["right"][:2]),
        changed(left=[b"\x00\x7e" * (len(raw) // 2) for raw in body["left"]]),  # NaN in float16
        bytes(MAX_FRAME_BYTES + 1),
    ]
    for data in garbage:
        with pytest.raises(ProtocolError) as caught:
            Frame.from_bytes(data)
        assert "\n" not in str(caught.value)


def first_columns(frame: Frame, rank: int, modules: int, scale: float) -> Frame:
    """The frame of lower rank and fewer modules that the same gradient gives."""
    left = tuple(u[:, :rank] for u in frame.left[-modules:])
    right = tuple(v[:rank] for v in frame.right[-modules:])
    return Frame(frame.base_sha256, rank, scale, frame.modules[-modules:], left, right)


def rounded(frame: Frame) -> Frame:
    """As a device reads it: factors in float16, so that columns are orthonormal to three digits only."""
    return Frame.from_bytes(frame.to_bytes())


@pytest.mark.parametrize("source_scale, target_scale", [(2.0, 2.0), (0.5, 3.0)])
def test_an_adapter_is_carried_exactly_into_a_frame_that_contains_its_own(
    source_scale: float, target_scale: float
) -> None:
    wide = rounded(some_frame(rank=5, scale=target_scale))
    small = first_columns(wide, 2, 2, source_scale)
    theta = np.random.default_rng(4).normal(size=small.dimension)
    carried, kept = carry(theta, small, wide)
    assert kept == pytest.approx(1.0, abs=1e-12)
    # What the two adapters do to the weights, module by module; the wide one leaves its other module alone.
    there = dict(zip(wide.modules, deltas(wide, carried), strict=True))
    for name, delta in zip(small.modules, deltas(small, theta), strict=True):
        assert np.abs(delta).max() > 0.1 and np.allclose(there[name], delta, atol=1e-5)
    assert not there[wide.modules[0]].any()
    # Sums and mixtures commute with it, and the way back is exact too.
    assert np.allclose(carry(-2.0 * theta, small, wide)[0], -2.0 * carried)
    assert np.allclose(carry(carried, wide, small)[0], theta, atol=1e-9)


def test_what_does_not_fit_is_projected_and_the_loss_is_told() -> None:
    wide = some_frame(rank=5)
    small = first_columns(wide, 3, 3, 2.0)
    theta = np.random.default_rng(5).normal(size=wide.dimension)
    carried, kept = carry(theta, wide, small)
    # Orthonormal frames: the projection keeps the upper left block of every R.
    blocks = wide.coordinates(theta)[:, :3, :3]
    assert np.allclose(small.coordinates(carried), blocks, atol=1e-5)
    assert kept == pytest.approx(np.linalg.norm(blocks) / np.linalg.norm(theta), rel=1e-5)
    foreign = some_frame(rank=3, seed=9)
    _, by_chance = carry(theta, wide, foreign)
    assert 0 < by_chance < 0.8
    # Modules that the target lacks are lost, and count as lost.
    fewer = first_columns(wide, 5, 1, 2.0)
    _, rest = carry(theta, wide, fewer)
    assert rest == pytest.approx(np.linalg.norm(wide.coordinates(theta)[2]) / np.linalg.norm(theta), rel=1e-5)
    assert carry(np.zeros(wide.dimension), wide, foreign)[1] == 1.0


def test_nothing_is_carried_between_models() -> None:
    frame, theta = some_frame(), np.ones(27)
    with pytest.raises(ProtocolError, match="different base"):
        carry(theta, frame, dataclasses.replace(frame, base_sha256="b" * 64))
    with pytest.raises(ProtocolError, match="shape"):
        carry(theta, frame, dataclasses.replace(frame, right=tuple(v[:, :-1] for v in frame.right)))
    with pytest.raises(ProtocolError, match="27 numbers"):
        carry(np.ones(4), frame, frame)
