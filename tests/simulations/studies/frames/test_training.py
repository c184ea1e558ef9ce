from __future__ import annotations

import pytest
import torch

from client.torch_model import as_theta
from simulations.studies.frames.training import (
    Passes,
    coordinate_losses,
    draw_factors,
    text_losses,
    train_frame,
    train_lora,
)
from tests.client.framed_help import some_texts, tiny_frame, tiny_model

KINDS = ("attn_v", "ffn_down")


def test_text_losses_are_those_of_the_whole_vocabulary() -> None:
    model = tiny_model()
    model.set_frame(None)
    texts = some_texts()
    losses = text_losses(model, model.prepare(texts))
    assert losses.shape == (len(texts), 2)
    for (tokens, prompt), (nll, count) in zip(texts, losses.tolist(), strict=True):
        assert count == len(tokens) - prompt
        assert nll == pytest.approx(-float(model.log_probabilities(tokens)[prompt - 1 :].sum()), rel=1e-4)


def test_a_frame_and_lora_learn_their_texts_and_leave_the_model_as_it_was() -> None:
    model = tiny_model()
    batch = model.prepare(some_texts())
    model.set_frame(None)
    before = text_losses(model, batch)
    passes = Passes(epochs=6, batch_size=3)
    theta, framed = train_frame(model, batch, batch, tiny_frame(), 0.05, passes)
    assert framed[:, 0].sum() < 0.99 * before[:, 0].sum()
    assert torch.equal(framed, coordinate_losses(model, batch, tiny_frame(), theta))
    factors = draw_factors(model, KINDS, 2, seed=0, train_a=True)
    learnt = train_lora(model, batch, batch, factors, 0.02, passes)
    assert learnt[:, 0].sum() < 0.99 * before[:, 0].sum()
    assert torch.equal(text_losses(model, batch), before)


def test_ffa_keeps_a_and_fresh_factors_change_nothing() -> None:
    model = tiny_model()
    batch = model.prepare(some_texts())
    model.set_frame(None)
    before = text_losses(model, batch)
    factors = draw_factors(model, KINDS, 2, seed=0, train_a=False)
    drawn = {name: a.clone() for name, (a, _) in factors.items()}
    assert torch.allclose(train_lora(model, batch, batch, factors, 0.0, Passes(epochs=1)), before, rtol=1e-6)
    train_lora(model, batch, batch, factors, 0.02, Passes(epochs=1))
    assert all(torch.equal(a, drawn[name]) and b.abs().sum() > 0 for name, (a, b) in factors.items())


def test_the_same_seed_gives_the_same_adapter_and_another_order_another() -> None:
    model = tiny_model()
    batch = model.prepare(some_texts())
    first, _ = train_frame(model, batch, batch, tiny_frame(), 0.05, Passes(batch_size=2))
    again, _ = train_frame(model, batch, batch, tiny_frame(), 0.05, Passes(batch_size=2))
    other, _ = train_frame(model, batch, batch, tiny_frame(), 0.05, Passes(batch_size=2, seed=1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, torch.zeros_like(as_theta(first[0].double().numpy())))
