"""A newcomer's weights on the bases, on the tiny model: from a residual and straight from texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.local_training import evaluate_coordinates
from client.mixing_weights import fit_weights, residual_weights
from client.torch_model import Batch
from protocol.bank import Bank
from protocol.errors import PenchantError
from tests.client.framed_help import some_texts, some_theta, tiny_frame, tiny_model


def bank_of(directions: NDArray[np.float64], spread: float = 1.0) -> Bank:
    count = len(directions)
    return Bank(
        "adapter", tiny_frame().digest, some_theta(3, 0.02), directions, np.full(count, spread), np.zeros((0, count))
    )


def some_directions(count: int = 3, seed: int = 0) -> NDArray[np.float64]:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(tiny_frame().dimension, count)))[0].T


def batch() -> Batch:
    return tiny_model().prepare(some_texts(8, seed=2))


def loss_of(bank: Bank, weights: NDArray[np.float64], texts: Batch) -> float:
    return evaluate_coordinates(tiny_model(), tiny_frame(), texts, bank.mix(weights))


def useful_directions(texts: Batch) -> NDArray[np.float64]:
    """The gradient of the loss on these texts at the bank's shared adapter, and two directions at random."""
    model, frame = tiny_model(), tiny_frame()
    model.set_frame(frame)
    theta = torch.from_numpy(some_theta(3, 0.02).astype(np.float32))[None].requires_grad_(True)
    model.set_coordinates(frame, theta)
    model.losses(texts)[0].sum().backward()
    model.set_frame(None)
    assert theta.grad is not None
    rows = np.vstack([theta.grad[0].double().numpy(), some_directions(2)])
    return np.linalg.qr(rows.T)[0].T


def test_a_fit_lowers_the_loss_of_the_texts_and_more_passes_lower_it_further() -> None:
    texts = batch()
    bank = bank_of(useful_directions(texts), spread=0.5)
    losses = [loss_of(bank, fit_weights(tiny_model(), tiny_frame(), texts, bank, passes=n), texts) for n in (0, 1, 3)]
    assert losses[0] - 0.005 > losses[1] > losses[2]


def test_a_fit_goes_downhill_from_the_gradients_of_finite_differences() -> None:
    """The first step of a wide prior with one text: -gradient over its own square, against differences."""
    texts = batch().rows(torch.tensor([5]))
    bank, step = bank_of(some_directions(1), spread=1.0), 1e-2
    tokens = int((texts.targets >= 0).sum())
    up, down = (loss_of(bank, np.array([sign * step]), texts) * tokens for sign in (1.0, -1.0))
    gradient = (up - down) / (2 * step)
    expected = -gradient / (gradient**2 + 1.0)
    assert fit_weights(tiny_model(), tiny_frame(), texts, bank)[0] == pytest.approx(expected, rel=0.02)


def test_a_tight_prior_keeps_the_shared_adapter_and_a_direction_without_spread_moves_nobody() -> None:
    texts = batch()
    bank = bank_of(useful_directions(texts))
    free = fit_weights(tiny_model(), tiny_frame(), texts, bank)
    tight = fit_weights(tiny_model(), tiny_frame(), texts, replace(bank, spread=np.full(3, 1e-4)))
    assert np.linalg.norm(tight) < 1e-3 * np.linalg.norm(free)
    partly = fit_weights(tiny_model(), tiny_frame(), texts, replace(bank, spread=np.array([0.0, 1.0, 1.0])))
    assert partly[0] == 0.0 and partly[1:].all()
    nothing = Bank.of_shared("adapter", tiny_frame().digest, bank.shared)
    assert fit_weights(tiny_model(), tiny_frame(), texts, nothing).shape == (0,)


def test_bases_of_another_frame_are_refused() -> None:
    foreign = replace(bank_of(some_directions()), space_sha256="a" * 64)
    with pytest.raises(PenchantError, match="another frame"):
        fit_weights(tiny_model(), tiny_frame(), batch(), foreign)


def test_a_residual_is_projected_and_shrunk_by_what_is_noise_in_it() -> None:
    directions, random = some_directions(), np.random.default_rng(4)
    bank = replace(bank_of(directions), spread=np.array([2.0, 0.5, 0.0]))
    clean = np.array([3.0, -1.0, 2.0]) @ directions
    np.testing.assert_allclose(residual_weights(clean, bank), [3.0, -1.0, 0.0], atol=1e-6)
    truth = random.normal(size=(400, 2)) * [2.0, 0.5]
    errors: dict[str, list[float]] = {"shrunk": [], "projected": []}
    for weights in truth:
        noisy = weights @ directions[:2] + 0.7 * random.normal(size=bank.dimension)
        errors["shrunk"].append(float(np.sum((residual_weights(noisy, bank)[:2] - weights) ** 2)))
        errors["projected"].append(float(np.sum(((directions @ noisy)[:2] - weights) ** 2)))
    assert np.mean(errors["shrunk"]) < 0.75 * np.mean(errors["projected"])
    with pytest.raises(PenchantError, match="does not fit"):
        residual_weights(clean[1:], bank)
