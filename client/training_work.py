"""What the steps of a personal training are: the gradient of the texts' loss, as it is or private.

Both are ``training_run.Work``: pure functions of (theta, seed, step), whatever ran before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from client.dp_sgd import (
    PrivateExamples,
    PrivateSettings,
    example_gradients,
    noisy_mean,
    poisson_sample,
    prepare_examples,
)
from client.local_training import evaluate_coordinates
from client.torch_model import TorchModel, as_theta
from client.training_run import generator_of
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector

Tokens = Sequence[tuple[Sequence[int], int]]  # (tokens, prompt_length) of each text


@dataclass(frozen=True)
class TextSettings:
    """``epochs`` passes at most, in batches of ``batch_size`` texts; with texts kept out, ``patience`` passes without a
    better loss on them end the training."""

    epochs: int
    batch_size: int = 12
    learning_rate: float = 0.05
    patience: int = 2


class TextWork:
    """Mean negative log-likelihood (nats per target token) of batches; every pass in an order of its own."""

    def __init__(
        self,
        model: TorchModel,
        frame: Frame,
        texts: Tokens,
        kept_out: Tokens,
        settings: TextSettings,
        *,
        max_tokens: int,
    ) -> None:
        self._model, self._frame, self._settings = model, frame, settings
        self._batch = model.prepare(texts, max_tokens=max_tokens)
        self._kept_out = model.prepare(kept_out, max_tokens=max_tokens) if kept_out else None
        self._per_pass = -(-len(self._batch.targets) // settings.batch_size)
        self.steps = settings.epochs * self._per_pass
        self.learning_rate, self.patience = settings.learning_rate, settings.patience

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``: of the mean over the target tokens of one batch."""
        number, size = divmod(step, self._per_pass)[1], self._settings.batch_size
        order = generator_of(seed, step // self._per_pass).permutation(len(self._batch.targets))
        chosen = torch.from_numpy(order[number * size : (number + 1) * size])
        total, tokens = np.zeros(self._frame.dimension), 0
        self._model.set_frame(self._frame)
        for piece in torch.split(chosen, rows):
            point = as_theta(theta).requires_grad_(True)
            self._model.set_coordinates(self._frame, point)
            losses, counts = self._model.losses(self._batch.rows(piece))
            losses.sum().backward()  # type: ignore[no-untyped-call]
            if point.grad is None:
                raise PenchantError("the loss does not depend on the adapter; the frame does not fit this model")
            total += point.grad[0].double().numpy()
            tokens += int(counts.sum())
        self._model.set_frame(None)
        return total / tokens

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``: after every pass, in nats per token."""
        if self._kept_out is None or step % self._per_pass:
            return None
        return evaluate_coordinates(self._model, self._frame, self._kept_out, theta)


class PrivateWork:
    """DP-SGD's noisy mean of clipped gradients (``client.dp_sgd``), on Poisson samples. No texts are kept out."""

    patience = 1  # never counted down: there are no checks

    def __init__(
        self,
        model: TorchModel,
        frame: Frame,
        texts: Tokens,
        settings: PrivateSettings,
        noise_multiplier: float,
        *,
        max_tokens: int,
    ) -> None:
        self._model, self._frame, self._settings = model, frame, settings
        self._examples: PrivateExamples = prepare_examples(model, texts, max_tokens=max_tokens)
        self._noise, self._count = noise_multiplier, len(texts)
        self.steps, self.learning_rate = settings.steps, settings.learning_rate

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``; the sample and the noise are those of (seed, step)."""
        random = generator_of(seed, step)
        sampled = poisson_sample(self._count, self._settings.sampling_rate, random)
        pieces = [sampled[first : first + rows] for first in range(0, len(sampled), rows)]
        gradients = [example_gradients(self._model, self._frame, self._examples, piece, theta) for piece in pieces] or [
            np.zeros((0, self._frame.dimension))
        ]
        return noisy_mean(
            np.concatenate(gradients),
            self._settings.clip_norm,
            self._noise,
            self._settings.sampling_rate * self._count,
            random,
        )

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``: never."""
        return None
