"""The summed noise has exactly the promised scale, whoever survives; a 5 % error would fail here."""

import math

import numpy as np
import pytest

from protocol.errors import ProtocolError
from protocol.skellam import DistributedSkellam, renyi_divergence


def scale_is_right(samples, variance):
    """Chi-square test of the variance at 5 deviations: sd of a variance estimate is about sqrt(2 / n)."""
    ratio = float(np.mean(samples.astype(np.float64) ** 2)) / variance
    return abs(ratio - 1) < 5 * math.sqrt(2 / samples.size)


@pytest.mark.parametrize("survivors", [16, 20, 24])
def test_summed_noise_has_the_promised_scale_and_wrong_scales_are_noticed(survivors):
    noise, rng = DistributedSkellam(1.3, 250.0, 16), np.random.default_rng(survivors)
    total = sum(noise.sample_share(20_000, rng) for _ in range(survivors))
    variance = (1.3 * 250.0) ** 2 * survivors / 16
    assert noise.total_variance(survivors) == pytest.approx(variance)
    assert scale_is_right(total, variance)
    assert not scale_is_right(total, variance * 1.05**2)  # standard deviation off by 5 %
    assert not scale_is_right(total, variance * 0.95**2)
    assert abs(float(total.mean())) < 5 * math.sqrt(variance / total.size)


def test_noise_is_integer_symmetric_and_skellam_when_small():
    """At a small rate the distribution shows: P[0] = exp(-v) I_0(v)."""
    noise = DistributedSkellam(1.0, 1.0, 1)
    sample = noise.sample_share(200_000, np.random.default_rng(0))
    assert sample.dtype == np.int64
    assert float(np.mean(sample == 0)) == pytest.approx(0.465760, abs=0.005)
    assert float(np.mean(sample > 0)) == pytest.approx(float(np.mean(sample < 0)), abs=0.006)


def test_default_randomness_is_fresh_and_zero_noise_is_none():
    noise = DistributedSkellam(1.0, 100.0, 10)
    assert not np.array_equal(noise.sample_share(50), noise.sample_share(50))
    assert not DistributedSkellam(0.0, 100.0, 10).sample_share(50).any()


def test_effective_multiplier_never_falls_below_the_promise():
    noise = DistributedSkellam(2.0, 100.0, 16)
    assert noise.effective_noise_multiplier(16) == pytest.approx(2.0)
    assert noise.effective_noise_multiplier(64) == pytest.approx(4.0)
    with pytest.raises(ProtocolError, match="needs 16"):
        noise.total_variance(15)
    for wrong in [(-1.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0), (math.nan, 1.0, 1)]:
        with pytest.raises(ProtocolError):
            DistributedSkellam(*wrong)


@pytest.mark.parametrize(("variance", "shift"), [(4.0, 1), (50.0, 3), (400.0, 20)])
@pytest.mark.parametrize("order", [2, 5, 16])
def test_renyi_bound_covers_the_true_divergence(variance, shift, order):
    """One dimension, computed from the distribution itself (difference of two Poissons, by convolution)."""
    width = int(40 * math.sqrt(variance)) + shift + 40
    counts = np.arange(2 * width)
    log_poisson = counts * math.log(variance / 2) - variance / 2
    log_poisson -= np.array([math.lgamma(count + 1) for count in counts])
    poisson = np.exp(log_poisson)
    mass = np.convolve(poisson, poisson[::-1])
    centre = int(np.argmax(mass))
    # The sum is concentrated around (1 - order) * shift.
    reach = order * shift + int(10 * math.sqrt(variance))
    span = np.arange(-reach, reach + 1)
    first, second = mass[centre + span], mass[centre + span - shift]
    usable = (first > 1e-200) & (second > 1e-200)
    true = math.log(np.sum(first[usable] * (first[usable] / second[usable]) ** (order - 1))) / (order - 1)
    bound = renyi_divergence(order, variance, float(shift), float(shift))
    gaussian = order * shift**2 / (2 * variance)
    assert true <= bound * (1 + 1e-9)
    assert bound >= gaussian
    if variance >= 50.0:  # and not loose where integers are fine against the noise
        assert bound == pytest.approx(true, rel=0.2)


def test_renyi_bound_approaches_the_gaussian_for_fine_integers():
    fine = renyi_divergence(8, 1e8, 1e4, 1e5)
    assert fine == pytest.approx(4.0, rel=1e-2) and fine > 4.0
    assert renyi_divergence(8, 0.0, 1.0, 1.0) == math.inf
    with pytest.raises(ProtocolError):
        renyi_divergence(1, 1.0, 1.0, 1.0)
