"""From updates to noisy means through the real secure sum, with the noise that the task promises."""

import math

import numpy as np
import pytest

from protocol.errors import ProtocolError
from protocol.masks import reduce_to_ring
from protocol.round_plan import RoundPlan, plan_task
from tests.protocol.secure_sum_fleet import SmallFleet


def make_plan(**changes):
    arguments = {
        "run_id": "run-1", "round": 0, "kind": "shared", "artefacts": {}, "base_sha256": "b" * 64,
        "dimension": 60,
        "clip_norm": 0.5, "noise_multiplier": 1.0, "cohort_size": 12, "minimum_survivors": 8, "delta": 1e-5,
    }  # fmt: skip
    return RoundPlan.of(plan_task(**{**arguments, **changes}))


def test_means_of_updates_and_metrics_arrive_without_noise():
    plan = make_plan(noise_multiplier=0.0)
    rng = np.random.default_rng(0)
    fleet = SmallFleet(plan.task)
    updates = [rng.normal(size=60) * scale for scale in [0.01] * 11 + [100.0]]
    vectors = {device: plan.contribute(update, 20.0, 10) for device, update in enumerate(updates)}
    request = fleet.collect(fleet.share(fleet.advertise()), vectors, gone=[0])
    mean = plan.decode(fleet.unmask(fleet.confirm(request)), len(request.survivors))
    last = updates[11] * (0.5 / np.linalg.norm(updates[11]))
    expected = (sum(updates[1:11]) + last) / 11
    np.testing.assert_allclose(mean.update, expected, atol=2 / plan.task.scale)
    assert mean.fraction_not_clipped == pytest.approx(10 / 11, abs=0.01)
    assert mean.loss == pytest.approx(2.0, abs=0.02)
    assert mean.example_count == pytest.approx(10.0, abs=2.0)


@pytest.mark.parametrize("mechanism", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("survivors", [8, 12])
def test_noise_on_the_sum_has_the_planned_deviation(survivors, mechanism):
    plan = make_plan(dimension=2045, noise_multiplier=2.0, ring_bits=24, mechanism=mechanism)
    assert plan.noise.mechanism == plan.privacy_event().mechanism == mechanism
    rng = np.random.default_rng(survivors)
    total = sum(plan.contribute(np.zeros(2045), 0.0, 0, rounding_rng=rng, noise_rng=rng) for _ in range(survivors))
    noise = plan.codec.decode(reduce_to_ring(total, 24))[:2045]
    joint = plan.layout.joint_norm(0.5)
    # z * J per coordinate at the minimum; Delta exceeds s * J only by the rounding (here below 0.1 %).
    expected = 2.0 * joint * math.sqrt(survivors / 8)
    assert float(noise.std()) == pytest.approx(expected, rel=0.05)
    assert plan.update_noise_deviation == pytest.approx(2.0 * joint, rel=1e-3)


def test_event_accounts_for_the_rounded_joint_sensitivity():
    plan = make_plan()
    event = plan.privacy_event()
    assert event.noise_multiplier == 1.0 and event.sampling_probability == 1.0
    assert event.l2_sensitivity == plan.codec.rounded_sensitivity >= plan.task.scale * plan.layout.joint_norm(0.5)
    assert plan.noise.share_variance == pytest.approx(plan.codec.rounded_sensitivity**2 / 8)


def test_an_unknown_mechanism_is_no_task():
    with pytest.raises(ValueError, match="mechanism"):
        make_plan(mechanism="laplace")


def test_a_zero_or_broken_update_still_takes_part():
    plan = make_plan()
    for update, loss in [
        (np.zeros(60), 0.0),
        (np.full(60, np.nan), math.nan),
        (np.full(60, np.inf), math.inf),
    ]:
        assert plan.contribute(update, loss, 0).shape == (63,)


def test_too_few_survivors_are_not_decoded():
    with pytest.raises(ProtocolError, match="needs 8"):
        make_plan().decode(np.zeros(63, dtype=np.uint32), 7)


def test_planned_round_loses_a_third_and_still_sums():
    plan = make_plan(cohort_size=18, minimum_survivors=12, dimension=5)
    fleet, rng = SmallFleet(plan.task), np.random.default_rng(1)
    vectors = {device: plan.contribute(rng.normal(size=5), 1.0, 1) for device in range(18)}
    request = fleet.collect(fleet.share(fleet.advertise()), vectors, gone=[0, 3, 6, 9, 12, 15])
    total = fleet.unmask(fleet.confirm(request), gone=[1, 4, 7, 10])
    np.testing.assert_array_equal(
        total, reduce_to_ring(sum(vectors[device] for device in request.survivors), plan.task.ring_bits)
    )
