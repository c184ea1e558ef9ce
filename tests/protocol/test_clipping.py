"""Clipping bounds all that a person sends; the clip norm finds the quantile (wrong sign: it flees)."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from protocol.clipping import JointLayout, clip_to_norm, update_clip_norm
from protocol.errors import ProtocolError

anything = arrays(np.float64, st.integers(0, 30), elements=st.floats(allow_nan=True, allow_infinity=True))


@given(vector=anything, clip_norm=st.floats(1e-3, 1e3))
def test_clipped_norm_is_bounded_and_finite(vector, clip_norm):
    clipped, was_not_clipped = clip_to_norm(vector, clip_norm)
    assert np.isfinite(clipped).all()
    assert np.linalg.norm(clipped) <= clip_norm * (1 + 1e-12)
    if was_not_clipped:
        np.testing.assert_array_equal(clipped, vector)


def test_direction_is_kept_and_short_vectors_are_untouched():
    clipped, kept = clip_to_norm(np.array([3.0, 4.0]), 1.0)
    np.testing.assert_allclose(clipped, [0.6, 0.8])
    assert not kept
    clipped, kept = clip_to_norm(np.array([3.0, 4.0]), 5.0)
    np.testing.assert_array_equal(clipped, [3.0, 4.0])
    assert kept
    huge, _ = clip_to_norm(np.array([1e300, 1e300]), 1.0)
    np.testing.assert_allclose(huge, [math.sqrt(0.5)] * 2)


def test_zero_and_non_finite_updates():
    """Flower 1.41 divides by the zero norm; a NaN would poison everybody's sum."""
    clipped, kept = clip_to_norm(np.zeros(4), 1.0)
    assert kept and not clipped.any()
    for broken in (np.array([np.nan, 1.0]), np.array([np.inf, 0.0])):
        clipped, kept = clip_to_norm(broken, 1.0)
        assert not kept and not clipped.any()
    for clip_norm in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ProtocolError):
            clip_to_norm(np.ones(2), clip_norm)


def adapt(update, fraction):
    clip_norm, track = 0.1, []
    norms = np.random.default_rng(0).uniform(0.5, 1.5, 200)  # median 1.0
    for _ in range(150):
        clip_norm = update(clip_norm, fraction(norms, clip_norm))
        track.append(clip_norm)
    return track[-1]


def test_adaptive_clipping_converges_to_the_quantile():
    def not_clipped(norms, clip_norm):
        return float(np.mean(norms <= clip_norm))

    assert adapt(update_clip_norm, not_clipped) == pytest.approx(1.0, rel=0.1)

    def quarter(clip_norm, fraction):
        return update_clip_norm(clip_norm, fraction, target_quantile=0.25)

    assert adapt(quarter, not_clipped) == pytest.approx(0.75, rel=0.1)


def test_with_the_fraction_clipped_instead_it_runs_away():
    """Flower 1.41's defect: the wrong bit drives C to zero from below and to infinity from above."""

    def clipped(norms, clip_norm):
        return float(np.mean(norms > clip_norm))

    assert adapt(update_clip_norm, clipped) < 1e-3


def test_noise_beyond_the_range_of_a_fraction_is_harmless():
    assert update_clip_norm(1.0, 7.0) == update_clip_norm(1.0, 1.0) < 1.0
    assert update_clip_norm(1.0, -7.0) == update_clip_norm(1.0, 0.0) > 1.0


@given(
    update=arrays(np.float64, 5, elements=st.floats(allow_nan=True, allow_infinity=True)),
    loss_sum=st.floats(allow_nan=True, allow_infinity=True),
    count=st.integers(-3, 10**9),
    clip_norm=st.floats(1e-3, 1e3),
    share=st.floats(0.01, 0.9),
)
def test_joint_vector_never_exceeds_the_joint_norm(update, loss_sum, count, clip_norm, share):
    layout = JointLayout(5, metric_share=share)
    joint, _ = layout.pack(update, loss_sum, count, clip_norm)
    assert joint.shape == (8,) and np.isfinite(joint).all()
    assert np.linalg.norm(joint) <= layout.joint_norm(clip_norm) * (1 + 1e-9)


def test_joint_norm_is_tight_and_metrics_come_back():
    layout = JointLayout(2, metric_share=0.2)
    worst, _ = layout.pack(np.array([3.0, 0.0]), 0.0, 0, 1.0)
    assert np.linalg.norm(worst) == pytest.approx(layout.joint_norm(1.0)) == pytest.approx(1 / math.sqrt(0.8))
    people = [(np.array([0.3, 0.4]), 30.0, 10, True), (np.array([6.0, 8.0]), 40.0, 40, False)]
    total = np.zeros(5)
    for update, loss_sum, count, fits in people:
        joint, was_not_clipped = layout.pack(update, loss_sum, count, 1.0)
        assert was_not_clipped is fits
        total += joint
    mean = layout.unpack(total, 2, 1.0)
    np.testing.assert_allclose(mean.update, [(0.3 + 0.6) / 2, (0.4 + 0.8) / 2])
    assert mean.fraction_not_clipped == pytest.approx(0.5)
    assert mean.loss == pytest.approx((3.0 + 1.0) / 2)  # equal weight per person, not per example
    assert mean.example_count == pytest.approx(25.0)
    with pytest.raises(ProtocolError):
        layout.unpack(total, 0, 1.0)
    with pytest.raises(ProtocolError):
        layout.pack(np.zeros(3), 0.0, 0, 1.0)
