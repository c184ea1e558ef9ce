"""Ordinary LoRA's numbers, and training them without privacy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.local_training import evaluate_coordinates
from client.lora_layout import LoraLayout
from client.personal_lora import as_tensors, installed
from client.torch_model import as_theta
from client.training_run import RunPlan, TrainingState, advance, generator_of, new_state
from protocol.errors import PenchantError
from tests.client.framed_help import KINDS, some_texts, tiny_model
from tests.client.lora_oracle import layout, lora_network, some_point, text_work


def test_theta_is_the_factors_one_after_the_other() -> None:
    plan = LoraLayout(("blk.2.attn_v", "blk.3.ffn_down"), ((3, 4), (5, 6)), 2)
    theta = np.arange(float(plan.dimension))
    assert plan.dimension == 2 * (3 + 4 + 5 + 6)
    factors = plan.lora_factors(theta)
    assert factors["blk.2.attn_v"][0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert factors["blk.2.attn_v"][1].tolist() == [[8, 9], [10, 11], [12, 13]]
    assert factors["blk.3.ffn_down"][0].shape == (2, 6) and factors["blk.3.ffn_down"][1][-1, -1] == 35
    assert np.array_equal(plan.flat(as_tensors(factors)), theta)
    with pytest.raises(PenchantError, match="36 numbers"):
        plan.lora_factors(np.zeros(5))


def test_the_gradient_is_that_of_a_plain_torch_lora() -> None:
    work, theta = text_work(batch_size=6), some_point()
    batch = tiny_model().prepare(some_texts())
    loss, layers = lora_network(layout(), theta, batch)
    tokens = tiny_model().losses(batch)[1]
    (loss(torch.arange(6)) * tokens).sum().div(tokens.sum()).backward()
    wanted = np.concatenate([layer.weight.grad.double().numpy().ravel() for layer in layers])  # type: ignore[union-attr]
    for rows in (16, 4, 1):
        ours = work.gradient(theta, 0, 0, rows)
        assert np.linalg.norm(ours - wanted) <= 1e-4 * np.linalg.norm(wanted)


def test_every_pass_takes_every_text_in_an_order_of_its_own() -> None:
    work, theta = text_work(), some_point()
    assert work.steps == 6
    gradients = [work.gradient(theta, 5, step, 16) for step in range(4)]
    assert not np.allclose(gradients[0], gradients[2])  # another order, so other batches
    everything = tiny_model().prepare(some_texts())
    tokens = tiny_model().losses(everything)[1].numpy()
    for passed in range(2):
        order = generator_of(5, passed).permutation(6)
        counts = [tokens[order[:3]].sum(), tokens[order[3:]].sum()]
        mean = sum(g * c for g, c in zip(gradients[2 * passed : 2 * passed + 2], counts, strict=True)) / tokens.sum()
        assert np.allclose(mean, text_work(batch_size=6).gradient(theta, 5, passed, 16), rtol=1e-3, atol=1e-6)


def test_the_texts_kept_out_are_asked_after_every_pass() -> None:
    work, theta = text_work(kept_out=True, batch_size=2), some_point()
    assert [work.check(theta, step) is None for step in (1, 2, 3, 4)] == [True, False, True, False]
    kept_out = tiny_model().prepare(some_texts()[4:])
    assert work.check(theta, 2) == evaluate_coordinates(tiny_model(), layout(), kept_out, theta)
    assert text_work().check(theta, 2) is None


def test_training_moves_the_weights_downhill() -> None:
    start, work = layout().start(0), text_work(epochs=8)
    state = new_state(RunPlan(work, "t", "s", 16), start, run=1, seed=0)
    for _ in range(work.steps):
        state = advance(state, work)
    batch = tiny_model().prepare(some_texts())
    losses = [evaluate_coordinates(tiny_model(), layout(), batch, theta) for theta in (start, state.theta)]
    assert losses[1] < losses[0] - 0.1
    for name, (a, b) in layout().lora_factors(state.theta).items():
        assert np.abs(a - layout().lora_factors(start)[name][0]).max() > 1e-3 and np.abs(b).max() > 1e-3, name


def test_factors_in_the_maps_are_factors_hooked_to_them() -> None:
    """Packed and with gradients of its own, against padded with autograd's (``client.personal_lora.installed``)."""
    model, theta = tiny_model(), some_point()
    batch = model.prepare(some_texts())
    with torch.no_grad(), installed(model, as_tensors(layout().lora_factors(theta))):
        hooked = model.losses(batch)[0]
    model.set_frame(layout())
    model.set_coordinates(layout(), as_theta(theta))
    with torch.no_grad():
        ours = model.losses(batch)[0]
        model.set_frame(None)
        plain = model.losses(batch)[0]
    assert torch.allclose(ours, hooked, rtol=1e-4) and not torch.allclose(ours, plain, rtol=1e-3)


def test_a_state_of_float32_stays_float32_through_a_checkpoint() -> None:
    work = text_work()
    state = advance(new_state(RunPlan(work, "t", "s", 16), layout().start(0), run=1, seed=0), work)
    again = TrainingState.of_blobs(dict(state.blobs()).get)
    assert state.theta.dtype == again.second_moment.dtype == np.float32
    assert advance(again, work).theta.tobytes() == advance(state, work).theta.tobytes()


def test_a_layout_tells_itself_from_others_and_refuses_what_is_not_there() -> None:
    other = LoraLayout.of(tiny_model().module_shapes(KINDS), 3)
    assert layout().digest == LoraLayout.of(tiny_model().module_shapes(KINDS), 2).digest != other.digest
    foreign = LoraLayout(("blk.0.attn_q",), ((64, 64),), 2)
    with pytest.raises(PenchantError, match=r"blk\.0\.attn_q"):
        tiny_model().set_frame(foreign)
    with pytest.raises(PenchantError, match="rank"):
        LoraLayout.of(tiny_model().module_shapes(KINDS), 0)
