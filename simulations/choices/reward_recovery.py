"""Are the directions found in which a made-up population is known to differ? Angles, K and gains against privacy.

Everybody's taste is a shared vector plus a few planted orthonormal directions with normal weights; they choose between
random pairs by the Bradley-Terry model. ``python -m simulations.choices.reward_recovery --out FILE.json`` runs the
table: people x epsilon, with the centralised fit, the planted bank itself and every person's own fit from scratch
beside it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from protocol.bank import Bank
from protocol.reward_model import Array, ChoiceBatch, Choices, fit_direction_batch, fit_weights, fit_weights_batch
from simulations.choices.reward_fleet import centralised_bases, identity_map, train_reward_bases
from simulations.statistics import mean_interval
from simulations.study_command import as_command


@dataclass(frozen=True)
class TastePopulation:
    """``train`` and ``test`` choices of the same people, the planted ``directions`` (rank, k), unit rows, with their
    ``spread`` (rank,), and the planted ``shared`` taste (k,)."""

    train: ChoiceBatch
    test: ChoiceBatch
    directions: Array
    spread: Array
    shared: Array

    @property
    def planted(self) -> Bank:
        """The bank that a perfect fit would find."""
        nobody = np.zeros((0, len(self.spread)))
        digest = identity_map(len(self.shared)).digest
        return Bank("reward", digest, self.shared, self.directions, self.spread, nobody)

    def hits(self, tastes: Array) -> Array:
        """(n,) percent of each person's test choices that their taste, (n, k) or one (k,) for all, ranks rightly."""
        tastes = np.broadcast_to(tastes, (len(self.test.outcomes), len(self.shared)))
        rewards = np.einsum("nmk,nk->nm", self.test.differences, tastes)
        right: Array = 100.0 * ((rewards > 0) == (self.test.outcomes > 0.5)).mean(1)
        return right

    def accuracy(self, bank: Bank) -> float:
        """Mean over people, in percent, with weights fitted on their training choices."""
        return float(self.hits(bank.mix(fit_weights_batch(self.train, bank).weights)).mean())


def taste_population(
    *,
    people: int,
    features: int,
    rank: int,
    choices: int,
    seed: int,
    shared_deviation: float = 1.0,
    taste_deviation: float = 1.5,
    test_choices: int = 50,
) -> TastePopulation:
    """Deviations are those of the reward difference of a random pair: from the shared taste, and between people."""
    random = np.random.default_rng(seed)
    rows = np.linalg.qr(random.normal(size=(features, max(rank, 1))))[0].T[:rank]
    strengths = np.linspace(1.0, 0.6, rank)
    spread = taste_deviation * np.sqrt(features) * strengths / max(float(np.linalg.norm(strengths)), 1e-9)
    shared = random.normal(size=features)
    shared *= shared_deviation * np.sqrt(features) / np.linalg.norm(shared)
    tastes = shared + (random.normal(size=(people, rank)) * spread) @ rows

    def chosen(count: int) -> ChoiceBatch:
        x = random.normal(size=(people, count, features)) / np.sqrt(features)
        likely = 1.0 / (1.0 + np.exp(-np.einsum("nmk,nk->nm", x, tastes)))
        return ChoiceBatch(x, (random.random(likely.shape) < likely).astype(float), np.ones(likely.shape, dtype=bool))

    return TastePopulation(chosen(choices), chosen(test_choices), rows, spread, shared)


def principal_angles(one: Array, other: Array) -> Array:
    """Angles in degrees between the spans of two sets of rows (Bjorck and Golub 1973), smallest first."""
    cosines = np.linalg.svd(np.linalg.qr(one.T)[0].T @ np.linalg.qr(other.T)[0], compute_uv=False)
    return np.asarray(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))))


def recovery(people: int, rank: int, epsilons: tuple[float | None, ...], seed: int) -> dict[str, Any]:
    """One population's row of the table."""
    population = taste_population(people=people, features=64, rank=rank, choices=20, seed=seed)
    rows: dict[str, Any] = {"people": people, "rank": rank, "seed": seed, "arms": {}}

    def note(name: str, hits: Array, **more: Any) -> None:
        rows["arms"][name] = {"accuracy": mean_interval(hits.tolist()), **more}

    shared = centralised_bases(population.train, 0)
    note("global", population.hits(shared.shared))
    note("from scratch", population.hits(fit_direction_batch(population.train, np.zeros(64), 1.5)))
    for name, bank in (("planted", population.planted), ("centralised", centralised_bases(population.train, rank))):
        note(name, population.hits(bank.mix(fit_weights_batch(population.train, bank).weights)),
             angles=principal_angles(bank.directions, population.directions).round(1).tolist())  # fmt: skip
    for epsilon in epsilons:
        found = train_reward_bases(population.train, epsilon=epsilon, seed=seed)
        weights = fit_weights_batch(population.train, found.bank).weights
        angles = principal_angles(found.bank.directions, population.directions) if found.bank.count else np.zeros(0)
        note(
            "no noise" if epsilon is None else f"epsilon {epsilon:g}",
            population.hits(found.bank.mix(weights)),
            K=found.bank.count,
            angles=angles.round(1).tolist(),
            spread=found.bank.spread.round(2).tolist(),
            gains=found.gains.round(4).tolist(),
            noise_multiplier=round(found.noise_multiplier, 3),
            rounds=found.rounds,
            bytes_up=found.bytes_up,
        )
    base = rows["arms"]["global"]["accuracy"][0]
    gain = rows["arms"]["no noise"]["accuracy"][0] - base
    rows["gain_kept"] = {
        name: round((arm["accuracy"][0] - base) / gain, 3) for name, arm in rows["arms"].items() if "K" in arm
    }
    return rows


def fit_milliseconds(count: int = 20, features: int = 64, directions: int = 8, repeats: int = 200) -> float:
    """Median time of ``fit_weights`` for one person."""
    population = taste_population(people=1, features=features, rank=directions, choices=count, seed=0)
    choices = Choices(population.train.differences[0], population.train.outcomes[0])
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        fit_weights(choices, population.planted)
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def main(
    out: Annotated[Path, typer.Option(help="where the JSON goes")],
    people: Annotated[list[int] | None, typer.Option(help="sizes of the population")] = None,
    rank: Annotated[int, typer.Option(help="planted directions")] = 4,
    seeds: Annotated[int, typer.Option(help="populations of each size")] = 1,
    first_seed: Annotated[int, typer.Option(help="of the first of them")] = 0,
) -> None:
    """Run the table and write it."""
    table = [
        recovery(n, rank, (None, 8.0, 2.0), seed)
        for n in people or [500, 2000]
        for seed in range(first_seed, first_seed + seeds)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"fit_weights_ms": fit_milliseconds(), "rows": table}, indent=1))
    for row in table:
        typer.echo(json.dumps({"people": row["people"], "seed": row["seed"], "gain_kept": row["gain_kept"]}))


if __name__ == "__main__":
    as_command(main)
