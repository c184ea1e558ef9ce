from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from simulations.attacks.finding import Estimate, Finding, auc, mean_over, proportion, true_rate_at


def finding(estimate: Estimate, needed: float | None = None, ceiling: float | None = None) -> Finding:
    return Finding("attack", "somewhere", "AUC", estimate, 0.5, needed=needed, ceiling=ceiling)


def test_a_value_is_above_its_ceiling_only_if_surely_so() -> None:
    slightly = proportion(560, 1000)
    assert finding(slightly, ceiling=0.55).verdict == "below"  # 0.56 by chance
    assert finding(proportion(5600, 10_000), ceiling=0.54).verdict == "above"
    assert finding(slightly, needed=0.55).verdict == "succeeds"
    assert finding(slightly, needed=0.6).verdict == "too weak"
    with pytest.raises(ValueError, match="either"):
        finding(slightly)
    with pytest.raises(ValueError, match="either"):
        finding(slightly, needed=0.5, ceiling=0.6)


def test_false_alarms_at_the_ceiling_are_rare() -> None:
    rights = np.random.default_rng(0).binomial(400, 0.6, size=2000)
    assert np.mean([finding(proportion(int(right), 400), ceiling=0.6).verdict == "above" for right in rights]) < 0.004


def test_auc_is_that_of_mann_whitney_and_its_interval_covers() -> None:
    random = np.random.default_rng(1)
    inside, outside = np.floor(random.uniform(1, 7, 40)), np.floor(random.uniform(0, 6, 50))
    expected = stats.mannwhitneyu(inside, outside).statistic / (40 * 50)
    assert auc(inside, outside).value == pytest.approx(expected)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    found = [auc(random.normal(1.0, size=60), random.normal(size=80)) for _ in range(400)]
    assert 0.91 < np.mean([one.low <= truth <= one.high for one in found]) < 0.985
    assert np.mean([one.surely > truth for one in found]) < 0.02


def test_perfect_separation_of_a_few_proves_less_than_of_many() -> None:
    few, many = (auc(np.ones(n), np.zeros(n)) for n in (6, 600))
    assert few.value == many.value == 1.0
    assert few.low < 0.6 < 0.99 < many.low


def test_means_and_rates() -> None:
    found = mean_over([0.5, 0.7, 0.6])
    assert found.value == pytest.approx(0.6) and found.trials == 3
    assert found.surely < found.low < 0.6 < found.high
    same = mean_over([1.0, 1.0])
    assert same.low == same.surely == 1.0
    outside = np.arange(100, dtype=float)
    assert true_rate_at(np.array([98.5, 99.5, 99.9, 3.0]), outside, 0.01).value == 0.5
