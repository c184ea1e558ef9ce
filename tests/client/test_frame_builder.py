from __future__ import annotations

import inspect
import json
from importlib import resources

import numpy as np
import pytest
import torch
from torch import nn

from client.frame_builder import build_frame, leading_vectors, mean_gradients, public_text, refresh_frame
from client.torch_model import as_theta
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector, carry
from tests.client.framed_help import (
    BASE_SHA256,
    KINDS,
    RANK,
    SCALE,
    hugging_face_name,
    plain_model,
    some_texts,
    some_theta,
    tiny_frame,
    tiny_model,
)


def test_the_factors_are_orthonormal_and_signed() -> None:
    frame = tiny_frame()
    assert len(frame.modules) == 6 and frame.dimension == 6 * RANK * RANK
    assert [name.split(".")[1] for name in frame.modules] == ["2"] * 3 + ["3"] * 3  # lowest layer first
    for u, v in zip(frame.left, frame.right, strict=True):
        assert np.allclose(u.T @ u, np.eye(RANK), atol=2e-3)  # float16
        assert np.allclose(v @ v.T, np.eye(RANK), atol=2e-3)
        assert (u[np.abs(u).argmax(0), np.arange(RANK)] > 0).all()


def test_the_frame_is_the_svd_of_the_mean_gradient_over_the_whole_vocabulary() -> None:
    plain, frame = plain_model(), tiny_frame()
    losses = []
    for ids, prompt in some_texts():
        logits = plain(torch.tensor([ids])).logits[0, prompt - 1 : -1]
        losses.append(nn.functional.cross_entropy(logits, torch.tensor(ids[prompt:]), reduction="sum"))
    (torch.stack(losses).sum() / sum(len(ids) - prompt for ids, prompt in some_texts())).backward()
    weights = dict(plain.named_parameters())
    for name, u, v in zip(frame.modules, frame.left, frame.right, strict=True):
        gradient = weights[hugging_face_name(name) + ".weight"].grad
        assert gradient is not None
        values = np.linalg.svd(gradient.numpy(), compute_uv=False)
        # U^T G V^T is the diagonal of the largest singular values: right vectors, right order, right pairing.
        assert np.allclose(u.T @ gradient.numpy() @ v.T, np.diag(values[:RANK]), atol=5e-3 * values[0])


def test_the_same_texts_give_the_same_digest() -> None:
    model = tiny_model()
    model.set_frame(tiny_frame())  # an adapter in use must not leak into the next frame
    model.set_coordinates(tiny_frame(), as_theta(some_theta()))
    again = build_frame(model, BASE_SHA256, some_texts(), kinds=KINDS, rank=RANK, scale=SCALE)
    once_more = build_frame(model, BASE_SHA256, some_texts(), kinds=KINDS, rank=RANK, scale=SCALE)
    assert again.digest == once_more.digest
    other = build_frame(model, BASE_SHA256, some_texts(3), kinds=KINDS, rank=RANK, scale=SCALE)
    assert other.digest != again.digest


def test_the_builder_holds_the_numbers_that_devices_read() -> None:
    frame = tiny_frame()
    read = Frame.from_bytes(frame.to_bytes())
    assert all(np.array_equal(a, b) for a, b in zip(frame.left, read.left, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(frame.right, read.right, strict=True))


def test_the_model_is_left_frozen() -> None:
    model = tiny_model()
    seen: list[float] = []
    build_frame(model, BASE_SHA256, some_texts(13), kinds=["attn_v"], rank=1, on_progress=seen.append)
    assert seen == [0.5, 1.0]
    for name in model.module_names(["attn_v"]):
        assert not model.linear(name).weight.requires_grad and model.linear(name).weight.grad is None
    with pytest.raises(PenchantError, match="attn_vv"):
        build_frame(model, BASE_SHA256, some_texts(), kinds=["attn_vv"], rank=1)


def test_public_text_is_the_file_that_ships_and_nothing_else() -> None:
    pairs = public_text()
    shipped = json.loads(resources.files("client").joinpath("public_text.json").read_text(encoding="utf-8"))
    assert [list(pair) for pair in pairs] == [[entry["request"], entry["reply"]] for entry in shipped]
    assert len(set(pairs)) == len(pairs) >= 12 and all(request and reply for request, reply in pairs)


def released_adapter(strong: float = 0.6, noise: float = 0.01) -> Vector:
    """One strong direction in each R, and noise of a known deviation on every number."""
    random = np.random.default_rng(3)
    frame = tiny_frame()
    theta = noise * random.normal(size=(len(frame.modules), RANK, RANK))
    for r in theta:
        a, b = (vector / np.linalg.norm(vector) for vector in random.normal(size=(2, RANK)))
        r += strong * np.outer(a, b)
    return theta.ravel()


def test_a_refreshed_frame_holds_what_was_released_above_the_noise() -> None:
    frame, released = tiny_frame(), released_adapter()
    fresh = refresh_frame(tiny_model(), frame, released, some_texts(), noise_deviation=0.01)
    assert (fresh.modules, fresh.rank, fresh.scale) == (frame.modules, frame.rank, frame.scale)
    for u, v in zip(fresh.left, fresh.right, strict=True):
        assert np.allclose(u.T @ u, np.eye(RANK), atol=2e-3) and np.allclose(v @ v.T, np.eye(RANK), atol=2e-3)
    _, kept = carry(released, frame, fresh)
    assert kept > 0.99
    # With noise of its own size nothing of the release is worth a direction, and the frame is the gradient's.
    drowned = refresh_frame(tiny_model(), frame, released, some_texts(), noise_deviation=1.0)
    assert carry(released, frame, drowned)[1] < 0.95


def test_a_refreshed_frame_is_filled_with_the_gradient_under_the_release() -> None:
    frame, released = tiny_frame(), released_adapter()
    model = tiny_model()
    drowned = refresh_frame(model, frame, released, some_texts(), noise_deviation=1.0)
    model.set_frame(frame)
    model.set_coordinates(frame, as_theta(released))
    gradients = mean_gradients(model, frame.modules, some_texts())
    model.set_frame(None)
    for gradient, u, v in zip(gradients, drowned.left, drowned.right, strict=True):
        expected_u, expected_v = leading_vectors(gradient, RANK)
        assert np.allclose(np.abs(u.T @ expected_u.numpy()), np.eye(RANK), atol=5e-3)
        assert np.allclose(np.abs(v @ expected_v.numpy().T), np.eye(RANK), atol=5e-3)
    for u, base in zip(drowned.left, frame.left, strict=True):
        assert np.linalg.norm(u - base @ (base.T @ u)) > 0.05  # the release has turned the gradient


def test_refreshing_takes_the_release_and_public_text_and_nothing_else() -> None:
    """The same release gives the same digest whatever else the model held, and nobody's adapter is asked for."""
    frame, released = tiny_frame(), released_adapter()
    first = refresh_frame(tiny_model(), frame, released, some_texts(), noise_deviation=0.01)
    tiny_model().set_frame(frame)  # somebody's personal adapter, in use
    tiny_model().set_coordinates(frame, as_theta(some_theta(5)))
    again = refresh_frame(tiny_model(), frame, released, some_texts(), noise_deviation=0.01)
    assert first.digest == again.digest
    assert tiny_model().linear(frame.modules[0]).weight.grad is None
    inputs = set(inspect.signature(refresh_frame).parameters) - {"on_progress"}
    assert inputs == {"model", "frame", "released", "examples", "noise_deviation"}
    other = refresh_frame(tiny_model(), frame, 2 * released, some_texts(), noise_deviation=0.01)
    assert other.digest != first.digest
