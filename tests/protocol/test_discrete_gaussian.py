"""The sampler draws the discrete Gaussian and nothing else; shares add up to the promised noise."""

import math
from fractions import Fraction

import numpy as np
import pytest

import protocol.discrete_gaussian as module
from protocol.discrete_gaussian import DistributedDiscreteGaussian, sample_discrete_gaussian, sum_divergence
from protocol.errors import ProtocolError
from tests.protocol.test_skellam import scale_is_right


def mass_of(variance, reach):
    mass = np.exp(-np.square(np.arange(-reach, reach + 1.0)) / (2 * variance))
    return mass / mass.sum()


@pytest.mark.parametrize("variance", [0.2, 0.9, 1.0, 3.7, 12.0])
def test_the_sampler_draws_every_integer_as_often_as_it_should(variance):
    """Pearson's chi-square over the cells that expect 20 draws or more; a 5 % wrong scale is rejected."""
    count, reach = 60_000, 40
    sample = sample_discrete_gaussian(variance, count, np.random.default_rng(7).bytes)
    seen = np.bincount(np.clip(sample, -reach, reach) + reach, minlength=2 * reach + 1)

    def deviations(assumed):
        expected = count * mass_of(assumed, reach)
        cells = expected >= 20
        chi = float(np.sum((seen[cells] - expected[cells]) ** 2 / expected[cells]))
        return (chi - cells.sum()) / math.sqrt(2 * cells.sum())

    assert deviations(variance) < 5
    assert deviations(variance * 1.05**2) > 5 and deviations(variance * 0.95**2) > 5


@pytest.mark.parametrize("survivors", [16, 20])
def test_summed_noise_has_the_promised_scale_and_wrong_scales_are_noticed(survivors):
    noise, rng = DistributedDiscreteGaussian(1.3, 250.0, 16), np.random.default_rng(survivors)
    total = sum(noise.sample_share(20_000, rng) for _ in range(survivors))
    variance = (1.3 * 250.0) ** 2 * survivors / 16
    assert total.dtype == np.int64 and noise.total_variance(survivors) == pytest.approx(variance)
    assert scale_is_right(total, variance)
    assert not scale_is_right(total, variance * 1.05**2)  # standard deviation off by 5 %
    assert not scale_is_right(total, variance * 0.95**2)
    assert abs(float(total.mean())) < 5 * math.sqrt(variance / total.size)


def test_where_doubles_cannot_decide_exact_arithmetic_does(monkeypatch):
    """The same draws with the exact comparison for every proposal: the distribution is the same, draw for draw."""
    plain = sample_discrete_gaussian(2.3, 300, np.random.default_rng(1).bytes)
    monkeypatch.setattr(module, "_CERTAIN", 1e30)
    assert np.array_equal(sample_discrete_gaussian(2.3, 300, np.random.default_rng(1).bytes), plain)
    half = math.floor(math.exp(-0.5) * 2**63)  # close to the threshold: doubles cannot tell, the exact one can
    assert module._below_exp(half - 2**12, Fraction(1, 2), bytes) is True
    assert module._below_exp(half + 2**12, Fraction(1, 2), bytes) is False


def test_a_word_on_the_threshold_is_decided_by_further_bits():
    threshold = int(Fraction(1 << 63) * module.Fraction(module.Decimal(-1).exp(module.Context(prec=60))))
    assert module._below_exp(threshold, Fraction(1), lambda count: b"\x00" * count) is True
    assert module._below_exp(threshold, Fraction(1), lambda count: b"\xff" * count) is False


def test_default_randomness_is_fresh_and_zero_noise_is_none():
    noise = DistributedDiscreteGaussian(1.0, 100.0, 10)
    assert not np.array_equal(noise.sample_share(50), noise.sample_share(50))
    assert not DistributedDiscreteGaussian(0.0, 100.0, 10).sample_share(50).any()
    assert sample_discrete_gaussian(1.0, 0).shape == (0,)
    with pytest.raises(ProtocolError, match="needs 10"):
        noise.total_variance(9)


@pytest.mark.parametrize(("variance", "shares"), [(0.3, 2), (0.5, 3), (0.5, 12), (1.0, 5), (0.4, 100)])
def test_the_sum_is_as_close_to_a_discrete_gaussian_as_the_bound_says_and_not_equal(variance, shares):
    reach = 30
    total = np.ones(1)
    for _ in range(shares):
        total = np.convolve(total, mass_of(variance, reach))
    middle, span = shares * reach, int(4 * math.sqrt(shares * variance)) + 2
    wanted = np.exp(-np.square(np.arange(-span, span + 1.0)) / (2 * variance * shares))
    every = np.exp(-np.square(np.arange(-2000, 2001.0)) / (2 * variance * shares)).sum()
    apart = float(np.max(np.abs(np.log(total[middle - span : middle + span + 1] / (wanted / every)))))
    assert 1e-9 < apart <= sum_divergence(variance, shares)


def test_the_bound_vanishes_for_real_shares_and_says_nothing_for_tiny_ones():
    assert sum_divergence(50.0, 60_000) < 1e-200
    assert sum_divergence(3.0, 1000) < 1e-9
    assert sum_divergence(0.07, 2) == math.inf
    assert sum_divergence(0.01, 1) == 0.0
