"""Who was in a fleet of choices? Membership of people from released reward bases alone, with shadow fleets.

Fleets of n people are drawn from 2 n made-up ones (`simulations.choices.reward_recovery`) and trained in reward space
by the fleet's own arithmetic (`simulations.choices.reward_fleet`); the adversary sees the released taste and bases, not
the sums, and knows the victim's choices. A person's gain is the mean nll of their choices under no taste at all less
that under the released taste:

    loss         -nll under the release            reference    gain less its mean over the fleets without the person
    lira         log-likelihood ratio of the gain, normal in and out, fitted on the *other* fleets

``python -m simulations.attacks.reward_people --out FILE.json`` prints the table: people x epsilon.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from protocol.accounting import gaussian_mu
from protocol.bank import Bank
from protocol.reward_model import ChoiceBatch, choice_nll
from server.reward_bases import RewardPlan
from simulations.attacks.ceilings import Array, Ceiling
from simulations.attacks.finding import Estimate, auc
from simulations.choices.reward_fleet import train_reward_bases
from simulations.choices.reward_recovery import taste_population
from simulations.study_command import as_command

PLAN = RewardPlan(shared_rounds=3, gradient_rounds=4, final_rounds=2, maximum_count=4)
FEATURES, CHOICES, RANK, DELTA = 16, 20, 2, 1e-5


@dataclass(frozen=True, eq=False)
class ShadowFleets:
    """``nll`` (fleets, people) of everybody's choices under each release; ``inside`` (fleets, people)."""

    nll: Array
    inside: NDArray[np.bool_]

    def scores(self, kind: str) -> Array:
        """(fleets, people) by the module's three attacks; larger means "was in it"."""
        if kind == "loss":
            return np.asarray(-self.nll)
        gain = np.log(2.0) - self.nll
        scores: Array = np.zeros_like(gain)
        for number in range(len(gain)):
            others = np.arange(len(gain)) != number
            absent = _moments(gain[others], ~self.inside[others])
            present = _moments(gain[others], self.inside[others])
            if kind == "reference":
                scores[number] = gain[number] - absent[0]
            else:
                scores[number] = _log_normal(gain[number], *present) - _log_normal(gain[number], *absent)
        return scores

    def measured(self, kind: str) -> Estimate:
        """AUC over all pairs of fleet and person."""
        scores = self.scores(kind)
        return auc(scores[self.inside], scores[~self.inside])


def shadow_fleets(people: ChoiceBatch, fleets: int, epsilon: float | None, seed: int) -> ShadowFleets:
    """Train ``fleets`` fleets of half of the people each (in turn a random half and the other half)."""
    random, count = np.random.default_rng(seed), len(people.outcomes)
    inside = np.zeros((fleets, count), dtype=bool)
    nll = np.zeros((fleets, count))
    for number in range(fleets):
        if number % 2:
            inside[number] = ~inside[number - 1]
        else:
            inside[number, random.permutation(count)[: count // 2]] = True
        rows = inside[number]
        fleet = ChoiceBatch(people.differences[rows], people.outcomes[rows], people.present[rows])
        bank = train_reward_bases(fleet, PLAN, epsilon=epsilon, delta=DELTA, seed=seed + number).bank
        nll[number] = _people_nll(people, bank)
    return ShadowFleets(nll, inside)


def _people_nll(people: ChoiceBatch, bank: Bank) -> Array:
    """(n,) mean nll of each person's choices under the released shared taste."""
    losses = choice_nll(people.differences @ bank.shared, people.outcomes, bank.tie_width)
    counts = np.maximum(people.present.sum(1), 1)
    return np.asarray(np.where(people.present, losses, 0.0).sum(1) / counts)


def _moments(values: Array, which: NDArray[np.bool_]) -> tuple[Array, float]:
    """(mean of each column over the rows ``which`` (rows, columns), one deviation pooled over all columns)."""
    counts = np.maximum(which.sum(0), 1)
    mean = np.where(which, values, 0.0).sum(0) / counts
    return mean, float(np.sqrt(np.where(which, values - mean, 0.0).var())) + 1e-12


def _log_normal(values: Array, mean: Array, deviation: float) -> Array:
    return np.asarray(-0.5 * ((values - mean) / deviation) ** 2 - np.log(deviation))


def main(
    out: Annotated[Path, typer.Option(help="Where the figures go, a JSON file.")],
    fleets: Annotated[int, typer.Option(min=4, help="Shadow fleets per row.")] = 16,
    seed: int = 0,
) -> None:
    """Membership of people in released reward bases, by fleet size and epsilon."""
    rows: list[dict[str, Any]] = []
    for size in (20, 100, 500):
        made = taste_population(people=2 * size, features=FEATURES, rank=RANK, choices=CHOICES, seed=seed)
        for epsilon in (None, 8.0, 2.0):
            started = time.perf_counter()
            found = shadow_fleets(made.train, fleets, epsilon, seed)
            measured = {kind: found.measured(kind).__dict__ for kind in ("loss", "reference", "lira")}
            # Replaced, not zeroed: fleets keep their size, so neighbours are two steps apart.
            ceiling = 1.0 if epsilon is None else Ceiling.of_gaussian(2 * gaussian_mu(epsilon, DELTA)).auc
            rows.append({"fleet": size, "epsilon": epsilon, "auc": measured, "ceiling": ceiling})
            line = "  ".join(f"{kind} {one['value']:.3f}" for kind, one in measured.items())
            label = "none" if epsilon is None else f"{epsilon:g}"
            typer.echo(f"{size:5d} people, epsilon {label:4s} {line}  ceiling {ceiling:.3f}  "
                       f"({time.perf_counter() - started:.0f} s)")  # fmt: skip
            out.write_text(json.dumps({"fleets": fleets, "seed": seed, "delta": DELTA, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    as_command(main)
