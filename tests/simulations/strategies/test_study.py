"""The study runs every strategy on the same maps, and its gains are each person's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulations.strategies import study
from simulations.strategies.rounds import run_rounds
from tests.client.framed_help import tiny_frame
from tests.simulations.strategies.strategy_help import person_texts

PLAN = study.StudyPlan(rank=3, pool_count=32, steps=16, product_ranks=(1, 3))


def all_strategies() -> list[tuple[Any, tuple[float, ...]]]:
    return study.strategies_of(tiny_frame(), PLAN)


@pytest.mark.parametrize("place", range(6))
def test_every_strategy_runs_rounds_and_lowers_the_loss_of_its_people(place: int) -> None:
    strategy, rates = all_strategies()[place]
    rate = 5.0 if strategy.name == "seed_scalars" else 0.02
    candidate = replace(strategy, rate=rate)
    people = [person_texts(person) for person in range(3)]
    result = run_rounds(candidate, people, rounds=2)
    assert len(result.lengths) == candidate.sums_per_round and len(result.own) == 3
    for number, (texts, own) in enumerate(zip(people, result.own, strict=True)):
        rows = range(texts.count)
        before = texts.loss(candidate.adapter(candidate.start(), candidate.join(number)), rows)
        assert texts.loss(candidate.adapter(result.state, own), rows) < before
    assert rates == tuple(sorted(rates)) and len(rates) > 1


def test_gains_are_relative_to_the_bare_model_of_the_same_person() -> None:
    block = study.gain_block([1.8, 3.6, 2.0], [2.0, 4.0, 2.0])
    assert block["gains"] == pytest.approx([0.1, 0.1, 0.0]) and block["gain"] == pytest.approx(0.2 / 3)
    low, high = block["gain_interval"]
    assert low < block["gain"] < high
