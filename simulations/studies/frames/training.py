"""Training one adapter on many people's texts, for the study of frames: LoRA or coordinates, whole vocabulary.

Every method sees the same texts in the same batches: Adam, the rate rising over ``WARM_STEPS`` steps and then falling
in a straight line to nothing at the last. The loss is taken over the whole vocabulary, in training as in judging
(torch, at the precision that trains here), so no method is helped or hurt by a shortened output layer.

Ordinary LoRA: ``delta W = B A`` with A (r, in) uniform in +-1/sqrt(in), B (out, r) zero (Hu et al. 2021, alpha = r);
FFA-LoRA (Sun et al. 2024, arXiv 2403.12313) keeps A as it was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.personal_lora import installed
from client.torch_model import Batch, TorchModel
from protocol.frames import Frame

WARM_STEPS = 8


@dataclass(frozen=True)
class Passes:
    """``epochs`` passes in batches of ``batch_size`` texts, ordered by ``seed``."""

    epochs: int = 2
    batch_size: int = 4
    seed: int = 0


def draw_factors(
    model: TorchModel, kinds: Sequence[str], rank: int, *, seed: int, train_a: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Fresh LoRA factors A (r, in), B (out, r) of all adapted maps of ``kinds``; those that train want a gradient."""
    random = torch.Generator().manual_seed(seed)
    factors = {}
    for name in model.module_names(kinds):
        out, into = model.linear(name).weight.shape
        a = (torch.rand(rank, into, generator=random) * 2 - 1) / math.sqrt(into)
        factors[name] = (a.requires_grad_(train_a), torch.zeros(out, rank, requires_grad=True))
    return factors


def train_lora(
    model: TorchModel,
    batch: Batch,
    held_out: Batch,
    factors: dict[str, tuple[Tensor, Tensor]],
    rate: float,
    passes: Passes,
) -> Tensor:
    """Train those factors that want a gradient; the losses of the held-out texts, (texts, 2): sum and tokens."""
    model.set_frame(None)
    moving = [tensor for pair in factors.values() for tensor in pair if tensor.requires_grad]
    with installed(model, factors):
        _fit(model, batch, moving, rate, passes, lambda: None)
        return text_losses(model, held_out)


def train_frame(
    model: TorchModel,
    batch: Batch,
    held_out: Batch,
    frame: Frame,
    rate: float,
    passes: Passes,
    *,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Train the coordinates of one adapter from ``start`` (1, d), by default zero: theta (1, d) and the losses of the
    held-out texts."""
    theta = (torch.zeros(1, frame.dimension) if start is None else start.clone()).requires_grad_(True)
    model.set_frame(frame)
    _fit(model, batch, [theta], rate, passes, lambda: model.set_coordinates(frame, theta))
    losses = coordinate_losses(model, held_out, frame, theta.detach())
    return theta.detach(), losses


def coordinate_losses(model: TorchModel, held_out: Batch, frame: Frame, theta: Tensor) -> Tensor:
    """The losses of the held-out texts under the adapter ``theta`` (1, d)."""
    model.set_frame(frame)
    model.set_coordinates(frame, theta)
    losses = text_losses(model, held_out)
    model.set_frame(None)
    return losses


@torch.no_grad()
def text_losses(model: TorchModel, held_out: Batch) -> Tensor:
    """Summed negative log-likelihood (nats, whole vocabulary) and target tokens of each text, (texts, 2)."""
    rows = []
    for index in torch.split(torch.arange(len(held_out.targets)), 8):
        losses, tokens = model.losses(held_out.rows(index))
        rows.append(torch.stack([losses.double(), tokens.double()], 1))
    return torch.cat(rows)


def _fit(
    model: TorchModel,
    batch: Batch,
    moving: Sequence[Tensor],
    rate: float,
    passes: Passes,
    before_step: Callable[[], None],
) -> None:
    optimiser = torch.optim.Adam(list(moving), lr=rate)
    texts = len(batch.targets)
    steps = passes.epochs * math.ceil(texts / passes.batch_size)
    order = torch.Generator().manual_seed(passes.seed)
    step = 0
    for _ in range(passes.epochs):
        for index in torch.split(torch.randperm(texts, generator=order), passes.batch_size):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / WARM_STEPS) * (1 - step / steps)
            before_step()
            losses, tokens = model.losses(batch.rows(index))
            optimiser.zero_grad()
            (losses.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
