from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest
import torch
from torch import nn

from client.frame_builder import build_frame, public_text
from client.torch_model import as_theta
from protocol.errors import PenchantError
from protocol.frames import Frame
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
