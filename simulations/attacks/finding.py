"""One measured attack beside what it is measured against, and how sure the measurement is.

Two kinds. Where nothing protects (a raw update, no noise) the attack *must succeed*: it is the control that shows that
the attack works at all. Where we promise something the attack *must stay below its ceiling*. A measured value is above
its ceiling if it surely is: the one-sided 99.9 % lower end lies above (a tight attack at its ceiling exceeds it by
chance every second time, and an audit asks some thirty questions). The 95 % interval is what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from simulations.attacks.ceilings import Array, clopper_pearson

SURE = 0.999
Verdict = Literal["succeeds", "too weak", "below", "above"]


@dataclass(frozen=True)
class Estimate:
    """A measured value, its 95 % interval and its one-sided 99.9 % lower end, from ``trials`` trials."""

    value: float
    low: float
    high: float
    surely: float
    trials: int


@dataclass(frozen=True)
class Finding:
    """One row of an audit. ``needed``: at least this much where the attack must succeed; ``ceiling``: at most this much
    where it must fail. Exactly one of them is set. ``chance``: what guessing gives. ``unit`` of the numbers."""

    attack: str
    against: str
    metric: str
    estimate: Estimate
    chance: float
    needed: float | None = None
    ceiling: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if (self.needed is None) == (self.ceiling is None):
            raise ValueError("a finding has either a ceiling or a value that it needs")

    @property
    def verdict(self) -> Verdict:
        """succeeds or too weak (must succeed), below or above (must stay below)."""
        if self.needed is not None:
            return "succeeds" if self.estimate.value >= self.needed else "too weak"
        assert self.ceiling is not None
        return "above" if self.estimate.surely > self.ceiling + 1e-9 else "below"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        return {**asdict(self), "verdict": self.verdict}


def proportion(successes: int, trials: int) -> Estimate:
    """A share of independent trials (Clopper-Pearson)."""
    low, high = clopper_pearson(successes, trials)
    surely = clopper_pearson(successes, trials, 2 * SURE - 1)[0]
    return Estimate(successes / trials, low, high, surely, trials)


def mean_over(values: Sequence[float] | Array) -> Estimate:
    """A mean over people or texts (Student's t)."""
    data = np.asarray(values, dtype=np.float64)
    mean, count = float(data.mean()), len(data)
    error = float(data.std(ddof=1)) / np.sqrt(count) if count > 1 else np.inf
    if error == 0.0:
        return Estimate(mean, mean, mean, mean, count)
    half, sure = (float(stats.t.ppf(level, max(count - 1, 1))) * error for level in (0.975, SURE))
    return Estimate(mean, mean - half, mean + half, mean - sure, count)


def auc(inside: Array, outside: Array) -> Estimate:
    """Area under the curve of "in" against "out" scores, ties half, with DeLong's variance (DeLong et al. 1988).

    Perfectly separated scores have no variance: then the interval is that of all comparisons' smaller side
    (Clopper-Pearson), so that six against six prove less than six hundred.
    """
    wins = (inside[:, None] > outside[None]).astype(np.float64) + 0.5 * (inside[:, None] == outside[None])
    value, trials = float(wins.mean()), min(len(inside), len(outside))
    if value in (0.0, 1.0) or trials < 2:
        sides = proportion(round(value * trials), trials)
        return Estimate(value, sides.low, sides.high, sides.surely, len(inside) + len(outside))
    variance = wins.mean(1).var(ddof=1) / len(inside) + wins.mean(0).var(ddof=1) / len(outside)
    half, sure = (float(stats.norm.ppf(level) * np.sqrt(variance)) for level in (0.975, SURE))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), value - sure, len(inside) + len(outside))


def true_rate_at(inside: Array, outside: Array, false_rate: float) -> Estimate:
    """Share of "in" scores above the (1 - ``false_rate``) quantile of the "out" ones."""
    level = np.quantile(outside, 1.0 - false_rate, method="higher")
    return proportion(int((inside > level).sum()), len(inside))
