"""The personal tier as ordinary LoRA: every map W (out x in) of the adapted layers gets ``delta W = B A``.

    y = x W^T + (x A^T) B^T           A (r, in), B (out, r); x (b, t, in)

Hu et al. 2022 with alpha = r, A drawn uniformly from +-1/sqrt(in) (PEFT's Kaiming start) and B = 0, so that training
starts at the base. ``theta`` (d,) holds the factors of all maps, A before B, row-major; d = r * sum(in + out), some
160 times the numbers of a frame of the same gain, but no artefact of public text is needed. It serves the tier that
never leaves the device; what is summed over a fleet needs a frame (sums of products are no products of sums).

Both kinds of work are ``training_run.Work``: pure functions of (theta, seed, step). The private one is DP-SGD as in
``client/dp_sgd.py`` (same units, sampling, noise and divisor); single texts are clipped by
``client/ghost_clipping.py``, larger units, whose examples share one clip, by their summed gradient, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.dp_sgd import PrivateSettings, clipped_sum, poisson_sample, prepare_examples
from client.ghost_clipping import Recorder, recorded_product
from client.privacy_units import Units, units_of
from client.torch_model import Batch, Text, TorchModel
from client.training_run import generator_of
from client.training_work import TextSettings
from edge_runtime.adapters.adapter_file import Factors
from protocol.errors import PenchantError
from protocol.frames import Vector

Tensors = Mapping[str, tuple[Tensor, Tensor]]  # module -> (A, B)


@dataclass(frozen=True)
class LoraLayout:
    """Where each factor lies in theta: ``shapes[i]`` is (out, in) of module i."""

    modules: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    rank: int

    @staticmethod
    def of(model: TorchModel, kinds: Sequence[str], rank: int) -> LoraLayout:
        """Rank ``rank`` for all maps of ``kinds`` in the adapted layers of a model."""
        modules = model.module_names(kinds)
        if not modules or rank < 1:
            raise PenchantError("ordinary LoRA needs a rank of at least 1 and a map of the adapted layers")
        shapes = [model.linear(name).weight.shape for name in modules]
        return LoraLayout(modules, tuple((int(out), int(inner)) for out, inner in shapes), rank)

    @property
    def dimension(self) -> int:
        """Length d of theta."""
        return self.rank * sum(out + inner for out, inner in self.shapes)

    def start(self, seed: int) -> Vector:
        """Theta (d,) of an adapter that changes nothing: A drawn from ``seed``, B zero."""
        random, theta = np.random.default_rng(seed), np.zeros(self.dimension)
        for a, _ in self._slices(theta):
            a[:] = random.uniform(-1.0, 1.0, a.shape) / np.sqrt(a.shape[1])
        return theta

    def lora_factors(self, theta: Vector) -> Factors:
        """The adapter's factors for ``write_adapter(..., alpha=rank)``: module -> (A (r, in), B (out, r))."""
        pairs = zip(self.modules, self._slices(self._checked(theta)), strict=True)
        return {name: (a.astype(np.float32), b.astype(np.float32)) for name, (a, b) in pairs}

    def flat(self, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Vector:
        """The inverse of ``lora_factors``, from tensors; modules that are not there are zero."""
        theta = np.zeros(self.dimension)
        for name, (a, b) in zip(self.modules, self._slices(theta), strict=True):
            if name in pairs:
                a[:], b[:] = (part.detach().double().numpy() for part in pairs[name])
        return theta

    def _slices(self, theta: Vector) -> Iterator[tuple[Vector, Vector]]:
        """Views of theta: A and B of each module."""
        first = 0
        for out, inner in self.shapes:
            middle, last = first + self.rank * inner, first + self.rank * (inner + out)
            yield theta[first:middle].reshape(self.rank, inner), theta[middle:last].reshape(out, self.rank)
            first = last

    def _checked(self, theta: Vector) -> Vector:
        if theta.shape != (self.dimension,):
            raise PenchantError(f"this adapter has {self.dimension} numbers, got {theta.shape}")
        return theta


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


def summed_gradient(
    model: TorchModel, layout: LoraLayout, batch: Batch, theta: Vector, *, per_text: bool
) -> tuple[Vector, int]:
    """Gradient (d,) of the summed loss of a batch, and its target tokens. ``per_text`` weighs every text's loss by one
    over its number of target tokens."""
    tensors = as_tensors(layout.lora_factors(theta), trained=True)
    with installed(model, tensors):
        losses, tokens = model.losses(batch)
        (losses / tokens if per_text else losses).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: (a.grad, b.grad) for name, (a, b) in tensors.items() if a.grad is not None and b.grad is not None
    }
    if not gradients:
        raise PenchantError("the loss does not depend on the adapter; it does not fit this model")
    return layout.flat(gradients), int(tokens.sum())


def ghost_clipped_sum(model: TorchModel, layout: LoraLayout, batch: Batch, theta: Vector, clip_norm: float) -> Vector:
    """Sum (d,) over the texts of a batch, each prepared alone, of the gradient of its mean loss per target token,
    clipped to ``clip_norm``."""
    recorder = Recorder()
    with installed(model, as_tensors(layout.lora_factors(theta), trained=True), recorder):
        losses, tokens = model.losses(batch)
        (losses / tokens).sum().backward()  # type: ignore[no-untyped-call]
    return layout.flat(recorder.clipped_sum(clip_norm))


@torch.no_grad()
def evaluate_lora(model: TorchModel, layout: LoraLayout, batch: Batch, theta: Vector) -> float:
    """Loss (nats per token) of an adapter on a batch."""
    with installed(model, as_tensors(layout.lora_factors(theta))):
        losses, tokens = model.losses(batch)
    return float(losses.sum() / tokens.sum())


class LoraWork:
    """Mean negative log-likelihood (nats per target token) of batches; every pass in an order of its own."""

    def __init__(
        self,
        model: TorchModel,
        layout: LoraLayout,
        texts: Sequence[Text],
        kept_out: Sequence[Text],
        settings: TextSettings,
        *,
        max_tokens: int,
    ) -> None:
        self._model, self._layout, self._size = model, layout, settings.batch_size
        model.set_frame(None)
        self._batch = model.prepare(texts, max_tokens=max_tokens)
        self._kept_out = model.prepare(kept_out, max_tokens=max_tokens) if kept_out else None
        self._per_pass = -(-len(self._batch.targets) // settings.batch_size)
        self.steps = settings.epochs * self._per_pass
        self.learning_rate, self.patience = settings.learning_rate, settings.patience

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``: of the mean over the target tokens of one batch."""
        number = step % self._per_pass
        order = generator_of(seed, step // self._per_pass).permutation(len(self._batch.targets))
        chosen = torch.from_numpy(order[number * self._size : (number + 1) * self._size])
        total, tokens = np.zeros(self._layout.dimension), 0
        for piece in torch.split(chosen, rows):
            part, count = summed_gradient(self._model, self._layout, self._batch.rows(piece), theta, per_text=False)
            total, tokens = total + part, tokens + count
        return total / tokens

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``: after every pass, in nats per token."""
        if self._kept_out is None or step % self._per_pass:
            return None
        return evaluate_lora(self._model, self._layout, self._kept_out, theta)


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
                unit += summed_gradient(self._model, self._layout, self._rows(piece), theta, per_text=True)[0]
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
