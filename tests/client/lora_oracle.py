"""Ordinary LoRA on the tiny model as plain torch modules, and its per-example gradients by Opacus and by a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from client.lora_layout import LoraLayout
from client.torch_model import Batch, TorchModel
from client.training_work import TextSettings, TextWork
from protocol.frames import Vector
from tests.client.framed_help import KINDS, TOP_LAYERS, hugging_face_name, plain_model, some_texts, tiny_model


class _Map(nn.Module):
    """W x + B (A x) with A and B ordinary linear layers, the form whose per-sample gradient Opacus knows."""

    def __init__(self, base: nn.Linear, a: np.ndarray, b: np.ndarray) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(a.shape[1], a.shape[0], bias=False)
        self.up = nn.Linear(b.shape[1], b.shape[0], bias=False)
        self.down.weight = nn.Parameter(torch.from_numpy(a.copy()))
        self.up.weight = nn.Parameter(torch.from_numpy(b.copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x) + self.up(self.down(x))
        return out


class _Loss(nn.Module):
    """Mean loss per target token of each example of a prepared batch, (b,)."""

    def __init__(self, model: TorchModel, network: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.network, self.model, self.batch = network, [model], batch

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        summed, tokens = self.model[0].losses(self.batch.rows(index))
        return summed / tokens


def lora_network(layout: LoraLayout, theta: Vector, batch: Batch) -> tuple[_Loss, list[nn.Linear]]:
    """The loss module, and the layers A, B of each map in the order of theta."""
    plain = plain_model().requires_grad_(False)
    layers: list[nn.Linear] = []
    for name, (a, b) in layout.lora_factors(theta).items():
        place = hugging_face_name(name)
        with_lora = _Map(plain.get_submodule(place), a, b)
        setattr(plain.get_submodule(place.rsplit(".", 1)[0]), place.rsplit(".", 1)[1], with_lora)
        layers += [with_lora.down, with_lora.up]
    model = TorchModel(plain, TOP_LAYERS)  # freezes everything, so the factors are thawed again
    for layer in layers:
        layer.train().weight.requires_grad_(True)
    return _Loss(model, plain, batch), layers


def _flat(parts: list[Any]) -> np.ndarray:
    return np.concatenate([part.detach().double().numpy().reshape(-1) for part in parts])


def loop_gradients(layout: LoraLayout, theta: Vector, batch: Batch, count: int) -> np.ndarray:
    """One backward pass per example: (count, d)."""
    loss, layers = lora_network(layout, theta, batch)
    rows = []
    for index in range(count):
        loss.zero_grad()
        loss(torch.tensor([index])).sum().backward()
        rows.append(_flat([layer.weight.grad for layer in layers]))
    return np.stack(rows)


def opacus_gradients(layout: LoraLayout, theta: Vector, batch: Batch, count: int) -> np.ndarray:
    """Opacus's per-sample gradients by hooks: (count, d)."""
    from opacus import GradSampleModule

    loss, layers = lora_network(layout, theta, batch)
    GradSampleModule(loss, loss_reduction="sum", strict=False)(torch.arange(count)).sum().backward()
    samples: list[Any] = [layer.weight.grad_sample for layer in layers]
    return np.stack([_flat([sample[row] for sample in samples]) for row in range(count)])


def opacus_norms(layout: LoraLayout, theta: Vector, batch: Batch, count: int) -> np.ndarray:
    """The per-sample gradient norms of Opacus's own ghost clipping: (count,)."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    loss, _ = lora_network(layout, theta, batch)
    wrapped = GradSampleModuleFastGradientClipping(
        loss, loss_reduction="sum", strict=False, max_grad_norm=1.0, use_ghost_clipping=True
    )
    wrapped(torch.arange(count)).sum().backward()
    return np.asarray(wrapped.get_norm_sample().detach().double().numpy())


def layout() -> LoraLayout:
    return LoraLayout.of(tiny_model().module_shapes(KINDS), 2)


def some_point(size: float = 0.05) -> np.ndarray:
    return layout().start(3) + size * np.random.default_rng(4).normal(size=layout().dimension)


def text_work(kept_out: bool = False, batch_size: int = 3, epochs: int = 3) -> TextWork:
    texts, stop = (some_texts()[:4], some_texts()[4:]) if kept_out else (some_texts(), [])
    settings = TextSettings(epochs, batch_size, learning_rate=0.01)
    return TextWork(tiny_model(), layout(), texts, stop, settings, max_tokens=160)
