"""The Gaussian that stands for integer noise is never more private than it, and hardly less."""

import math

import numpy as np
import pytest

from protocol.accounting import Accountant, PrivacyEvent, gaussian_delta
from protocol.gaussian_domination import dominating_variance, log_mass, quantile_steps
from tests.protocol.privacy_curves import composed, delta_of, deviation, epsilon_of, loss_pairs, masses

MECHANISMS = ["skellam", "discrete_gaussian"]
SMALL = [0.05, 0.3, 1.0, 2.5, 9.0, 40.0, 400.0]
both = pytest.mark.parametrize("mechanism", MECHANISMS)


@both
def test_mass_is_that_of_the_distribution(mechanism):
    if mechanism == "skellam":  # the difference of two Poisson variables, by convolution
        counts = np.arange(80)
        poisson = np.exp(counts * math.log(2.0) - 2.0 - np.array([math.lgamma(count + 1) for count in counts]))
        difference = np.convolve(poisson, poisson[::-1])
        expected = np.log(difference[79:100] / difference[79])
    else:
        expected = -(np.arange(21.0) ** 2) / 8
    assert log_mass(mechanism, 4.0)[:21] == pytest.approx(expected, abs=1e-9)


@both
@pytest.mark.parametrize("variance", SMALL)
def test_one_release_is_within_the_gaussian_curve_everywhere(mechanism, variance):
    equivalent = dominating_variance(mechanism, variance)
    mass = masses(mechanism, variance)
    for shift in (1, 2, 3, 5):
        probabilities, losses = loss_pairs(mass, shift)
        for epsilon in np.linspace(0.0, 12.0, 49):
            exact = delta_of(probabilities, losses, float(epsilon))
            assert exact <= gaussian_delta(shift / math.sqrt(equivalent), float(epsilon)) * (1 + 1e-7) + 1e-15


@both
def test_the_noise_itself_as_a_gaussian_would_promise_too_much(mechanism):
    """Why the correction is there: with the plain variance the curve lies below the truth, for both."""
    variance = 2.5
    probabilities, losses = loss_pairs(masses(mechanism, variance), 1)
    exact = [delta_of(probabilities, losses, epsilon / 20) for epsilon in range(60)]
    assert any(delta > gaussian_delta(variance**-0.5, e / 20) * 1.001 for e, delta in enumerate(exact))


@both
@pytest.mark.parametrize("variance", [0.5, 4.0, 60.0])
@pytest.mark.parametrize("shifts", [(1, 1), (2, 1), (2, 1, 1)])
def test_several_coordinates_together_by_enumeration(mechanism, variance, shifts):
    mass = masses(mechanism, variance)
    parts = []
    for shift in shifts:
        probabilities, losses = loss_pairs(mass, shift)
        likely = probabilities > 1e-9
        parts.append((probabilities[likely], losses[likely]))
    probabilities, losses = np.ones(1), np.zeros(1)
    for more, further in parts:
        probabilities = np.multiply.outer(probabilities, more).ravel()
        losses = np.add.outer(losses, further).ravel()
    length = math.sqrt(sum(shift * shift for shift in shifts))
    multiplier = math.sqrt(variance) / length
    event = PrivacyEvent(multiplier, l2_sensitivity=length, l1_sensitivity=float(sum(shifts)), mechanism=mechanism)
    for delta in (1e-2, 1e-4):
        ours = Accountant([event]).epsilon(delta)
        assert epsilon_of(probabilities, losses, delta) <= ours


@both
@pytest.mark.parametrize("variance", [0.5, 2.0, 25.0, 900.0])
@pytest.mark.parametrize(("shift", "releases"), [(1, 4), (1, 40), (3, 10)])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_many_releases_are_never_below_the_integrated_curve_and_close_to_it(
    mechanism, variance, shift, releases, delta
):
    probabilities, losses = loss_pairs(masses(mechanism, variance), shift)
    cell = deviation(probabilities, losses) / 2000
    total, sums = composed(probabilities, losses, releases, cell)
    integrated = epsilon_of(total, sums, delta)
    event = PrivacyEvent(
        math.sqrt(variance) / shift, count=releases, l2_sensitivity=float(shift), l1_sensitivity=float(shift),
        mechanism=mechanism,
    )  # fmt: skip
    ours = Accountant([event]).epsilon(delta)
    assert integrated <= ours
    if variance >= 25.0:  # it overstates Skellam by 3.1 % at 25, by 0.1 % at 900
        assert ours <= integrated * (1.002 if variance >= 900.0 else 1.035) + releases * cell


@both
@pytest.mark.parametrize("variance", [1e4, 1e5, 1e6])
def test_beyond_the_evaluated_range_the_expansion_is_on_the_safe_side(mechanism, variance):
    evaluated = float(quantile_steps(mechanism, variance).max()) ** -2
    claimed = dominating_variance(mechanism, variance * (1 + 1e-12))
    assert claimed < evaluated < variance
    assert variance - evaluated == pytest.approx({"skellam": 1 / 3, "discrete_gaussian": 1 / 12}[mechanism], rel=5e-3)
    assert claimed > variance - 1.0


def test_a_sum_of_discrete_gaussians_is_taken_for_what_it_is():
    """The curve of the convolution stays within what is claimed for it; one discrete Gaussian would claim more."""
    variance, shares = 0.5, 8
    one = masses("discrete_gaussian", variance)
    total = np.ones(1)
    for _ in range(shares):
        total = np.convolve(total, one[len(one) // 2 - 40 : len(one) // 2 + 41])
    probabilities, losses = loss_pairs(total / total.sum(), 1)
    claimed = dominating_variance("discrete_gaussian", variance * shares, shares)
    for epsilon in np.linspace(0.0, 3.0, 31):
        exact = delta_of(probabilities, losses, float(epsilon))
        assert exact <= gaussian_delta(claimed**-0.5, float(epsilon)) * (1 + 1e-7) + 1e-14
    assert claimed < dominating_variance("discrete_gaussian", variance * shares)
    assert dominating_variance("discrete_gaussian", 4000.0, 8) == dominating_variance("discrete_gaussian", 4000.0)


def test_where_nothing_can_be_said_nothing_is_claimed():
    assert dominating_variance("discrete_gaussian", 0.2, 4) == 0.0
    assert dominating_variance("skellam", 0.0) == 0.0
    assert dominating_variance("discrete_gaussian", 1e-9) == 0.0
    event = PrivacyEvent(0.1, l2_sensitivity=2.0, l1_sensitivity=2.0, mechanism="discrete_gaussian", shares=8)
    assert Accountant([event]).epsilon(1e-5) == math.inf == Accountant([event]).epsilon_rdp(1e-5)
