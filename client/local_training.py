"""Training in the frame: pure functions from a prepared batch and a starting point to new coordinates.

Loss: mean negative log-likelihood (nats per target token) of the person's own words. Optimiser: Adam
(Kingma and Ba 2015) on the d numbers of an adapter (``lora_layout.AdapterSpace``); the model itself is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from client.lora_layout import AdapterSpace
from client.output_words import draw_of
from client.torch_model import Batch, TorchModel, as_theta
from protocol.errors import PenchantError
from protocol.frames import Vector


@dataclass(frozen=True)
class LocalSettings:
    """``epochs`` passes in batches of ``batch_size`` texts with Adam at ``learning_rate``; ``seed`` orders them."""

    epochs: int = 1
    batch_size: int = 12
    learning_rate: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class LocalResult:
    """``theta`` (d,) after training, ``loss`` (nats per token, mean over the first pass) and ``tokens`` per pass."""

    theta: Vector
    loss: float
    tokens: int


def train_coordinates(
    model: TorchModel, frame: AdapterSpace, batch: Batch, start: Vector, settings: LocalSettings
) -> LocalResult:
    """Train the coordinates of one adapter on one person's texts, from ``start`` (d,).

    Raises PenchantError if the training made no step or produced numbers that are not finite.
    """
    model.set_frame(frame)
    theta = as_theta(start).requires_grad_(True)
    optimiser = torch.optim.Adam([theta], lr=settings.learning_rate)
    order = torch.Generator().manual_seed(settings.seed)
    loss_sum, token_count = 0.0, 0
    for epoch in range(settings.epochs):
        shuffled = torch.randperm(len(batch.targets), generator=order)
        for index in torch.split(shuffled, settings.batch_size):
            model.set_coordinates(frame, theta)
            losses, tokens = model.losses(batch.rows(index), draw=draw_of(theta.detach().numpy()))
            optimiser.zero_grad()
            (losses.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if epoch == 0:
                loss_sum += float(losses.detach().sum())
                token_count += int(tokens.sum())
    trained: Vector = theta.detach()[0].double().numpy()
    model.set_frame(None)
    if not np.isfinite(trained).all():
        raise PenchantError("training diverged; lower the learning rate")
    if settings.epochs > 0 and np.array_equal(trained, as_theta(start)[0].double().numpy()):
        raise PenchantError("training moved no number; the frame does not fit this model")
    return LocalResult(trained, loss_sum / max(token_count, 1), token_count)


@torch.no_grad()
def evaluate_coordinates(model: TorchModel, frame: AdapterSpace, batch: Batch, theta: Vector) -> float:
    """Loss (nats per token, over the whole vocabulary) of an adapter on a batch."""
    model.set_frame(frame)
    model.set_coordinates(frame, as_theta(theta))
    total, count = 0.0, 0
    for index in model.pieces(batch, torch.arange(len(batch.targets)), len(batch.targets)):
        losses, tokens = model.losses(batch.rows(index))
        total, count = total + float(losses.sum()), count + int(tokens.sum())
    model.set_frame(None)
    return total / count
