"""Training of plain LoRA factors on one person's texts, for the strategies that send A or B.

The factors act as those of the personal LoRA tier do (``client.personal_lora``): ``y = W x + B (A x)``, no further
scale. Adam in float32 whatever the model computes in. ``client.local_training`` is the same for frame coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from client.personal_lora import as_tensors, installed
from client.torch_model import Batch, TorchModel
from edge_runtime.adapters.adapter_file import Factors
from protocol.errors import PenchantError


@dataclass(frozen=True)
class Trained:
    """The adapter after training and the loss (nats per token, mean over the first pass) on the way."""

    adapter: Factors
    loss: float


@dataclass(frozen=True)
class TorchTexts:
    """One person's texts, prepared for torch; satisfies ``strategy.ForwardTexts`` too."""

    model: TorchModel
    batch: Batch
    epochs: int = 1
    batch_size: int = 4

    @property
    def count(self) -> int:
        """How many texts there are."""
        return len(self.batch.targets)

    @torch.no_grad()
    def loss(self, adapter: Factors, rows: Sequence[int]) -> float:
        """Nats per token of the texts ``rows`` under an adapter."""
        with installed(self.model, as_tensors(adapter)):
            losses, tokens = self.model.losses(self.batch.rows(torch.tensor(list(rows))))
        return float(losses.sum() / tokens.sum())

    def train(self, adapter: Factors, *, train_a: bool, train_b: bool, rate: float, seed: int) -> Trained:
        """Train A, B or both from ``adapter`` with Adam; ``seed`` orders the texts.

        Raises PenchantError if that moved nothing or produced numbers that are not finite.
        """
        tensors = as_tensors(adapter)
        moving = [a for a, _ in tensors.values() if train_a] + [b for _, b in tensors.values() if train_b]
        for tensor in moving:
            tensor.requires_grad_(True)
        optimiser = torch.optim.Adam(moving, lr=rate)
        order = torch.Generator().manual_seed(seed)
        loss_sum, token_count = 0.0, 0
        with installed(self.model, tensors):
            for epoch in range(self.epochs):
                for index in torch.split(torch.randperm(self.count, generator=order), self.batch_size):
                    losses, tokens = self.model.losses(self.batch.rows(index))
                    optimiser.zero_grad()
                    (losses.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    if epoch == 0:
                        loss_sum += float(losses.detach().sum())
                        token_count += int(tokens.sum())
        trained = {name: (a.detach().numpy(), b.detach().numpy()) for name, (a, b) in tensors.items()}
        values = np.concatenate([part.ravel() for pair in trained.values() for part in pair])
        if not np.isfinite(values).all():
            raise PenchantError("training diverged; lower the learning rate")
        if all(np.array_equal(trained[name][side], adapter[name][side]) for name in adapter for side in (0, 1)):
            raise PenchantError("training moved no number; the adapter does not fit this model")
        return Trained(trained, loss_sum / max(token_count, 1))
