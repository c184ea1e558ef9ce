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


@pytest.fixture(autouse=True)
def only_the_words_that_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabulary would otherwise be covered whole."""
    monkeypatch.setattr(client.torch_model, "EXPECTED_WORDS", 0)


def full_loss(theta: np.ndarray, texts: list[tuple[list[int], int]]) -> float:
    """Summed loss over the whole vocabulary, from log_probabilities."""
    model, frame = tiny_model(), tiny_frame()
    model.set_frame(frame)
    model.set_coordinates(frame, as_theta(theta))
    total = -sum(float(model.log_probabilities(ids)[prompt - 1 :].sum()) for ids, prompt in texts)
    model.set_frame(None)
    return total


def short_loss(theta: np.ndarray, texts: list[tuple[list[int], int]]) -> float:
    """The same with the restricted output layer."""
    model, frame = tiny_model(), tiny_frame()
    batch = model.prepare(texts, max_tokens=400)
    model.set_frame(frame)
    model.set_coordinates(frame, as_theta(theta))
    with torch.no_grad():
        losses, tokens = model.losses(batch)
    model.set_frame(None)
    assert tokens.tolist() == [len(ids) - prompt for ids, prompt in texts]
    return float(losses.sum())


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


def test_short_output_layer_is_exact_without_adapter() -> None:
    texts = some_texts(2)
    zero = np.zeros(tiny_frame().dimension)
    assert short_loss(zero, texts) == pytest.approx(full_loss(zero, texts), abs=1e-3)


def test_short_output_layer_is_wrong_in_second_order_only() -> None:
    # Half the step, a quarter of the error; with a rest that never moves it would be half.
    texts, direction = some_texts(2), some_theta(1, size=1.0)
    errors = [full_loss(t * direction, texts) - short_loss(t * direction, texts) for t in (0.08, 0.04, 0.02)]
    assert errors[0] > errors[1] > errors[2] > 0  # too low, as log-sum-exp is convex
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.2)


def test_words_that_the_model_expects_make_it_more_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, theta, errors = some_texts(2), some_theta(1, size=0.1), []
    for count in (0, 60, 150, 10_000):
        monkeypatch.setattr(client.torch_model, "EXPECTED_WORDS", count)
        errors.append(full_loss(theta, texts) - short_loss(theta, texts))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[3] == pytest.approx(0.0, abs=1e-3)


def test_a_batch_with_every_word_has_no_rest() -> None:
    model, frame = tiny_model(), tiny_frame()
    vocabulary = list(range(model.output_weight.shape[0]))
    theta = some_theta(2, size=0.3)
    text = ([1, *vocabulary], 1)
    assert short_loss(theta, [text]) == pytest.approx(full_loss(theta, [text]), rel=1e-5)
    batch = model.prepare([text], max_tokens=400)
    model.set_frame(frame)
    copies = as_theta(theta).requires_grad_(True)
    model.set_coordinates(frame, copies)
    model.losses(batch)[0].sum().backward()
    model.set_frame(None)
    assert copies.grad is not None and torch.isfinite(copies.grad).all()


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
