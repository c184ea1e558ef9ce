"""A hundred thousand people in reward space on one machine.

    python -m simulations.fleets.rewards --out rewards.json --people 100000

A made-up population (``simulations.choices.reward_recovery``: a shared taste and a few planted directions) whose
choices are made again, from the seed, whenever a block of people is asked for: nothing of the size of the population is
ever in memory. What is trained and released is what ``simulations.choices.reward_fleet`` trains, everybody in every
round.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console

from edge_runtime.commands.support import one_line_errors
from protocol.errors import PenchantError
from protocol.reward_model import ChoiceBatch, fit_weights_batch
from server.aggregate import RoundOutcome
from server.reward_bases import RewardBases
from simulations.choices.reward_fleet import DEFAULT_PLAN, PEOPLE_AT_ONCE, train_reward_bases
from simulations.choices.reward_recovery import TastePopulation, principal_angles, taste_population
from simulations.fleets.memory import peak_memory
from simulations.machine import describe_machine
from simulations.stage_display import StageDisplay
from simulations.statistics import mean_interval
from simulations.study_command import as_command

NEWCOMERS: Final = 1000
TEST_CHOICES: Final = 50


@dataclass(frozen=True)
class TasteStream:
    """``people`` with ``choices`` each, with tastes as ``planted`` has them; a page comes from (seed, its place)."""

    planted: TastePopulation
    people: int
    choices: int
    seed: int

    @property
    def dimension(self) -> int:
        """k."""
        return len(self.planted.shared)

    def block(self, first: int, end: int) -> ChoiceBatch:
        """A page: the blocks that ``train_reward_bases`` asks for."""
        if first % PEOPLE_AT_ONCE or end - first > PEOPLE_AT_ONCE:
            raise PenchantError("this population is made page by page")
        return _choices(self.planted, end - first, self.choices, np.random.default_rng([self.seed, first]))[0]


def _choices(
    planted: TastePopulation, people: int, choices: int, random: np.random.Generator, test_choices: int = 0
) -> tuple[ChoiceBatch, ChoiceBatch]:
    """Choices of new people by the Bradley-Terry model, and more of the same people's."""
    k = len(planted.shared)
    tastes = planted.shared + (random.normal(size=(people, len(planted.spread))) * planted.spread) @ planted.directions
    x = random.normal(size=(people, choices + test_choices, k)) / np.sqrt(k)
    likely = 1.0 / (1.0 + np.exp(-np.einsum("nmk,nk->nm", x, tastes)))
    y, there = (random.random(likely.shape) < likely).astype(float), np.ones(likely.shape, dtype=bool)
    parts = (slice(None, choices), slice(choices, None))
    first, second = (ChoiceBatch(x[:, part], y[:, part], there[:, part]) for part in parts)
    return first, second


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="where the JSON goes")],
    people: Annotated[int, typer.Option(min=8, help="in the fleet")] = 100_000,
    features: Annotated[int, typer.Option(min=2, help="of a choice")] = 32,
    rank: Annotated[int, typer.Option(min=0, help="planted directions")] = 3,
    choices: Annotated[int, typer.Option(min=1, help="per person")] = 16,
    epsilon: Annotated[float, typer.Option(help="of all rounds together, at delta 1e-6")] = 2.0,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train, judge on newcomers, write."""
    planted = taste_population(people=1, features=features, rank=rank, choices=1, seed=seed)
    began, console = time.monotonic(), Console(stderr=True)
    with StageDisplay(console) as display:

        def note(outcome: RoundOutcome, algorithm: RewardBases) -> None:
            display("rounds", (outcome.task.round + 1) / DEFAULT_PLAN.rounds)

        found = train_reward_bases(
            TasteStream(planted, people, choices, seed), epsilon=epsilon, delta=1e-6, seed=seed, on_round=note
        )
    seconds = time.monotonic() - began
    train, test = _choices(planted, NEWCOMERS, choices, np.random.default_rng([seed, 0, 1]), TEST_CHOICES)
    newcomers = TastePopulation(train, test, planted.directions, planted.spread, planted.shared)
    hits = newcomers.hits(found.bank.mix(fit_weights_batch(train, found.bank).weights)).tolist()
    report: dict[str, Any] = {
        "people": people,
        "features": features,
        "choices": choices,
        "seed": seed,
        "rounds": found.rounds,
        "noise_multiplier": found.noise_multiplier,
        "epsilon": found.epsilon,
        "delta": found.delta,
        "directions_planted": rank,
        "directions_found": found.bank.count,
        "angles": principal_angles(found.bank.directions, planted.directions).tolist() if found.bank.count else [],
        "newcomers_accuracy": mean_interval(hits),
        "newcomers_accuracy_shared_taste": mean_interval(newcomers.hits(found.bank.shared).tolist()),
        "newcomers_accuracy_planted": newcomers.accuracy(newcomers.planted),
        "seconds": round(seconds, 1),
        "people_per_second_and_round": people * found.rounds / seconds,
        "peak_memory_mb": peak_memory(),
        "machine": describe_machine(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1))
    console.print_json(data=report)


if __name__ == "__main__":
    as_command(main)
