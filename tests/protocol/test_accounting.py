"""Epsilons agree with dp-accounting, bound what they should, and survive a restart."""

import math

import pytest

from protocol.accounting import (
    Accountant,
    PrivacyEvent,
    audit_ceiling,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    noise_multiplier_for,
    snr_bound,
)
from protocol.errors import ProtocolError

FINE = {"l2_sensitivity": 3000.0, "l1_sensitivity": 80_000.0}


def test_unsampled_epsilon_is_the_pld_of_the_gaussian():
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting import pld

    reference = pld.PLDAccountant(accounting.NeighboringRelation.REPLACE_SPECIAL)
    reference.compose(accounting.GaussianDpEvent(8.0), 100)
    ours = Accountant([PrivacyEvent(8.0, count=100)]).epsilon(1e-5)
    assert ours == pytest.approx(5.680, abs=0.002)  # the value the literature table has for PLD
    assert ours == pytest.approx(reference.get_epsilon(1e-5), abs=2e-3)


@pytest.mark.parametrize(
    ("noise", "probability", "rounds", "delta", "expected"),
    [(1.0, 0.01, 1000, 1e-6, 2.125), (4.0, 0.1, 200, 1e-5, 1.422)],
)
def test_sampled_epsilon_is_pld(noise, probability, rounds, delta, expected):
    pytest.importorskip("dp_accounting")
    accountant = Accountant([PrivacyEvent(noise, probability, rounds)])
    assert accountant.epsilon(delta) == pytest.approx(expected, abs=0.005)
    assert accountant.epsilon_rdp(delta) > expected  # sampling ignored


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(("noise", "rounds"), [(0.4, 1), (1.0, 5), (5.0, 20), (30.0, 300)])
def test_continuous_epsilon_is_dp_accountings_to_one_percent(noise, rounds, delta):
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting import pld

    reference = pld.PLDAccountant(accounting.NeighboringRelation.REPLACE_SPECIAL)
    reference.compose(accounting.GaussianDpEvent(noise), rounds)
    expected = reference.get_epsilon(delta)
    assert Accountant([PrivacyEvent(noise, count=rounds)]).epsilon(delta) == pytest.approx(expected, rel=0.01, abs=1e-3)


def test_sampled_and_unsampled_rounds_compose_as_dp_accounting_has_it():
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting import pld

    reference = pld.PLDAccountant(accounting.NeighboringRelation.REPLACE_SPECIAL)
    reference.compose(accounting.GaussianDpEvent(6.0), 4)
    reference.compose(accounting.PoissonSampledDpEvent(0.2, accounting.GaussianDpEvent(2.0)), 10)
    ours = Accountant([PrivacyEvent(6.0, count=4), PrivacyEvent(2.0, 0.2, 10)]).epsilon(1e-5)
    assert ours == pytest.approx(reference.get_epsilon(1e-5), rel=0.01)


@pytest.mark.parametrize("mechanism", ["skellam", "discrete_gaussian"])
def test_sampled_integer_noise_costs_a_little_more_than_continuous(mechanism):
    pytest.importorskip("dp_accounting")
    continuous = Accountant([PrivacyEvent(1.5, 0.3, 4)]).epsilon(1e-5)
    small = PrivacyEvent(1.5, 0.3, 4, 4.0, 16.0, mechanism)  # a standard deviation of six integers
    assert continuous < Accountant([small]).epsilon(1e-5) < continuous * 1.02


def test_an_event_of_an_older_ledger_is_skellam_noise():
    old = '{"noise_multiplier": 2.0, "l2_sensitivity": 9.0, "l1_sensitivity": 81.0}'
    (event,) = Accountant.from_json(f'{{"version": 1, "events": [{old}]}}').events
    assert (event.mechanism, event.shares, event.variance) == ("skellam", 1, 324.0)
    assert event.gaussian_noise_multiplier == pytest.approx(math.sqrt(324 - 1 / 3) / 9, rel=1e-5)


def test_events_compose_as_one_population():
    parts = Accountant([PrivacyEvent(2.0, count=3), PrivacyEvent(4.0, count=8)])
    squared = 3 / 4 + 8 / 16
    assert parts.epsilon(1e-5) == pytest.approx(Accountant([PrivacyEvent(squared**-0.5)]).epsilon(1e-5))
    before = parts.epsilon(1e-5)
    assert parts.with_event(PrivacyEvent(2.0)).epsilon(1e-5) > before == parts.epsilon(1e-5)
    parts.add(PrivacyEvent(2.0))
    assert parts.epsilon(1e-5) > before and len(parts.events) == 3


def test_skellam_bound_is_a_little_above_and_never_below():
    for noise in (0.5, 1.0, 3.0):
        gaussian = Accountant([PrivacyEvent(noise, count=10)])
        skellam = Accountant([PrivacyEvent(noise, count=10, **FINE)])
        coarse = Accountant([PrivacyEvent(noise, count=10, l2_sensitivity=5.0, l1_sensitivity=25.0)])
        assert gaussian.epsilon(1e-5) < skellam.epsilon(1e-5) < gaussian.epsilon(1e-5) * 1.001 + 1e-3
        assert skellam.epsilon(1e-5) <= skellam.epsilon_rdp(1e-5) < 1.25 * skellam.epsilon(1e-5)
        assert coarse.epsilon(1e-5) > skellam.epsilon(1e-5)


def test_no_noise_is_infinite_and_nothing_is_zero():
    assert Accountant().epsilon(1e-5) == Accountant().epsilon_rdp(1e-5) == 0.0
    bare = Accountant([PrivacyEvent(5.0), PrivacyEvent(0.0)])
    assert bare.epsilon(1e-5) == bare.epsilon_rdp(1e-5) == math.inf
    assert Accountant([PrivacyEvent(0.0, count=0)]).epsilon(1e-5) == 0.0


def test_json_round_trip_and_damage():
    accountant = Accountant([PrivacyEvent(1.25, 0.5, 3, **FINE), PrivacyEvent(0.1)])
    again = Accountant.from_json(accountant.to_json())
    assert again.events == accountant.events
    for text in ("", "{}", "[]", '{"version": 1, "events": [{"noise": 1}]}', '{"version": 2, "events": []}'):
        with pytest.raises(ProtocolError):
            Accountant.from_json(text)


@pytest.mark.parametrize(
    "arguments",
    [{"noise_multiplier": -1.0}, {"noise_multiplier": math.nan}, {"noise_multiplier": 1.0, "count": -1},
     {"noise_multiplier": 1.0, "sampling_probability": 0.0},
     {"noise_multiplier": 1.0, "l2_sensitivity": 3.0}, {"noise_multiplier": 1.0, "mechanism": "laplace"},
     {"noise_multiplier": 1.0, "shares": 0}],
)  # fmt: skip
def test_impossible_events_are_refused(arguments):
    with pytest.raises(ProtocolError):
        PrivacyEvent(**arguments)


def test_delta_must_be_a_probability():
    for delta in (0.0, 1.0, -1e-5):
        with pytest.raises(ProtocolError):
            Accountant([PrivacyEvent(1.0)]).epsilon(delta)


@pytest.mark.parametrize(("epsilon", "rounds"), [(0.5, 1), (2.0, 30), (8.0, 300)])
def test_noise_multiplier_meets_the_target_tightly(epsilon, rounds):
    noise = noise_multiplier_for(epsilon, 1e-5, rounds)
    assert Accountant([PrivacyEvent(noise, count=rounds)]).epsilon(1e-5) <= epsilon
    assert Accountant([PrivacyEvent(noise * 0.99, count=rounds)]).epsilon(1e-5) > epsilon


def test_sampling_needs_less_noise():
    pytest.importorskip("dp_accounting")
    noise = noise_multiplier_for(1.0, 1e-5, 10, 0.1)
    assert noise < noise_multiplier_for(1.0, 1e-5, 10) / 3
    assert Accountant([PrivacyEvent(noise, 0.1, 10)]).epsilon(1e-5) <= 2.0


@pytest.mark.parametrize(
    ("epsilon", "mu", "auc", "rate"),
    [
        (0.5, 0.142, 0.540, 0.014),
        (1, 0.268, 0.575, 0.020),
        (4, 0.925, 0.743, 0.081),
        (8, 1.666, 0.881, 0.255),
    ],
)
def test_audit_ceilings_are_those_of_the_table(epsilon, mu, auc, rate):
    assert gaussian_mu(epsilon, 1e-5) == pytest.approx(mu, abs=2e-3)
    assert audit_ceiling(epsilon, 1e-5) == (pytest.approx(auc, abs=1e-3), pytest.approx(rate, abs=1e-3))
    assert audit_ceiling(math.inf, 1e-5) == (1.0, 1.0)


def test_gaussian_curve_inverts_even_far_out():
    for mu in (1e-3, 0.1, 1.0, 10.0, 60.0):
        epsilon = gaussian_epsilon(mu, 1e-6)
        assert gaussian_delta(mu, epsilon) <= 1e-6 * (1 + 1e-9)
        if epsilon > 0:
            assert gaussian_mu(epsilon, 1e-6) == pytest.approx(mu, rel=1e-4)


def test_snr_bound():
    assert snr_bound(100, 1.0, 256) == pytest.approx(6.25)
    assert snr_bound(20, 2.0, 64) == pytest.approx(1.25)
    assert snr_bound(20, 0.0, 64) == math.inf
