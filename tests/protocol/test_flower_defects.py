"""Five defects measured in Flower 1.41's private strategies, as properties: ours holds each, a variant with the defect
does not.

Every check takes the mechanism as an argument, so that the same check judges ours and the faulty one; a check that the
faulty one passed would prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import MT19937, Generator
from numpy.typing import NDArray

from protocol.accounting import Accountant, PrivacyEvent
from protocol.clipping import JointLayout, clip_to_norm, update_clip_norm
from protocol.masks import expand
from protocol.round_plan import RoundPlan, plan_task

Vector = NDArray[np.float64]


# ----- 1: the clipping norm must follow its quantile


def clip_after(step: Callable[[float, float], float], start: float, rounds: int = 60) -> float:
    """The clipping norm after `rounds` in which everybody's update has norm 1: `step(clip, fraction that fits)`."""
    clip = start
    for _ in range(rounds):
        clip = step(clip, 1.0 if clip >= 1.0 else 0.0)
    return clip


@pytest.mark.parametrize("start", [0.1, 5.0])
def test_the_clipping_norm_follows_the_quantile(start: float) -> None:
    assert 0.8 < clip_after(update_clip_norm, start) < 1.25
    # moved by the fraction that was clipped
    runaway = clip_after(lambda clip, fits: update_clip_norm(clip, 1.0 - fits), start)
    assert runaway < 0.01 or runaway > 100.0


# ----- 2: the noise must cover whoever weighs most


def effective_noise_multiplier(contribution: Callable[[int], float], deviation: float) -> float:
    """Noise on the sum over the largest influence of one person, who may hold 1 or 840 of 1,000 examples."""
    return deviation / max(contribution(count) for count in (1, 160, 840))


def test_noise_covers_the_person_with_most_of_the_examples() -> None:
    clip, people, z = 1.0, 10, 1.0
    layout = JointLayout(4)

    def ours(count: int) -> float:
        joint, _ = layout.pack(np.full(4, 9.0), loss_sum=0.0, example_count=count, clip_norm=clip)
        return float(np.linalg.norm(joint))

    def weighted_by_examples(count: int) -> float:
        return clip * count / 1000

    assert effective_noise_multiplier(ours, z * layout.joint_norm(clip)) >= z - 1e-9
    # a mean weighted by examples, with the noise of an unweighted one
    assert effective_noise_multiplier(weighted_by_examples, z * clip / people) < 0.2 * z


# ----- 3: a mask must depend on its whole key


def masks_that_coincide(generate: Callable[[bytes], NDArray[np.integer]]) -> bool:
    """Whether two keys that are equal once their eight words are folded together by XOR give one mask."""
    first = np.arange(1, 9, dtype="<u4")
    second = first.copy()
    second[0] ^= np.uint32(0xDEADBEEF)
    second[1] ^= np.uint32(0xDEADBEEF)
    return bool(np.array_equal(generate(first.tobytes()), generate(second.tobytes())))


def folded(key: bytes) -> NDArray[np.integer]:
    seed = int(np.bitwise_xor.reduce(np.frombuffer(key, "<u4")))
    return Generator(MT19937(seed)).integers(0, 1 << 16, 64)


def test_a_mask_depends_on_every_bit_of_its_key() -> None:
    assert not masks_that_coincide(lambda key: expand(key, 64, 16))
    assert masks_that_coincide(folded)


# ----- 4: somebody without data must not stop a round


def survives_nothing_to_say(clip: Callable[[Vector], Vector]) -> bool:
    """Whether an update of zeros is clipped to zeros."""
    try:
        with np.errstate(divide="raise", invalid="raise"):
            return bool(np.array_equal(clip(np.zeros(5)), np.zeros(5)))
    except (ZeroDivisionError, FloatingPointError):
        return False


def test_an_update_of_zeros_is_no_error() -> None:
    assert survives_nothing_to_say(lambda update: clip_to_norm(update, 1.0)[0])
    assert not survives_nothing_to_say(lambda update: update * min(1.0, 1.0 / float(np.linalg.norm(update))))


# ----- 5: what is spent adds up over rounds


def composes(spent: Callable[[int], float]) -> bool:
    """Whether the epsilon after `n` rounds grows at least like the square root of `n`."""
    return spent(1) < spent(2) < spent(25) and spent(25) > 4 * spent(1)


def test_epsilon_is_composed_over_the_rounds() -> None:
    event = PrivacyEvent(noise_multiplier=4.0, sampling_probability=1.0, l2_sensitivity=1.0, l1_sensitivity=1.0)
    assert composes(lambda rounds: Accountant([event] * rounds).epsilon(1e-5))
    # an engine made anew for every round, which reports its own round only
    assert not composes(lambda rounds: Accountant([event]).epsilon(1e-5))


# ----- and beside them: one lost reply must cost neither the round nor its noise


def noise_after_losses(task_survivors: int, arrived: int, sized_for: int) -> float:
    """Effective noise multiplier of a sum over `arrived` people whose shares were sized for `sized_for`."""
    task = plan_task(
        run_id="run",
        round=0,
        kind="shared",
        artefacts={},
        base_sha256="0" * 64,
        dimension=16,
        clip_norm=1.0,
        noise_multiplier=1.0,
        cohort_size=sized_for,
        minimum_survivors=task_survivors,
        delta=1e-5,
    )
    noise = RoundPlan.of(task).noise
    return math.sqrt(arrived * noise.share_variance) / noise.l2_sensitivity


def test_a_lost_reply_leaves_enough_noise() -> None:
    assert noise_after_losses(task_survivors=16, arrived=16, sized_for=24) >= 1.0 - 1e-12
    # shares sized for everybody who was asked
    assert noise_after_losses(task_survivors=24, arrived=16, sized_for=24) < 0.85
