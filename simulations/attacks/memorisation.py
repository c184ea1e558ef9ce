"""What a released personal adapter tells of the texts it was trained on: membership of a text, and secrets in it.

Membership: adapters are trained on random halves of the same texts, by the device's own gradients (`TextTrainer`),
and every text's loss under each adapter becomes a score; larger means "was in it":

    loss         -loss under the adapter
    reference    loss of the base model - loss under the adapter
    lira         that, normalised by mean and deviation of the *other* adapters' scores with and without the text
                 (Carlini et al. 2022; deviations are pooled over texts, as there are few adapters)

Extraction: canaries "... is <secret>" with one of N equally likely secrets each. The exposure of a secret is
log2(N / rank), its rank among all N by loss (Carlini et al. 2019): log2(N) if the adapter prefers it to all others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.dp_sgd import MICRO_BATCH, PrivateSettings, noise_multiplier_for
from client.examples import Example, make_example, prepare_input
from client.lora_layout import LoraLayout
from client.personal_lora import PrivateLoraWork, as_tensors, installed
from client.torch_model import Batch, TorchModel
from client.training_work import TextSettings, TextWork
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.engine.engine import Engine
from protocol.frames import Vector
from simulations.attacks.ceilings import Array

COLOURS = ("black", "blue", "green", "white")
ANIMALS = ("bear", "crow", "duck", "fish", "goat", "horse", "snake", "wolf")
SECRETS = tuple(" ".join(pair) for pair in itertools.product(COLOURS, ANIMALS))
PLACES = (
    "garden shed", "bicycle lock", "wine cellar", "post box", "boat house", "attic trunk", "piano stool", "tool chest",
    "summer house", "cookie jar", "music room", "stable door",
)  # fmt: skip

_BETA_1, _BETA_2, _SMALL = 0.9, 0.999, 1e-8  # Adam's


@dataclass(frozen=True)
class TextTrainer:
    """Trains a personal adapter, ordinary LoRA from zero, by the device's own gradients: without privacy (``private``
    None, then ``plain``) or with DP-SGD and the noise that its epsilon needs."""

    model: TorchModel
    layout: LoraLayout
    max_tokens: int
    plain: TextSettings
    private: PrivateSettings | None = None

    def __call__(self, examples: Sequence[Example], seed: int) -> Vector:
        """theta (d,). ``seed`` draws order, start, samples and noise; the adversary is not told it."""
        texts = prepare_input(examples)
        theta = self.layout.start(seed)
        work: TextWork | PrivateLoraWork
        if self.private is None:
            work = TextWork(self.model, self.layout, texts, [], self.plain, max_tokens=self.max_tokens)
        else:
            one = self.private
            noise = noise_multiplier_for(one.epsilon, one.delta, one.sampling_rate, one.steps)
            work = PrivateLoraWork(self.model, self.layout, texts, one, noise, max_tokens=self.max_tokens)
        first, second = np.zeros_like(theta), np.zeros_like(theta)
        for step in range(work.steps):
            gradient = work.gradient(theta, seed, step, MICRO_BATCH)
            first = _BETA_1 * first + (1 - _BETA_1) * gradient
            second = _BETA_2 * second + (1 - _BETA_2) * gradient**2
            size = np.sqrt(second / (1 - _BETA_2 ** (step + 1))) + _SMALL
            theta = theta - work.learning_rate * first / (1 - _BETA_1 ** (step + 1)) / size
        return theta

    @torch.no_grad()
    def losses(self, batch: Batch, theta: Vector | None) -> Array:
        """(b,) nats per target token of each text of a prepared batch; ``theta`` None: the base model."""
        self.model.set_frame(None)
        factors = {} if theta is None else self.layout.lora_factors(theta)
        parts = []
        with installed(self.model, as_tensors(factors)):
            for index in torch.split(torch.arange(len(batch.targets)), MICRO_BATCH):
                losses, tokens = self.model.losses(batch.rows(index))
                parts.append((losses / tokens).double().numpy())
        return np.concatenate(parts)


# ----- membership of a text -----


@dataclass(frozen=True, eq=False)
class Membership:
    """``losses`` (adapters, texts), ``base`` (texts,) and who was in: ``inside`` (adapters, texts)."""

    losses: Array
    base: Array
    inside: NDArray[np.bool_]

    def scores(self, kind: str) -> Array:
        """(adapters, texts) by the module's three attacks."""
        if kind == "loss":
            return -self.losses
        gained = self.base - self.losses
        return gained if kind == "reference" else _lira(gained, self.inside)


def train_halves(
    trainer: TextTrainer,
    examples: Sequence[Example],
    adapters: int,
    random: np.random.Generator,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Membership:
    """Every text is in or out of each adapter by a fair coin of its own; of two adapters in turn it is in one."""
    whole = trainer.model.prepare(prepare_input(examples), max_tokens=trainer.max_tokens)
    base = trainer.losses(whole, None)
    inside = np.zeros((adapters, len(examples)), dtype=bool)
    losses = np.zeros(inside.shape)
    for number in range(adapters):
        inside[number] = ~inside[number - 1] if number % 2 else random.random(len(examples)) < 0.5
        theta = trainer([one for one, present in zip(examples, inside[number], strict=True) if present], number)
        losses[number] = trainer.losses(whole, theta)
        on_progress((number + 1) / adapters)
    return Membership(losses, base, inside)


def _lira(gained: Array, inside: NDArray[np.bool_]) -> Array:
    """Log-likelihood ratios, each adapter judged by the means of the others; one pooled deviation for in and out."""
    adapters = len(gained)
    ratio = np.zeros_like(gained)
    for number in range(adapters):
        others = np.arange(adapters) != number
        present = inside[others]
        means = {}
        for side in (True, False):
            counts = np.maximum((present == side).sum(0), 1)
            means[side] = np.where(present == side, gained[others], 0.0).sum(0) / counts
        spread = gained[others] - np.where(present, means[True], means[False])
        ratio[number] = ((gained[number] - means[False]) ** 2 - (gained[number] - means[True]) ** 2) / max(
            2.0 * float(spread.var()), 1e-12
        )
    return ratio


# ----- extraction of a secret -----


def blind_exposure(candidates: int) -> float:
    """Mean exposure, bits, of a secret about which nothing is known."""
    return float(np.log2(candidates / np.arange(1, candidates + 1)).mean())


@dataclass(frozen=True)
class Canary:
    """A text with a secret: ``text`` as trained on, ``candidates`` the same with every possible secret, of which only
    the secret is scored; ``place`` of the true one among them."""

    text: Example
    candidates: tuple[Example, ...]
    place: int


def make_canaries(engine: Engine, count: int, random: np.random.Generator) -> list[Canary]:
    """Up to ``len(PLACES)`` canaries with secrets drawn from ``SECRETS``."""
    made = []
    for name in PLACES[:count]:
        prompt, place = plain_draft(f"Write down the password of the {name}"), int(random.integers(len(SECRETS)))
        before = f"The password of the {name} is"
        variants = [make_example(engine, prompt, f"{before} {secret}") for secret in SECRETS]
        kept = len(make_example(engine, prompt, before).tokens) - 1  # without the end of the turn
        scored = tuple(Example(one.tokens, kept) for one in variants)
        made.append(Canary(variants[place], scored, place))
    return made


def exposures(trainer: TextTrainer, batches: Sequence[Batch], places: Sequence[int], theta: Vector | None) -> Array:
    """(canaries,) bits, from each canary's prepared candidates; ties count against the attacker."""
    found = []
    for batch, place in zip(batches, places, strict=True):
        losses = trainer.losses(batch, theta)
        rank = int((losses <= losses[place]).sum())
        found.append(np.log2(len(losses) / rank))
    return np.array(found)
