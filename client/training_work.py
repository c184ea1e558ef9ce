"""What the steps of a personal training are: the gradient of a weighted sum of objectives, as it is or private.

Both are ``training_run.Work``: pure functions of (theta, seed, step), whatever ran before.

One pass of ``ObjectivesWork`` has S = ceil(n / batch size) steps, n the items (examples or pairs) that it takes of the
largest objective: a further objective makes the steps richer, not more. Each is laid out in an order of the pass (drawn
from the seed, or as it comes), cut into S parts of equal size to within one item, and step s takes part s of each:

    g = sum_k lambda_k grad( sum of losses of k's part / target tokens of k's part )        (pairs: / pairs)

An objective with fewer items than S has empty parts, which add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.dp_sgd import (
    PrivateExamples,
    PrivateSettings,
    example_gradients,
    noisy_mean,
    poisson_sample,
    prepare_examples,
)
from client.examples import Example, prepare_input
from client.local_training import evaluate_coordinates
from client.lora_layout import AdapterSpace
from client.objectives.objective import Objective, check_private
from client.objectives.preference import PreparedPairs, pair_losses, prepare_pairs
from client.output_words import draw_of
from client.privacy_units import Units, unit_gradients, units_of
from client.torch_model import Batch, Text, TorchModel, as_theta
from client.training_run import generator_of
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector


@dataclass(frozen=True)
class TextSettings:
    """``epochs`` passes at most, in batches of ``batch_size`` texts; with texts kept out, ``patience`` passes without a
    better loss on them end the training."""

    epochs: int
    batch_size: int = 12
    learning_rate: float = 0.05
    patience: int = 2


class ObjectivesWork:
    """The weighted sum of objectives. ``start`` (d,) is where DPO's reference values are taken; ``kept_out`` is checked
    after every pass."""

    def __init__(
        self,
        model: TorchModel,
        frame: AdapterSpace,
        objectives: Sequence[Objective],
        kept_out: Objective | None,
        settings: TextSettings,
        *,
        start: Vector | None = None,
    ) -> None:
        self._model, self._frame = model, frame
        reference = np.zeros(frame.dimension) if start is None else start
        usable = [objective.usable() for objective in objectives]
        self._parts = [_Part(model, frame, each, reference) for each in usable if len(each)]
        items = max((len(taken) for part in self._parts for taken in part.passes), default=0)
        if not items:
            raise PenchantError("there is no text to train on; remember something first")
        self._kept_out = None
        if kept_out is not None and len(kept_out.usable()):
            self._kept_out = model.prepare(prepare_input(kept_out.examples), max_tokens=kept_out.max_tokens)
        self._per_pass = -(-items // settings.batch_size)
        self.steps = settings.epochs * self._per_pass
        self.learning_rate, self.patience = settings.learning_rate, settings.patience

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``: of the weighted sum over one part of each objective."""
        passed, number = divmod(step, self._per_pass)
        random = generator_of(seed, passed)
        self._model.set_frame(self._frame)
        total = np.zeros_like(theta)
        for part in self._parts:
            taken = part.passes[passed % len(part.passes)]
            order = taken if part.objective.in_order else random.permutation(taken)
            chosen = np.array_split(order, self._per_pass)[number]
            if len(chosen):
                total += part.objective.weight * part.mean_gradient(torch.from_numpy(chosen), theta, rows)
        self._model.set_frame(None)
        return total

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``: after every pass, in nats per token."""
        if self._kept_out is None or step % self._per_pass:
            return None
        return evaluate_coordinates(self._model, self._frame, self._kept_out, theta)


class TextWork(ObjectivesWork):
    """Mean negative log-likelihood (nats per target token) of batches of texts; every pass in an order of its own."""

    def __init__(
        self,
        model: TorchModel,
        frame: AdapterSpace,
        texts: Sequence[Text],
        kept_out: Sequence[Text],
        settings: TextSettings,
        *,
        max_tokens: int,
    ) -> None:
        trained, out = (_objective_of(part, max_tokens) for part in (texts, kept_out))
        super().__init__(model, frame, [trained], out, settings)


class PrivateObjectivesWork:
    """DP-SGD's noisy mean of clipped gradients (``client.dp_sgd``), on Poisson samples. No texts are kept out.

    An item is one example or one pair; its gradient is that of its own mean loss times its objective's weight, and
    depends on no other item. ``units`` (of the items in the order of ``objectives``, examples or pairs) are sampled and
    clipped as one; None: every item is its own.
    """

    patience = 1  # never counted down: there are no checks

    def __init__(
        self,
        model: TorchModel,
        frame: Frame,
        objectives: Sequence[Objective],
        settings: PrivateSettings,
        noise_multiplier: float,
        *,
        units: Units | None = None,
        start: Vector | None = None,
    ) -> None:
        check_private(objectives)
        self._frame, self._settings, self._noise = frame, settings, noise_multiplier
        reference = np.zeros(frame.dimension) if start is None else start
        self._parts = [_PrivatePart(model, frame, each, reference) for each in objectives]
        self._bounds = np.cumsum([0, *(part.count for part in self._parts)])
        items = int(self._bounds[-1])
        self._units = units or units_of(range(items))
        if not items or sum(map(len, self._units.members)) != items:
            raise PenchantError("private training needs texts, and every text in one unit")
        self.steps, self.learning_rate = settings.steps, settings.learning_rate

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``; the sample and the noise are those of (seed, step)."""
        random, rate = generator_of(seed, step), self._settings.sampling_rate
        sampled = poisson_sample(self._units.count, rate, random)
        gradients = unit_gradients(
            lambda index: self._gradients(index, theta), self._units, sampled, self._frame.dimension, rows
        )
        return noisy_mean(gradients, self._settings.clip_norm, self._noise, rate * self._units.count, random)

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``: never."""
        return None

    def _gradients(self, index: NDArray[np.int64], theta: Vector) -> NDArray[np.float64]:
        """The gradients (b, d) of the items ``index`` (b,), in their order."""
        gradients = np.zeros((len(index), self._frame.dimension))
        for part, first, end in zip(self._parts, self._bounds[:-1], self._bounds[1:], strict=True):
            own = np.flatnonzero((index >= first) & (index < end))
            if len(own):
                gradients[own] = part.gradients(index[own] - first, theta)
        return gradients


class PrivateWork(PrivateObjectivesWork):
    """The same for texts (tokens, prompt_length) alone."""

    def __init__(
        self,
        model: TorchModel,
        frame: Frame,
        texts: Sequence[Text],
        settings: PrivateSettings,
        noise_multiplier: float,
        *,
        max_tokens: int,
        units: Units | None = None,
    ) -> None:
        super().__init__(model, frame, [_objective_of(texts, max_tokens)], settings, noise_multiplier, units=units)


class _Part:
    """One objective, prepared: each of its items has something to train on, and ``passes`` say which a pass takes."""

    def __init__(self, model: TorchModel, frame: AdapterSpace, objective: Objective, start: Vector) -> None:
        self.objective, self.passes, self._model, self._frame = objective, objective.passes(), model, frame
        self._batch: Batch | None = None
        self._pairs: PreparedPairs | None = None
        if objective.pairs:
            self._pairs = prepare_pairs(model, frame, objective.pairs, start, max_tokens=objective.max_tokens)
        else:
            self._batch = model.prepare(prepare_input(objective.examples), max_tokens=objective.max_tokens)

    def mean_gradient(self, chosen: Tensor, theta: Vector, rows: int) -> Vector:
        """Gradient (d,) of the mean loss of the items ``chosen`` (b,), ``rows`` texts at a time; the frame must be
        installed."""
        total, count = np.zeros_like(theta), 0
        pieces = (
            torch.split(chosen, max(1, rows // 2))
            if self._batch is None
            else self._model.pieces(self._batch, chosen, rows)
        )
        for piece in pieces:
            point = as_theta(theta).requires_grad_(True)
            if self._pairs:
                losses, counted = pair_losses(self._model, self._frame, self._pairs, piece, point), len(piece)
            else:
                assert self._batch is not None
                self._model.set_coordinates(self._frame, point)
                losses, tokens = self._model.losses(self._batch.rows(piece), draw=draw_of(theta))
                counted = int(tokens.sum())
            losses.sum().backward()  # type: ignore[no-untyped-call]
            total += _gradient_of(point)[0]
            count += counted
        total /= count
        return total


class _PrivatePart:
    """One objective, every item prepared alone: ``count`` items, those without a target among them (gradient 0)."""

    def __init__(self, model: TorchModel, frame: Frame, objective: Objective, start: Vector) -> None:
        self.count, self._weight = len(objective), objective.weight
        self._model, self._frame = model, frame
        self._examples: PrivateExamples | None = None
        self._pairs: PreparedPairs | None = None
        tokens = objective.max_tokens
        if objective.pairs:
            kept = [pair.has_targets(tokens) for pair in objective.pairs]
            self._position = np.where(kept, np.cumsum(kept) - 1, -1)
            if any(kept):
                pairs = objective.usable().pairs
                self._pairs = prepare_pairs(model, frame, pairs, start, max_tokens=tokens)
        else:
            self._examples = prepare_examples(model, prepare_input(objective.examples), max_tokens=tokens)

    def gradients(self, index: NDArray[np.int64], theta: Vector) -> NDArray[np.float64]:
        """Gradient (b, d) of the weighted mean loss of each of the items ``index`` (b,), one copy of theta for each."""
        if self._examples is not None:
            return self._weight * example_gradients(self._model, self._frame, self._examples, index, theta)
        gradients = np.zeros((len(index), self._frame.dimension))
        used = np.flatnonzero(self._position[index] >= 0)
        if self._pairs is None or not len(used):
            return gradients
        self._model.set_frame(self._frame)
        copies = as_theta(theta).repeat(len(used), 1).requires_grad_(True)
        rows = torch.from_numpy(self._position[index[used]])
        pair_losses(self._model, self._frame, self._pairs, rows, copies).sum().backward()  # type: ignore[no-untyped-call]
        self._model.set_frame(None)
        gradients[used] = self._weight * _gradient_of(copies)
        return gradients


def _objective_of(texts: Sequence[Text], max_tokens: int) -> Objective:
    """Texts as the objective of their next tokens."""
    examples = (Example(tuple(text[0]), text[1], tuple(text[2]) if len(text) == 3 else ()) for text in texts)
    return Objective("next_token", tuple(examples), max_tokens=max_tokens)


def _gradient_of(point: Tensor) -> NDArray[np.float32]:
    """What was accumulated for ``point``; PenchantError if nothing was."""
    if point.grad is None:
        raise PenchantError("the loss does not depend on the adapter; the frame does not fit this model")
    gradient: NDArray[np.float32] = point.grad.numpy()
    return gradient
