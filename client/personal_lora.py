"""Ordinary LoRA beside other adapters, and trained privately (``client.lora_layout`` has its numbers).

Factors are hooked into the maps, on top of whatever else these do: a lower tier that is frozen, or private training,
which wants the gradients of single examples. That is DP-SGD as in ``client/dp_sgd.py`` (same units, sampling, noise and
divisor): single texts are clipped by ``client/ghost_clipping.py``, larger units, whose examples share one clip, by
their summed gradient, one at a time. Without privacy ``client.training_work`` trains factors as it does coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.dp_sgd import PrivateSettings, clipped_sum, poisson_sample, prepare_examples
from client.ghost_clipping import Recorder, recorded_product
from client.lora_layout import LoraLayout
from client.privacy_units import Units, units_of
from client.torch_model import Batch, Text, TorchModel
from client.training_run import generator_of
from edge_runtime.adapters.adapter_file import Factors
from protocol.errors import PenchantError
from protocol.frames import Vector

Tensors = Mapping[str, tuple[Tensor, Tensor]]  # module -> (A, B)


def as_tensors(factors: Factors, *, trained: bool = False) -> Tensors:
    """Factors as float32 tensors of their own."""
    return {
        name: (torch.tensor(a).requires_grad_(trained), torch.tensor(b).requires_grad_(trained))
        for name, (a, b) in factors.items()
    }


@contextmanager
def installed(model: TorchModel, tensors: Tensors, recorder: Recorder | None = None) -> Iterator[None]:
    """Add ``B A`` to every named map while the context lasts, on top of whatever else the maps do. With a ``recorder``
    the backward pass leaves the gradients of each example there."""
    known = set(model.module_names([name.rsplit(".", 1)[1] for name in tensors]))
    if missing := sorted(set(tensors) - known):
        raise PenchantError(f"the adapter changes {missing[0]}, which is not among the model's adapted layers")
    hooks = [
        model.linear(name).register_forward_hook(_adding(a, b, recorder, name)) for name, (a, b) in tensors.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adding(
    a: Tensor, b: Tensor, recorder: Recorder | None, name: str
) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
    def add(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (x,) = inputs
        left, right = a.to(x.dtype), b.to(x.dtype)
        if recorder is not None:
            return output + recorded_product(x, left, right, recorder, name)
        return output + (x @ left.T) @ right.T

    return add


def unit_gradient(model: TorchModel, layout: LoraLayout, batch: Batch, theta: Vector) -> Vector:
    """Gradient (d,) of the sum over the texts of a batch of each one's mean loss per target token."""
    tensors = as_tensors(layout.lora_factors(theta), trained=True)
    with installed(model, tensors):
        losses, tokens = model.losses(batch)
        (losses / tokens).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: (a.grad, b.grad) for name, (a, b) in tensors.items() if a.grad is not None and b.grad is not None
    }
    if not gradients:
        raise PenchantError("the loss does not depend on the adapter; it does not fit this model")
    return layout.flat(gradients)


def ghost_clipped_sum(model: TorchModel, layout: LoraLayout, batch: Batch, theta: Vector, clip_norm: float) -> Vector:
    """Sum (d,) over the texts of a batch, each prepared alone, of the gradient of its mean loss per target token,
    clipped to ``clip_norm``."""
    recorder = Recorder()
    with installed(model, as_tensors(layout.lora_factors(theta), trained=True), recorder):
        losses, tokens = model.losses(batch)
        (losses / tokens).sum().backward()  # type: ignore[no-untyped-call]
    return layout.flat(recorder.clipped_sum(clip_norm))


class PrivateLoraWork:
    """DP-SGD's noisy mean of clipped gradients of texts, or of larger ``units``. No texts are kept out."""

    patience = 1  # never counted down: there are no checks

    def __init__(
        self,
        model: TorchModel,
        layout: LoraLayout,
        texts: Sequence[Text],
        settings: PrivateSettings,
        noise_multiplier: float,
        *,
        max_tokens: int,
        units: Units | None = None,
    ) -> None:
        self._model, self._layout, self._settings = model, layout, settings
        model.set_frame(None)
        self._examples = prepare_examples(model, texts, max_tokens=max_tokens)
        self._noise, self._units = noise_multiplier, units or units_of(range(len(texts)))
        self.steps, self.learning_rate = settings.steps, settings.learning_rate

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``; the sample and the noise are those of (seed, step)."""
        random, clip_norm = generator_of(seed, step), self._settings.clip_norm
        sampled = poisson_sample(self._units.count, self._settings.sampling_rate, random)
        members = [self._usable(self._units.members[unit]) for unit in sampled]
        alone = torch.tensor([one[0] for one in members if len(one) == 1], dtype=torch.int64)
        total = np.zeros(self._layout.dimension)
        for piece in torch.split(alone, rows) if len(alone) else ():
            total += ghost_clipped_sum(self._model, self._layout, self._rows(piece), theta, clip_norm)
        for together in (one for one in members if len(one) > 1):
            unit = np.zeros(self._layout.dimension)
            for piece in torch.split(torch.tensor(together), rows):
                unit += unit_gradient(self._model, self._layout, self._rows(piece), theta)
            total += clipped_sum(unit[None], clip_norm)
        total += random.normal(0.0, self._noise * clip_norm, size=total.shape)
        mean: Vector = total / (self._settings.sampling_rate * self._units.count)
        return mean

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``: never."""
        return None

    def _usable(self, members: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
        """The rows of those examples that have targets; the others have gradient zero."""
        rows = self._examples.position[members]
        return [int(row) for row in rows if row >= 0]

    def _rows(self, index: Tensor) -> Batch:
        if self._examples.batch is None:
            raise PenchantError("there is no text to train on; remember something first")
        return self._examples.batch.rows(index)
