"""Rounds of a strategy over a few people, and the choice of its learning rate and clip norms by other people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from server.algorithms import shrink
from simulations.strategies.lora_training import TorchTexts
from simulations.strategies.private_mean import private_mean
from simulations.strategies.strategy import Strategy, Upload

AnyStrategy = Strategy[Any, TorchTexts]


@dataclass(frozen=True)
class RoundsResult:
    """The server's state and what everybody keeps after some rounds; `lengths` of the uploads of the first round's
    sums, one list per sum."""

    state: Any
    own: tuple[Any, ...]
    lengths: tuple[tuple[float, ...], ...]


def run_rounds(
    strategy: AnyStrategy,
    people: Sequence[TorchTexts],
    *,
    rounds: int,
    clips: Sequence[float] = (),
    noise_multiplier: float = 0.0,
    seed: int = 0,
) -> RoundsResult:
    """Rounds of one strategy over these people. `clips`: one per sum of a round; none: nobody is clipped.

    `noise_multiplier` is that of a round; each of its sums gets its share.
    """
    state, own = strategy.start(), [strategy.join(number) for number in range(len(people))]
    lengths: list[tuple[float, ...]] = []
    for number in range(rounds * strategy.sums_per_round):
        turn, place = divmod(number, strategy.sums_per_round)
        uploads: list[Upload] = [
            strategy.upload(state, own[person], texts, seed=(seed * 1000 + turn) * 1000 + person)
            for person, texts in enumerate(people)
        ]
        own = [upload.own for upload in uploads]
        norms = tuple(float(np.linalg.norm(upload.vector)) for upload in uploads)
        if turn == 0:
            lengths.append(norms)
        outcome = private_mean(
            [(upload.vector, upload.loss) for upload in uploads],
            clip_norm=clips[place] if clips else max(norms) * 1.001,
            noise_multiplier=noise_multiplier * math.sqrt(strategy.sums_per_round),
            round=number,
            seed=seed,
        )
        state = strategy.absorb(state, shrink(outcome.mean_update, outcome.noise_deviation))
    return RoundsResult(state, tuple(own), tuple(lengths))


@dataclass(frozen=True)
class Tuned:
    """A strategy with its chosen rate, and the clip norm of each sum of its rounds."""

    strategy: AnyStrategy
    rate: float
    clips: tuple[float, ...]


def tune(
    strategy: Any,
    rates: Sequence[float],
    train: Sequence[TorchTexts],
    held_out: Sequence[TorchTexts],
    *,
    rounds: int,
    seed: int,
) -> Tuned:
    """The best of `rates` by the held-out loss of these people after `rounds`; medians of their first lengths."""
    tried = []
    for rate in rates:
        candidate: AnyStrategy = replace(strategy, rate=rate)
        result = run_rounds(candidate, train, rounds=rounds, seed=seed)
        losses = [
            texts.loss(candidate.adapter(result.state, own), range(texts.count))
            for texts, own in zip(held_out, result.own, strict=True)
        ]
        clips = tuple(float(np.median(lengths)) for lengths in result.lengths)
        tried.append((float(np.mean(losses)), Tuned(candidate, rate, clips)))
    return min(tried, key=lambda pair: pair[0])[1]
