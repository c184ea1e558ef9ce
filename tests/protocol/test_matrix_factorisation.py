"""Sensitivity by trying every pattern, error against the literature's table, and the distributed form end to end."""

import itertools
import math

import numpy as np
import pytest

from protocol.accounting import Accountant, gaussian_epsilon, noise_multiplier_for, squared_gaussian_mu
from protocol.errors import ProtocolError
from protocol.masks import reduce_to_ring
from protocol.matrix_factorisation import BandedStrategy, optimal_strategy
from protocol.round_plan import RoundPlan
from tests.protocol.test_round_plan import make_plan


def matrix(strategy, rounds):
    column = np.zeros(rounds)
    column[: min(strategy.bands, rounds)] = strategy.coefficients[:rounds]
    return np.array([[column[t - s] if t >= s else 0.0 for s in range(rounds)] for t in range(rounds)])


def worst_by_brute_force(strategy, rounds, spacing):
    """Largest norm over every set of starts with that spacing and every sign of each contribution (one dimension)."""
    C, worst = matrix(strategy, rounds), 0.0
    for size in range(1, -(-rounds // spacing) + 1):
        for starts in itertools.combinations(range(rounds), size):
            if all(b - a >= spacing for a, b in itertools.pairwise(starts)):
                for signs in itertools.product((1.0, -1.0), repeat=size):
                    worst = max(worst, float(np.linalg.norm(C[:, starts] @ np.array(signs))))
    return worst


@pytest.mark.parametrize(
    ("bands", "rounds", "spacing"), [(1, 5, 1), (1, 7, 3), (2, 7, 2), (3, 8, 3), (3, 10, 5), (4, 6, 9)]
)
def test_sensitivity_is_that_of_the_worst_pattern(bands, rounds, spacing):
    strategy = optimal_strategy(bands, rounds)
    claimed = strategy.sensitivity(rounds, spacing)
    assert claimed == pytest.approx(worst_by_brute_force(strategy, rounds, spacing), rel=1e-12)
    if rounds % spacing == 0:
        norm = math.sqrt(sum(c * c for c in strategy.coefficients))
        assert claimed == pytest.approx(math.sqrt(rounds / spacing) * norm)


def test_a_wrong_spacing_is_caught():
    strategy = optimal_strategy(3, 9)
    with pytest.raises(ProtocolError, match="at least 3 rounds apart"):
        strategy.sensitivity(9, 2)
    assert worst_by_brute_force(strategy, 9, 2) > 1.2 * strategy.sensitivity(9, 3)  # and rightly so
    with pytest.raises(ValueError, match="would overlap"):
        make_plan(strategy=strategy.coefficients, spacing=2)


@pytest.mark.parametrize(
    ("people", "cohort", "rounds", "gain"),
    [(200, 50, 100, 1.81), (1000, 50, 200, 3.18), (1000, 100, 200, 2.63), (10_000, 100, 500, 4.14)],
)
def test_gain_over_independent_noise_is_that_of_the_table(people, cohort, rounds, gain):
    pytest.importorskip("scipy")
    spacing = people // cohort
    strategy = optimal_strategy(min(32, spacing), rounds)
    assert strategy.gain(rounds, spacing) == pytest.approx(gain, abs=0.012)


@pytest.mark.parametrize(("people", "epsilon", "ratio"), [(200, 2.0, 0.94)])
def test_against_amplified_noise_it_is_that_of_the_table_too(people, epsilon, ratio):
    pytest.importorskip("scipy")
    pytest.importorskip("dp_accounting")
    rounds, spacing, delta = 100, 4, people**-1.1
    strategy = optimal_strategy(spacing, rounds)
    amplified = noise_multiplier_for(epsilon, delta, rounds, 1 / spacing) * BandedStrategy().prefix_error(rounds)
    ours = (
        noise_multiplier_for(epsilon, delta, 1) * strategy.sensitivity(rounds, spacing) * strategy.prefix_error(rounds)
    )
    assert amplified / ours == pytest.approx(ratio, abs=0.02)


def test_error_is_what_noise_does_to_running_sums():
    strategy, rounds = optimal_strategy(4, 12), 12
    noise = np.random.default_rng(0).normal(size=(rounds, 40_000))
    decoded = np.array(strategy.decode(list(noise)))
    assert np.allclose(matrix(strategy, rounds) @ decoded, noise)
    measured = math.sqrt(float(np.mean(np.cumsum(decoded, axis=0) ** 2)))
    assert measured == pytest.approx(strategy.prefix_error(rounds), rel=0.01)
    assert measured < BandedStrategy().prefix_error(rounds) * 0.7


def test_the_optimum_is_one():
    """No small change of any coefficient helps, and more bands help more."""
    best = optimal_strategy(5, 40)
    error = best.prefix_error(40) * math.sqrt(sum(c * c for c in best.coefficients))
    for place, step in itertools.product(range(1, 5), (-1e-3, 1e-3)):
        moved = list(best.coefficients)
        moved[place] += step
        other = BandedStrategy(tuple(moved))
        assert other.prefix_error(40) * math.sqrt(sum(c * c for c in moved)) > error
    assert optimal_strategy(8, 40).gain(40, 8) > best.gain(40, 8) > 1.0


@pytest.mark.parametrize("mechanism", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("noise_multiplier", [0.0, 1.5])
def test_people_send_again_and_the_server_recovers_every_rounds_sum(mechanism, noise_multiplier):
    """The distributed form: integers, fresh shares each round, three start one after the other and overlap."""
    strategy, rounds, cohort = (1.0, 0.6, 0.45), 6, 9
    plan = make_plan(
        dimension=400, strategy=strategy, spacing=3, noise_multiplier=noise_multiplier, mechanism=mechanism,
        cohort_size=cohort, minimum_survivors=cohort, ring_bits=20,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    group = [person % 3 for person in range(cohort)]  # starts in rounds group, group + 3
    updates, sums, started = {}, [], []
    for t in range(rounds):
        total = np.zeros(403, dtype=np.int64)
        for person in range(cohort):
            age = (t - group[person]) % 3
            if age == 0:
                updates[person] = 0.4 * rng.normal(size=400) / 20
            if person in updates:
                total += plan.contribute(updates[person], 1.0, 1, age=age, rounding_rng=rng, noise_rng=rng)
            else:
                total += plan.noise.sample_share(403, rng)
        started.append(sum(updates[person] for person in range(cohort) if (t - group[person]) % 3 == 0))
        sums.append(plan.codec.decode(reduce_to_ring(total, 20)))
    decoded = BandedStrategy(strategy).decode(sums)
    apart = np.array([vector[:400] - wanted for vector, wanted in zip(decoded, started, strict=True)])
    # rounding alone is a fraction of a unit of 1 / scale per person and round
    rounding = 3 * 3 / plan.task.scale
    running = math.sqrt(float(np.mean(np.cumsum(apart, axis=0) ** 2)))
    expected = plan.update_noise_deviation * BandedStrategy(strategy).prefix_error(rounds)
    assert running < rounding if noise_multiplier == 0.0 else running == pytest.approx(expected, rel=0.1)


def test_uploads_add_up_to_the_matrix_mechanism():
    """The events of one participation, composed, are one Gaussian release of sensitivity |c| C."""
    strategy = (1.0, 0.5, 0.25)
    plan = make_plan(strategy=strategy, spacing=5, noise_multiplier=2.0, ring_bits=28)
    events = [plan.privacy_event(age=age) for age in range(3)]
    norm = math.sqrt(sum(c * c for c in strategy))
    assert squared_gaussian_mu(events) == pytest.approx((norm / 2.0) ** 2, rel=1e-3)
    assert Accountant(events).epsilon(1e-5) == pytest.approx(gaussian_epsilon(norm / 2.0, 1e-5), rel=1e-3)
    assert events[2].l2_sensitivity < events[1].l2_sensitivity < events[0].l2_sensitivity
    with pytest.raises(ProtocolError, match="not 3"):
        plan.privacy_event(age=3)
    with pytest.raises(ProtocolError, match="not 3"):
        plan.contribute(np.zeros(60), 0.0, 0, age=3)


def test_a_later_upload_keeps_to_its_own_smaller_bound():
    plan = make_plan(strategy=(1.0, 0.3), spacing=2, noise_multiplier=0.0)
    update = np.random.default_rng(0).normal(size=60) * 100
    bound = plan.privacy_event(age=1).l2_sensitivity
    for _ in range(50):
        assert np.linalg.norm(plan.contribute(update, 8.0, 1, age=1)) <= bound
    assert np.linalg.norm(plan.contribute(update, 8.0, 1)) > bound


def test_strategies_that_are_none_are_refused():
    for wrong in [(), (0.5,), (1.0, -0.1), (1.0, 1.2), (1.0, math.nan), (1.0,) * 65]:
        with pytest.raises(ProtocolError):
            BandedStrategy(wrong)
        with pytest.raises(ProtocolError):
            RoundPlan.of(make_plan().task.model_copy(update={"strategy": wrong}))
