"""A judge that says how certain it is, held against known answers (Dong et al., "Can LLM be a Personalized Judge?").

A judge is shown what is known of a person and two answers, and says with which probability the person prefers the one
shown first. It is asked in both orders, p for (x, y) and q for (y, x); what it thinks of the place cancels:

    l = (logit p - logit q) / 2,     certainty = sigma(|s l|),     the answer is x if l > 0

s >= 0 is one number for a judge and a kind of cases, fitted by likelihood on the *tuning* people's cases and used on
everybody else's: what a small model's logits lack is their scale. A judge that is no better than chance there gets
s near 0, is never certain, and abstains. Below a ``threshold`` of certainty it abstains anyway.

Reported: agreement of all, people's mean with Student's t; coverage and agreement of what is certain enough (Wilson);
the expected calibration error, sum_b n_b / n |agreement_b - certainty_b| over ten equal bins of [1/2, 1]; how often
both orders gave the same answer, and how often nothing was decided (l = 0: counts half, is never certain).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from simulations.bench.preferences import wilson
from simulations.statistics import mean_interval

THRESHOLD: Final = 0.8
THRESHOLDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_BINS: Final = 10
_LEAST: Final = 1e-4  # of a probability
_LARGEST_SCALE: Final = 1e4
Array = NDArray[np.float64]


@dataclass(frozen=True)
class JudgeCase:
    """What is ``known`` of a ``person``, a ``question``, and two answers of which they are known to prefer
    ``preferred``. ``key`` is the case's place in its data."""

    key: str
    person: str
    known: tuple[str, ...]
    question: str
    preferred: str
    other: str


class Judge(Protocol):
    """Anything that says with which probability the person prefers ``first``."""

    def probability(self, known: Sequence[str], question: str, first: str, second: str) -> float: ...


@dataclass(frozen=True)
class Judgement:
    """``logit`` in favour of what the person is known to prefer, unscaled; ``consistent``: both orders agree."""

    person: str
    logit: float
    consistent: bool


def ask_both_orders(judge: Judge, case: JudgeCase) -> Judgement:
    """The judge's opinion of one case."""
    ahead = _logit(judge.probability(case.known, case.question, case.preferred, case.other))
    behind = _logit(judge.probability(case.known, case.question, case.other, case.preferred))
    return Judgement(case.person, (ahead - behind) / 2, ahead * behind < 0)


def fit_scale(logits: Sequence[float]) -> float:
    """The s >= 0 that makes sigma(s l) most likely, with one made-up case right and one wrong at the mean size of l, so
    that a judge who is never wrong is not infinitely sure."""
    given = np.asarray(logits, dtype=np.float64)
    size = float(np.abs(given).mean()) if len(given) else 0.0
    if size == 0.0:
        return 0.0
    units = np.concatenate([given / size, [1.0, -1.0]])

    def cost(scale: float) -> float:
        return float(np.logaddexp(0.0, -scale * units).mean())

    best = float(optimize.minimize_scalar(cost, bounds=(0.0, 50.0), method="bounded").x)
    return min(best / size, _LARGEST_SCALE) if cost(best) < cost(0.0) else 0.0


def certainties(logits: Sequence[float] | Array, scale: float) -> Array:
    """(n,) sigma(|s l|), in [1/2, 1]."""
    sure: Array = 1.0 / (1.0 + np.exp(-scale * np.abs(np.asarray(logits, dtype=np.float64))))
    return sure


def calibration_error(agreed: Array, sure: Array) -> float:
    """The expected calibration error of certainties (n,) of which ``agreed`` (n,) were right."""
    places = np.minimum((2 * _BINS * (sure - 0.5)).astype(int), _BINS - 1)
    return float(
        sum(
            (places == place).mean() * abs(agreed[places == place].mean() - sure[places == place].mean())
            for place in np.unique(places)
        )
    )


def report(judgements: Sequence[Judgement], scale: float, threshold: float = THRESHOLD) -> dict[str, Any]:
    """All figures of the judgements of other people than those that ``scale`` was fitted on."""
    logits = np.array([one.logit for one in judgements])
    agreed = np.where(logits == 0.0, 0.5, (logits > 0.0).astype(np.float64))
    sure = certainties(logits, scale)
    people: dict[str, list[float]] = defaultdict(list)
    for one, right in zip(judgements, agreed, strict=True):
        people[one.person].append(float(right))
    return {
        "cases": len(judgements),
        "people": len(people),
        "scale": scale,
        "agreement": mean_interval([float(np.mean(rights)) for rights in people.values()]),
        "undecided": float(np.mean(logits == 0.0)),
        "consistent": float(np.mean([one.consistent for one in judgements])),
        "calibration_error": calibration_error(agreed, sure),
        "calibration_error_before": calibration_error(agreed, certainties(logits, 1.0)),
        "threshold": threshold,
        "certain": selected(agreed, sure, threshold),
        "by_threshold": {str(each): selected(agreed, sure, each) for each in THRESHOLDS},
    }


def selected(agreed: Array, sure: Array, threshold: float) -> dict[str, Any]:
    """{"coverage", "cases", "agreement": share and Wilson's interval, None without a case} of what is sure enough; what
    is undecided never is."""
    chosen = agreed[(sure >= threshold) & (agreed != 0.5)]
    hits, count = int(chosen.sum()), len(chosen)
    return {
        "coverage": count / len(agreed),
        "cases": count,
        "agreement": [hits / count, *wilson(hits, count)] if count else None,
    }


def _logit(probability: float) -> float:
    inside = min(max(probability, _LEAST), 1.0 - _LEAST)
    return math.log(inside / (1.0 - inside))
