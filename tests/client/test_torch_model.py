from __future__ import annotations

import numpy as np
import pytest
import torch

import client.torch_model
from client.torch_model import TorchModel, as_theta, fast_dtype
from protocol.errors import PenchantError
from protocol.frames import Frame
from tests.client.framed_help import (
    hugging_face_name,
    plain_log_probabilities,
    plain_model,
    some_texts,
    some_theta,
    tiny_frame,
    tiny_gguf,
    tiny_model,
)


def full_loss(theta: np.ndarray, texts: list[tuple[list[int], int]]) -> float:
    """Summed loss over the whole vocabulary, from log_probabilities."""
    model, frame = tiny_model(), tiny_frame()
    model.set_frame(frame)
    model.set_coordinates(frame, as_theta(theta))
    total = -sum(float(model.log_probabilities(ids)[prompt - 1 :].sum()) for ids, prompt in texts)
    model.set_frame(None)
    return total


def test_cached_lower_layers_give_the_full_model() -> None:
    model, plain = tiny_model(), plain_model()
    model.set_frame(None)
    for ids, _ in some_texts(3):
        assert np.allclose(model.log_probabilities(ids), plain_log_probabilities(plain, ids), atol=2e-5)


def test_padding_changes_nothing() -> None:
    texts = some_texts()
    model = tiny_model()
    model.set_frame(None)
    together, _ = model.losses(model.prepare(texts))
    alone = [float(model.losses(model.prepare([text]))[0]) for text in texts]
    assert np.allclose(together.detach().numpy(), alone, atol=1e-3)


def test_the_frame_is_w_plus_scale_u_r_v() -> None:
    model, frame, plain, theta = tiny_model(), tiny_frame(), plain_model(), some_theta()
    state = dict(plain.named_parameters())
    with torch.no_grad():
        for position, name in enumerate(frame.modules):
            r = frame.coordinates(theta)[position]
            delta = frame.scale * frame.left[position] @ r.astype(np.float32) @ frame.right[position]
            state[hugging_face_name(name) + ".weight"] += torch.from_numpy(delta)
    model.set_frame(frame)
    model.set_coordinates(frame, as_theta(theta))
    ids = some_texts()[2][0]
    adapted = model.log_probabilities(ids)
    model.set_frame(None)
    assert np.allclose(adapted, plain_log_probabilities(plain, ids), atol=5e-5)
    assert np.abs(adapted - model.log_probabilities(ids)).max() > 1e-2  # and the adapter does something


def test_one_r_per_example_is_separate_runs() -> None:
    model, frame, texts = tiny_model(), tiny_frame(), some_texts(3)
    batch = model.prepare(texts)
    thetas = [some_theta(seed) for seed in range(3)]
    model.set_frame(frame)
    with torch.no_grad():
        model.set_coordinates(frame, torch.cat([as_theta(theta) for theta in thetas]))
        together, _ = model.losses(batch)
        for row, theta in enumerate(thetas):
            model.set_coordinates(frame, as_theta(theta))
            alone, _ = model.losses(batch.rows(torch.tensor([row])))
            assert float(together[row]) == pytest.approx(float(alone[0]), abs=1e-3)
    model.set_frame(None)
    assert float(together[0]) != pytest.approx(float(together[1]), abs=0.1)


def test_gradient_of_r_by_finite_difference() -> None:
    model, frame, texts = tiny_model(), tiny_frame(), some_texts(2)
    batch, theta = model.prepare(texts), some_theta(3)
    model.set_frame(frame)
    copies = as_theta(theta).requires_grad_(True)
    model.set_coordinates(frame, copies)
    model.losses(batch)[0].sum().backward()
    assert copies.grad is not None
    for seed in range(3):
        direction = some_theta(10 + seed, size=1.0)
        values = []
        for step in (5e-3, -5e-3):
            with torch.no_grad():
                model.set_coordinates(frame, as_theta(theta + step * direction))
                values.append(float(model.losses(batch)[0].double().sum()))
        slope = float(copies.grad[0].double() @ torch.from_numpy(direction))
        assert slope == pytest.approx((values[0] - values[1]) / 1e-2, rel=2e-2, abs=0.1)
    model.set_frame(None)


def test_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, wanted in (({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c)
        assert fast_dtype() == wanted


def test_bfloat16_is_near_float32() -> None:
    coarse, fine, frame = tiny_model(torch.bfloat16), tiny_model(), tiny_frame()
    assert coarse.dtype == torch.bfloat16 and fine.dtype == torch.float32
    values = []
    for model in (coarse, fine):
        model.set_frame(frame)
        model.set_coordinates(frame, as_theta(some_theta()))
        values.append(model.log_probabilities(some_texts()[1][0]))
        model.set_frame(None)
    assert 0 < np.abs(values[0] - values[1]).mean() < 0.1


def test_weights_multiply_the_losses_of_their_own_tokens() -> None:
    model, (ids, prompt) = tiny_model(), some_texts()[1]
    model.set_frame(None)
    given = [0.5 + 0.25 * i for i in range(len(ids) - prompt)]
    alone = -model.log_probabilities(ids)[prompt - 1 :]
    batch = model.prepare([(ids, prompt), (ids, prompt, given), some_texts()[0]])
    losses, tokens = model.losses(batch)
    assert float(losses[0]) == pytest.approx(alone.sum(), rel=1e-4)
    assert float(losses[1]) == pytest.approx(float(alone @ given), rel=1e-4)
    assert tokens[0] == tokens[1] == len(given)  # the count is not weighted
    assert float(model.losses(batch.rows(torch.tensor([1])))[0]) == pytest.approx(float(losses[1]), rel=1e-5)
    cut, _ = model.losses(model.prepare([(ids, prompt, given)], max_tokens=prompt + 2))
    assert float(cut[0]) == pytest.approx(float(alone[:2] @ given[:2]), rel=1e-4)
    whole, _ = model.losses(model.prepare([(ids, 0, [9.0] + [2.0] * (len(ids) - 1))]))
    assert float(whole[0]) == pytest.approx(-2 * model.log_probabilities(ids).sum(), rel=1e-4)
    with pytest.raises(PenchantError, match="one weight per token"):
        model.prepare([(ids, prompt, given[1:])])


def test_pieces_bound_texts_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()  # adapts 2 layers
    batch = model.prepare(some_texts())  # of 12, 15, 18, 21, 24, 27 tokens
    index = torch.tensor([5, 0, 1, 2, 3])
    monkeypatch.setattr(client.torch_model, "TOKENS_AND_LAYERS_AT_ONCE", 80)
    assert [piece.tolist() for piece in model.pieces(batch, index, 6)] == [[5, 0], [1, 2], [3]]
    assert [piece.tolist() for piece in model.pieces(batch, index, 1)] == [[5], [0], [1], [2], [3]]
    monkeypatch.setattr(client.torch_model, "TOKENS_AND_LAYERS_AT_ONCE", 1)
    assert [piece.tolist() for piece in model.pieces(batch, index[:2], 6)] == [[5], [0]]  # one text is always taken


def test_texts_are_cut_and_empty_ones_refused() -> None:
    model = tiny_model()
    ids, prompt = some_texts()[0]
    batch = model.prepare([(ids, prompt)], max_tokens=prompt + 2)
    assert int((batch.targets >= 0).sum()) == 2
    with pytest.raises(PenchantError, match="no text"):
        model.prepare([(ids, len(ids))])


def test_frames_and_depths_that_do_not_fit_are_refused() -> None:
    model, frame = tiny_model(), tiny_frame()
    lower = Frame(frame.base_sha256, frame.rank, 1.0, ("blk.0.ffn_down",), frame.left[:1], frame.right[:1])
    with pytest.raises(PenchantError, match=r"blk\.0\.ffn_down"):
        model.set_frame(lower)
    model.set_frame(None)
    with pytest.raises(PenchantError, match="4 layers"):
        TorchModel.load(tiny_gguf(), top_layers=5)
