"""Private fine-tuning on frame coordinates: DP-SGD (Abadi et al. 2016, algorithm 1) over examples, or over groups of
examples that belong together.

What is promised: the returned ``theta`` and everything computed from it is (epsilon, delta)-differentially
private with

- unit: one example (one text with its prompt), or one group of examples, such as all that came of one
  conversation or document (``client/privacy_units.py``); never one person;
- neighbours: add or remove one unit with all its examples; the number of units ``n`` (through the expected batch
  size) is public;
- sampling: Poisson, every unit joins every step, with all its examples, independently with probability ``q``.

One step, with ``g_i`` (d,) the gradient of the mean loss per target token of example i and ``G_u`` the sum of those of
unit u:

    theta <- step( theta,  ( sum_{u in batch} G_u * min(1, C / |G_u|)  +  z C N(0, I_d) ) / (q n) )

Divided by the *expected* batch size: the realised one is data. A batch without units takes its noisy step
too, as skipping it would tell that it was empty.

A group is clipped as one, so the promise for it is the one that is stated. Promised by examples alone, a group of k
would be left with k epsilon and a delta that grows like exp(k epsilon) (group privacy, Dwork and Roth 2014, theorem
2.2). It holds only if nothing of one unit goes into another's examples: no notes from other conversations in a prompt,
no token weights that were computed from them.

Per-example gradients need no hooks: every example gets its own copy of the d coordinates, at the price of a plain step
(``client/adapted_linear.py``). Each example keeps to its own words and the public ones in the output layer: with a word
list of all texts, one text would change the losses, and so the clipped gradients, of the others.

Not covered: the Gaussian noise is floating point (Mironov 2012), and the generator is not a cryptographic one
(it is seeded from the operating system). Memory: one copy of R per example of ``MICRO_BATCH``.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from client.opacus_epsilon import gaussian_epsilon
from client.output_words import draw_of
from client.privacy_units import Units, unit_gradients, units_of
from client.torch_model import Batch, Text, TorchModel
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector

MICRO_BATCH = 16  # examples differentiated at once; no effect on the result


@dataclass(frozen=True)
class PrivateSettings:
    """``epsilon`` and ``delta``: the promise for all steps together. ``epochs`` / ``sampling_rate`` steps are
    taken, ``sampling_rate`` q in (0, 1]. ``clip_norm`` C bounds one unit's gradient (L2, nats per token and
    coordinate).
    """

    epsilon: float
    delta: float
    epochs: float
    sampling_rate: float
    clip_norm: float
    learning_rate: float
    optimiser: Literal["adam", "sgd"] = "adam"

    def __post_init__(self) -> None:
        positive = (self.epsilon, self.epochs, self.clip_norm, self.learning_rate)
        if not all(math.isfinite(value) and value > 0 for value in positive):
            raise PenchantError("epsilon, epochs, clip_norm and learning_rate must be positive numbers")
        if not (0 < self.delta < 1 and 0 < self.sampling_rate <= 1):
            raise PenchantError("delta must lie between 0 and 1, sampling_rate above 0 and at most 1")
        if self.optimiser not in ("adam", "sgd"):
            raise PenchantError("the optimiser of private training is 'adam' or 'sgd'")

    @property
    def steps(self) -> int:
        """Noisy steps in all."""
        return max(1, round(self.epochs / self.sampling_rate))


@dataclass(frozen=True)
class PrivateResult:
    """``theta`` (d,) and what it cost: ``epsilon`` at the settings' delta for ``steps`` steps with
    ``noise_multiplier`` z. All of it may be published."""

    theta: Vector
    epsilon: float
    noise_multiplier: float
    steps: int


@dataclass(frozen=True)
class PrivateExamples:
    """``batch``: the examples that have targets. ``position`` (n,): row of example i in it, or -1: such an
    example is sampled like any other and has gradient zero."""

    batch: Batch | None
    position: NDArray[np.int64]


def train_privately(
    model: TorchModel,
    frame: Frame,
    texts: Sequence[Text],
    start: Vector,
    settings: PrivateSettings,
    *,
    units: Units | None = None,
    max_tokens: int = 160,
    generator: np.random.Generator | None = None,
) -> PrivateResult:
    """Train one adapter privately on ``texts`` (tokens, prompt_length) from ``start`` (d,), which must be
    public. ``units`` None: every text is a unit.

    ``generator`` draws samples and noise; only tests pass one, as the promise needs fresh secret randomness.
    Raises PenchantError if there are no texts or the budget cannot be met.
    """
    if not texts:
        raise PenchantError("there is no text to train on; remember something first")
    frame.coordinates(np.asarray(start))
    steps, rate = settings.steps, settings.sampling_rate
    noise_multiplier = noise_multiplier_for(settings.epsilon, settings.delta, rate, steps)
    epsilon = epsilon_spent(noise_multiplier, rate, steps, settings.delta)
    random = generator or np.random.default_rng(int.from_bytes(os.urandom(32), "big"))
    examples = prepare_examples(model, texts, max_tokens=max_tokens)
    theta = torch.from_numpy(np.array(start, dtype=np.float64)).requires_grad_(True)
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.SGD
    optimiser = kind([theta], lr=settings.learning_rate)
    units = units or units_of(range(len(texts)))
    for _ in range(steps):
        point = theta.detach().numpy()
        sampled = poisson_sample(units.count, rate, random)
        gradients_of = partial(example_gradients, model, frame, examples, theta=point)
        gradients = unit_gradients(gradients_of, units, sampled, frame.dimension, MICRO_BATCH)
        noisy = noisy_mean(gradients, settings.clip_norm, noise_multiplier, rate * units.count, random)
        theta.grad = torch.from_numpy(noisy)
        optimiser.step()
    trained: Vector = theta.detach().numpy().copy()
    return PrivateResult(trained, epsilon, noise_multiplier, steps)


def poisson_sample(count: int, rate: float, random: np.random.Generator) -> NDArray[np.int64]:
    """Indices of the units that join a step: one independent draw with probability ``rate`` for each."""
    return np.flatnonzero(random.random(count) < rate)


def clipped_sum(gradients: NDArray[np.float64], clip_norm: float) -> NDArray[np.float64]:
    """Sum (d,) of the rows of ``gradients`` (b, d), one per unit, each scaled down to L2 norm ``clip_norm`` if it is
    longer.

    A row that is not finite counts as zero, so one unit never changes the sum by more than ``clip_norm``.
    """
    rows = np.where(np.isfinite(gradients).all(axis=1, keepdims=True), gradients, 0.0)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    factors = np.minimum(1.0, clip_norm / np.maximum(norms, np.finfo(np.float64).tiny))
    total: NDArray[np.float64] = (rows * factors).sum(axis=0)
    return total


def noisy_mean(
    gradients: NDArray[np.float64],
    clip_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """(clipped sum of ``gradients`` (b, d) + N(0, (z C)^2)) / expected batch size, shape (d,); b may be 0."""
    total = clipped_sum(gradients, clip_norm)
    noise = random.normal(0.0, noise_multiplier * clip_norm, size=total.shape)
    mean: NDArray[np.float64] = (total + noise) / expected_batch_size
    return mean


def prepare_examples(model: TorchModel, texts: Sequence[Text], *, max_tokens: int = 160) -> PrivateExamples:
    """The texts prepared for gradients that depend on no other text (``Batch.apart``)."""
    usable = [min(len(text[0]), max_tokens) > max(text[1], 1) for text in texts]
    position = np.where(usable, np.cumsum(usable) - 1, -1)
    kept = [text for text, has_targets in zip(texts, usable, strict=True) if has_targets]
    return PrivateExamples(model.prepare(kept, max_tokens=max_tokens, apart=True) if kept else None, position)


def example_gradients(
    model: TorchModel, frame: Frame, examples: PrivateExamples, index: NDArray[np.int64], theta: Vector
) -> NDArray[np.float64]:
    """Gradient with respect to ``theta`` (d,) of the mean loss per target token of each example of ``index``:
    (len(index), d) float64."""
    gradients = np.zeros((len(index), frame.dimension))
    rows = examples.position[index]
    usable = np.flatnonzero(rows >= 0)
    if examples.batch is None or len(usable) == 0:
        return gradients
    model.set_frame(frame)
    point = torch.from_numpy(np.asarray(theta, dtype=np.float32))
    done = 0
    for piece in model.pieces(examples.batch, torch.from_numpy(rows[usable]), MICRO_BATCH):
        copies = point.expand(len(piece), -1).clone().requires_grad_(True)  # one theta per example
        model.set_coordinates(frame, copies)
        summed, tokens = model.losses(examples.batch.rows(piece), draw=draw_of(theta))
        (summed / tokens).sum().backward()  # type: ignore[no-untyped-call]
        if copies.grad is None:
            raise PenchantError("the loss does not depend on the adapter; the frame does not fit this model")
        gradients[usable[done : done + len(piece)]] = copies.grad.double().numpy()
        done += len(piece)
    model.set_frame(None)
    return gradients


def epsilon_spent(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """Epsilon at ``delta`` of ``steps`` Poisson-sampled Gaussian steps: the upper bound of the PRV accountant
    (Gopi et al. 2021), or where that fails numerically the Renyi accountant's (Mironov et al. 2019); both
    Opacus's."""
    epsilon = gaussian_epsilon([(noise_multiplier, sampling_rate, steps)], delta)
    if math.isfinite(epsilon):
        return epsilon
    raise PenchantError("the privacy of this training cannot be computed; choose a larger epsilon or delta")


@lru_cache(maxsize=64)
def noise_multiplier_for(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest noise multiplier z (to 0.01 in epsilon) that keeps ``steps`` steps within (epsilon,
    delta)."""
    from opacus.accountants.utils import get_noise_multiplier

    for name in ("prv", "rdp"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = get_noise_multiplier(
                    target_epsilon=epsilon,
                    target_delta=delta,
                    sample_rate=sampling_rate,
                    steps=steps,
                    accountant=name,
                    epsilon_tolerance=min(0.01, 0.01 * epsilon),
                )
                if epsilon_spent(found, sampling_rate, steps, delta) <= epsilon:
                    return float(found)
        except (ValueError, RuntimeError, ArithmeticError, MemoryError):
            continue
    raise PenchantError(
        f"no noise reaches epsilon {epsilon:g} in {steps} steps; choose a larger epsilon or fewer epochs"
    )
