from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from protocol.accounting import Accountant, PrivacyEvent, audit_ceiling, gaussian_mu
from protocol.errors import PenchantError
from simulations.attacks.ceilings import (
    Ceiling,
    best_threshold,
    clopper_pearson,
    epsilon_bound,
    mu_bound,
    one_run_epsilon,
    one_run_p_value,
)


@pytest.mark.parametrize(
    ("mu", "auc", "at_one_percent", "at_one_per_mille"),
    [
        (0.142, 0.540, 0.014, 0.0016),
        (0.268, 0.575, 0.020, 0.0024),
        (0.925, 0.743, 0.081, 0.015),
        (1.666, 0.881, 0.255, 0.077),
    ],
)
def test_gaussian_ceilings_are_the_published_ones(
    mu: float, auc: float, at_one_percent: float, at_one_per_mille: float
) -> None:
    ceiling = Ceiling.of_gaussian(mu)
    assert ceiling.auc == pytest.approx(auc, abs=1e-3)
    assert float(ceiling.power(0.01)) == pytest.approx(at_one_percent, abs=1e-3)
    assert float(ceiling.power(0.001)) == pytest.approx(at_one_per_mille, abs=2e-4)
    rates = np.linspace(0.001, 0.999, 97)
    exact = stats.norm.cdf(stats.norm.ppf(rates) + mu)
    assert np.all(ceiling.power(rates) >= exact - 1e-12) and np.abs(ceiling.power(rates) - exact).max() < 1e-5
    assert ceiling.accuracy == pytest.approx(stats.norm.cdf(mu / 2), abs=1e-5)


def test_it_agrees_with_the_accountants_own_ceiling() -> None:
    ceiling = Ceiling.of_gaussian(gaussian_mu(4.0, 1e-5))
    assert (ceiling.auc, float(ceiling.power(0.01))) == pytest.approx(audit_ceiling(4.0, 1e-5), abs=1e-4)


def test_one_claim_allows_more_than_the_whole_curve_and_none_allows_everything() -> None:
    events = [PrivacyEvent(1.5, count=3)]
    curve, claim = Ceiling.of_events(events), Ceiling.of_claim(Accountant(events).epsilon(1e-5), 1e-5)
    rates = np.linspace(0.0, 1.0, 50)
    assert np.all(curve.power(rates) <= claim.power(rates) + 1e-12) and curve.auc < claim.auc
    nothing = Ceiling.of_events([PrivacyEvent(0.0)])
    assert nothing.auc == 1.0 and nothing.identification(1000) == 1.0
    assert Ceiling.of_claim(0.0, 0.0).auc == pytest.approx(0.5, abs=1e-6)


def test_randomised_response_reaches_the_ceiling_of_pure_privacy() -> None:
    ceiling, p = Ceiling.of_claim(1.3, 0.0), math.exp(1.3) / (1 + math.exp(1.3))
    assert float(ceiling.power(1 - p)) == pytest.approx(p)
    assert ceiling.accuracy == pytest.approx(p, abs=1e-4)


def test_sampled_rounds_have_a_lower_ceiling() -> None:
    pytest.importorskip("dp_accounting")
    sampled, whole = (Ceiling.of_events([PrivacyEvent(1.0, q, 4)]) for q in (0.25, 1.0))
    assert 0.5 < sampled.auc < whole.auc - 0.1


def test_identification_and_exposure_are_those_of_a_simulated_gaussian() -> None:
    """One of N unit vectors plus noise is found about as often as orthogonal signals can be, never more often."""
    mu, count, random = 1.5, 16, np.random.default_rng(0)
    scores = random.normal(size=(20_000, count))
    scores[:, 0] += mu
    ranks = 1 + (scores[:, 1:] > scores[:, :1]).sum(1)
    ceiling = Ceiling.of_gaussian(mu)
    # Here the secret's own score is what moves, so the mean rank is the whole truth and the ceiling nearly met.
    assert 0.8 * ceiling.identification(count) < (ranks == 1).mean() < ceiling.identification(count)
    assert 0.8 * ceiling.exposure(count) < np.log2(count / ranks).mean() < ceiling.exposure(count)
    blind = Ceiling.of_gaussian(1e-3)
    uniform = np.log2(count / np.arange(1, count + 1)).mean()
    assert blind.exposure(count) == pytest.approx(uniform, abs=0.01)


def test_clopper_pearson_covers_and_has_its_closed_ends() -> None:
    other = stats.binomtest(7, 31).proportion_ci(0.9, method="exact")
    assert clopper_pearson(7, 31, 0.9) == pytest.approx((other.low, other.high))
    low, high = clopper_pearson(0, 20)
    assert low == 0.0 and high == pytest.approx(1 - 0.025 ** (1 / 20))
    low, high = clopper_pearson(20, 20)
    assert high == 1.0 and low == pytest.approx(0.025 ** (1 / 20))
    for p in (0.03, 0.4, 0.77):
        covered = sum(
            stats.binom.pmf(k, 30, p) for k in range(31) if clopper_pearson(k, 30)[0] <= p <= clopper_pearson(k, 30)[1]
        )
        assert covered >= 0.95


def test_bounds_from_counts_hold_and_are_not_empty() -> None:
    random, mu = np.random.default_rng(1), 1.0
    wrong = 0
    for _ in range(40):
        inside, outside = random.normal(mu, size=4000), random.normal(size=4000)
        level = best_threshold(inside[:2000], outside[:2000])
        counts = (int((inside[2000:] > level).sum()), 2000, int((outside[2000:] > level).sum()), 2000)
        bound = mu_bound(*counts)
        wrong += bound > mu
        assert bound > 0.7
    assert wrong <= 4
    assert epsilon_bound(73, 100, 27, 100, 0.0) < math.log(73 / 27)  # randomised response of epsilon 0.995
    assert epsilon_bound(730_000, 1_000_000, 270_000, 1_000_000, 0.0) == pytest.approx(math.log(73 / 27), abs=0.01)
    assert epsilon_bound(500, 1000, 500, 1000, 1e-5) == 0.0


def test_one_run_p_value_by_brute_force() -> None:
    """The binomial tail and the steepest mean mass below it, counted out over all outcomes of six guesses."""
    m, r, v, epsilon, delta = 10, 6, 5, 0.7, 1e-3
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    chance = dict.fromkeys(range(r + 1), 0.0)
    for outcome in itertools.product((0, 1), repeat=r):
        chance[sum(outcome)] += math.prod(q if one else 1 - q for one in outcome)
    tail = sum(chance[k] for k in range(v, r + 1))
    steepest = max(sum(chance[k] for k in range(v - i, v)) / i for i in range(1, v + 1))
    assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(tail + 2 * m * delta * steepest)


def test_one_run_epsilon_has_its_closed_form_and_never_lies_about_randomised_response() -> None:
    q = 0.05 ** (1 / 100)  # all of 100 guesses right
    assert one_run_epsilon(100, 100, 100, 0.0) == pytest.approx(math.log(q / (1 - q)), abs=1e-5)
    assert one_run_epsilon(100, 100, 50, 0.0) == 0.0
    assert one_run_epsilon(1000, 400, 400, 1e-6) < one_run_epsilon(1000, 400, 400, 0.0)
    random, epsilon = np.random.default_rng(2), 1.0
    rights = random.binomial(500, math.e / (1 + math.e), size=300)
    bounds = np.array([one_run_epsilon(500, 500, int(right), 0.0) for right in set(rights)])
    table = dict(zip(set(rights), bounds, strict=True))
    assert np.mean([table[right] > epsilon for right in rights]) <= 0.09
    assert np.median([table[right] for right in rights]) > 0.75
    with pytest.raises(PenchantError, match="guesses"):
        one_run_p_value(10, 11, 3, 1.0, 0.0)
