from __future__ import annotations

import numpy as np
import pytest
import torch

from client.local_training import (
    LocalSettings,
    evaluate_coordinates,
    train_coordinates,
)
from client.torch_model import as_theta
from protocol.errors import PenchantError
from tests.client.framed_help import some_texts, some_theta, tiny_frame, tiny_model


def loss_and_gradient(theta: np.ndarray, batch: object) -> tuple[float, np.ndarray]:
    model, frame = tiny_model(), tiny_frame()
    model.set_frame(frame)
    point = as_theta(theta).requires_grad_(True)
    model.set_coordinates(frame, point)
    losses, tokens = model.losses(batch)  # type: ignore[arg-type]
    loss = losses.sum() / tokens.sum()
    loss.backward()
    model.set_frame(None)
    assert point.grad is not None
    return float(loss.detach()), point.grad[0].double().numpy()


def full_loss(theta: np.ndarray) -> float:
    """Nats per token of all texts over the whole vocabulary."""
    model, frame = tiny_model(), tiny_frame()
    model.set_frame(frame)
    model.set_coordinates(frame, as_theta(theta))
    values = np.concatenate([model.log_probabilities(ids)[prompt - 1 :] for ids, prompt in some_texts()])
    model.set_frame(None)
    return -float(values.mean())


def test_training_lowers_the_loss_over_the_whole_vocabulary() -> None:
    batch, start = tiny_model().prepare(some_texts()), np.zeros(tiny_frame().dimension)
    settings = LocalSettings(epochs=3, batch_size=3, learning_rate=0.02)
    result = train_coordinates(tiny_model(), tiny_frame(), batch, start, settings)
    assert full_loss(result.theta) < full_loss(start) - 0.1
    assert result.tokens == sum(len(ids) - prompt for ids, prompt in some_texts())
    assert evaluate_coordinates(tiny_model(), tiny_frame(), batch, result.theta) < result.loss


def test_one_step_is_adam_downhill() -> None:
    # The first step of Adam moves every coordinate by the learning rate against its gradient's sign.
    batch, start = tiny_model().prepare(some_texts()), some_theta(1)
    loss, gradient = loss_and_gradient(start, batch)
    settings = LocalSettings(epochs=1, batch_size=100, learning_rate=0.01)
    result = train_coordinates(tiny_model(), tiny_frame(), batch, start, settings)
    clear = np.abs(gradient) > 1e-4
    assert clear.mean() > 0.8
    assert np.allclose((result.theta - start)[clear], -0.01 * np.sign(gradient[clear]), atol=1e-4)
    assert result.loss == pytest.approx(loss, rel=1e-4)


def test_loss_is_the_mean_over_tokens_not_over_texts() -> None:
    batch = tiny_model().prepare(some_texts())
    zero = np.zeros(tiny_frame().dimension)
    assert evaluate_coordinates(tiny_model(), tiny_frame(), batch, zero) == pytest.approx(full_loss(zero), rel=1e-4)


def test_the_seed_orders_the_texts() -> None:
    batch, start = tiny_model().prepare(some_texts()), np.zeros(tiny_frame().dimension)

    def trained(seed: int) -> np.ndarray:
        settings = LocalSettings(batch_size=2, learning_rate=0.02, seed=seed)
        return train_coordinates(tiny_model(), tiny_frame(), batch, start, settings).theta

    assert np.array_equal(trained(1), trained(1)) and not np.array_equal(trained(1), trained(2))


def test_training_that_moves_nothing_or_diverges_is_an_error() -> None:
    batch = tiny_model().prepare(some_texts(2))
    for start in (np.zeros(tiny_frame().dimension), some_theta(2)):  # the second is no float32 vector
        with pytest.raises(PenchantError, match="moved no number"):
            train_coordinates(tiny_model(), tiny_frame(), batch, start, LocalSettings(learning_rate=0.0))
    with pytest.raises(PenchantError, match="learning rate"):
        settings = LocalSettings(epochs=3, learning_rate=float("inf"))
        train_coordinates(tiny_model(), tiny_frame(), batch, np.zeros(tiny_frame().dimension), settings)


def test_no_adapter_is_left_behind() -> None:
    model, batch, ids = tiny_model(), tiny_model().prepare(some_texts(2)), some_texts()[0][0]
    model.set_frame(None)
    before = model.log_probabilities(ids)
    train_coordinates(model, tiny_frame(), batch, some_theta(), LocalSettings(learning_rate=0.01))
    evaluate_coordinates(model, tiny_frame(), batch, some_theta())
    assert np.array_equal(before, model.log_probabilities(ids))


def test_results_are_plain_numbers() -> None:
    batch = tiny_model().prepare(some_texts(2))
    result = train_coordinates(tiny_model(), tiny_frame(), batch, some_theta(), LocalSettings(learning_rate=0.01))
    assert result.theta.dtype == np.float64 and not isinstance(result.theta, torch.Tensor)
