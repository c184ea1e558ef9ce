"""The judge's arithmetic: the place cancels, certainty is calibrated on others, doubt abstains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from simulations.studies.judge.judge import (
    JudgeCase,
    Judgement,
    ask_both_orders,
    calibration_error,
    certainties,
    fit_scale,
    report,
)

CASE = JudgeCase("set/1", "ann", ("likes tea",), "What to drink?", "tea", "cola")


@dataclass
class Leaning:
    """Prefers ``liked`` by ``taste`` nats and whatever is shown first by ``place`` nats."""

    taste: float
    place: float
    liked: str = "tea"

    def probability(self, known: Sequence[str], question: str, first: str, second: str) -> float:
        logit = self.place + (self.taste if first == self.liked else -self.taste)
        return float(1 / (1 + np.exp(-logit)))


def test_the_place_of_an_answer_cancels() -> None:
    fair, biased = (ask_both_orders(Leaning(1.2, place), CASE) for place in (0.0, 3.0))
    assert fair.logit == pytest.approx(1.2) and biased.logit == pytest.approx(1.2)
    assert fair.consistent and not biased.consistent
    assert ask_both_orders(Leaning(0.0, 3.0), CASE).logit == pytest.approx(0.0)  # it knows the place and nothing else
    assert ask_both_orders(Leaning(1.2, 0.0, liked="cola"), CASE).logit == pytest.approx(-1.2)


def test_the_scale_is_that_of_the_data() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0.0, 2.0, 4000)
    drawn = np.where(random.random(4000) < 1 / (1 + np.exp(-np.abs(logits))), np.abs(logits), -np.abs(logits))
    assert fit_scale((drawn / 50).tolist()) == pytest.approx(50, rel=0.1)
    sure = certainties(drawn, 1.0)
    assert calibration_error((drawn > 0).astype(float), sure) < 0.03
    assert calibration_error((drawn > 0).astype(float), np.full(4000, 0.99)) > 0.2


def test_a_judge_worse_than_chance_is_never_certain_and_one_never_wrong_not_infinitely() -> None:
    assert fit_scale([-1.0, -2.0, -0.5]) == 0.0 and fit_scale([]) == 0.0 and fit_scale([0.0, 0.0]) == 0.0
    assert 0.0 < fit_scale([1.0] * 20) < 10.0
    bad = report([Judgement(f"p{n}", -1.0, True) for n in range(4)], 0.0)
    assert bad["agreement"][0] == 0.0 and bad["certain"] == {"coverage": 0.0, "cases": 0, "agreement": None}


def test_the_report_abstains_below_the_threshold() -> None:
    made = [Judgement("ann", 4.0, True), Judgement("ann", -0.1, False), Judgement("bob", 3.0, True)]
    made.append(Judgement("bob", 0.0, False))
    found = report(made, 1.0, threshold=0.9)
    assert found["agreement"][0] == pytest.approx((0.5 + 0.75) / 2)  # people's means; undecided counts half
    assert found["certain"]["coverage"] == 0.5 and found["certain"]["agreement"][0] == 1.0
    assert found["consistent"] == 0.5 and found["undecided"] == 0.25 and found["people"] == 2
    # what is undecided is not judged even where everything is certain enough
    assert found["by_threshold"]["0.5"]["cases"] == 3
    assert found["calibration_error"] < found["calibration_error_before"] + 1e-9
