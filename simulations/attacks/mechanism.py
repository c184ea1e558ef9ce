"""Canaries in the mechanism itself: the exact clipped, rotated, rounded, noised sum mod 2^b, thousands of times.

No model, no text: the adversary knows everybody's vector but whether one canary's is in the sums (present) or replaced
by zeros (absent), the neighbours of the accountant. With ``x_t`` the canary's joint vector in round t, ``s_t`` the
decoded sum and ``sigma_t`` the deviation of its noise, the best test of one release after another is

    sum_t <s_t, x_t> / sigma_t^2                                          ("sums")

and a second one looks for noise that two rounds share: <s_1 - s_2, x_1 - x_2>     ("difference"). What each proves is
`ceilings.mu_bound` at half of the error allowed, thresholds chosen on other runs than those counted. Everything else
(`protocol.round_plan`) is the code of devices and server. The canary offers four times the clip norm, so a forgotten
clip shows; ``Fault`` breaks one step on purpose, and an audit that does not notice is worth nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from protocol.accounting import Accountant, gaussian_epsilon, squared_gaussian_mu
from protocol.codec import centre, rotate
from protocol.distributed_noise import DistributedNoise
from protocol.masks import reduce_to_ring
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan
from simulations.attacks.ceilings import Array, best_threshold, epsilon_bound, mu_bound, one_run_epsilon

Fault = Literal["half the noise", "a share forgotten", "no clip", "weighted after the clip", "noise reused"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
LOUD = 4.0  # times the clip norm: what the canary offers
WEIGHT = 3.0  # examples by which "weighted after the clip" multiplies


@dataclass(frozen=True)
class MechanismAudit:
    """``epsilon_promised`` at ``delta`` for all releases together; ``epsilon_low`` and ``mu_low`` are surely reached
    (``epsilon_plain`` without the assumption of a Gaussian curve). ``runs`` with and as many without the canary."""

    epsilon_promised: float
    delta: float
    mu_promised: float
    mu_low: float
    epsilon_low: float
    epsilon_plain: float
    runs: int
    score: str
    fault: str = ""

    @property
    def broken(self) -> bool:
        """Whether the mechanism surely spends more than was promised."""
        return self.mu_low > self.mu_promised


def audit_mechanism(
    tasks: Sequence[RoundTask],
    *,
    runs: int,
    random: np.random.Generator,
    fault: Fault | None = None,
    confidence: float = 0.999,
) -> MechanismAudit:
    """Release the rounds of ``tasks`` ``runs`` times with and without a canary, at the smallest cohort allowed.

    ``confidence`` of the bounds together; with no fault a "broken" is a false alarm of probability 1 - confidence.
    """
    delta = tasks[0].delta
    events = [RoundPlan.of(task).privacy_event() for task in tasks]
    canaries = [_canary(RoundPlan.of(task), random) for task in tasks]
    inside = _scores(tasks, canaries, True, runs, random, fault)
    outside = _scores(tasks, canaries, False, runs, random, fault)
    half, each = runs // 2, 1.0 - (1.0 - confidence) / len(inside)
    best = (0.0, 0.0, "")
    for name, present in inside.items():
        absent = outside[name]
        level = best_threshold(present[:half], absent[:half])
        counts = (int((present[half:] > level).sum()), runs - half, int((absent[half:] > level).sum()), runs - half)
        best = max(best, (mu_bound(*counts, each), epsilon_bound(*counts, delta, each), name))
    promised = Accountant(events).epsilon(delta)
    return MechanismAudit(
        epsilon_promised=promised,
        delta=delta,
        mu_promised=math.sqrt(squared_gaussian_mu(events)),
        mu_low=best[0],
        epsilon_low=gaussian_epsilon(best[0], delta),
        epsilon_plain=best[1],
        runs=runs,
        score=best[2],
        fault=fault or "",
    )


def one_run_audit(
    task: RoundTask, *, random: np.random.Generator, guesses: float = 0.25, confidence: float = 0.95
) -> tuple[int, int, float]:
    """(guesses made, right ones, epsilon surely reached) by `ceilings.one_run_epsilon` in a single release.

    As many orthogonal canaries as the update has values, each in by a fair coin: canary i offers ``LOUD`` times the
    clip norm along axis i. The ``guesses`` share of most telling scores is answered, half of it "in", half "out".
    """
    plan = RoundPlan.of(task)
    count = task.update_dimension
    present = random.random(count) < 0.5
    total = plan.noise.sample_share(plan.layout.dimension * task.minimum_survivors, random)
    total = total.reshape(task.minimum_survivors, -1).sum(0)
    for axis in np.flatnonzero(present):
        joint, _ = plan.layout.pack(LOUD * task.clip_norm * np.eye(count)[axis], 0.0, 0, task.clip_norm)
        total = total + plan.codec.encode(joint, random)
    scores = plan.codec.decode(reduce_to_ring(total, task.ring_bits))[:count]
    order, side = np.argsort(scores), max(1, round(count * guesses / 2))
    right = int(present[order[-side:]].sum() + (~present[order[:side]]).sum())
    return 2 * side, right, one_run_epsilon(count, 2 * side, right, task.delta, confidence)


def _canary(plan: RoundPlan, random: np.random.Generator) -> Array:
    """A random update of ``LOUD`` times the clip norm."""
    drawn = random.normal(size=plan.task.update_dimension)
    return np.asarray(LOUD * plan.task.clip_norm * drawn / np.linalg.norm(drawn))


def _scores(
    tasks: Sequence[RoundTask],
    canaries: Sequence[Array],
    present: bool,
    runs: int,
    random: np.random.Generator,
    fault: Fault | None,
) -> dict[str, Array]:
    """name of the test -> (runs,) scores."""
    summed = np.zeros(runs)
    rounds: list[tuple[Array, Array]] = []  # (released (runs, D), the canary's own (D,)), rotated, in integers
    seed = int(random.integers(1 << 62))
    for task, update in zip(tasks, canaries, strict=True):
        plan = RoundPlan.of(task)
        noise_random = np.random.default_rng(seed) if fault == "noise reused" else random
        noise = _summed_noise(plan.noise, plan.layout.dimension, runs, noise_random, fault)
        joint, _ = plan.layout.pack(update, 0.0, 0, task.clip_norm)
        codec = plan.codec
        if fault == "no clip":
            joint = np.concatenate([update, joint[task.update_dimension :]])
        elif fault == "weighted after the clip":
            joint = WEIGHT * joint
        if fault in ("no clip", "weighted after the clip"):  # the real codec refuses what is longer than the clip
            codec = replace(codec, clip_norm=float(np.linalg.norm(joint)))
        if present:
            noise = noise + np.stack([codec.encode(joint, random) for _ in range(runs)])
        released = centre(reduce_to_ring(noise, task.ring_bits), task.ring_bits).astype(np.float64)
        own = codec.scale * rotate(joint, codec.rotation_seed)
        summed += released @ own / plan.noise.total_variance(task.minimum_survivors)
        rounds.append((released, own))
    scores = {"sums": summed}
    if len(rounds) > 1 and rounds[0][0].shape == rounds[1][0].shape:
        (first, x_1), (second, x_2) = rounds[:2]
        scores["difference"] = (first - second) @ (x_1 - x_2)
    return scores


def _summed_noise(
    noise: DistributedNoise, dimension: int, runs: int, random: np.random.Generator, fault: Fault | None
) -> np.ndarray:
    """(runs, D) integers: the sum of the shares of the smallest cohort, share by share."""
    if fault == "half the noise":
        noise = replace(noise, noise_multiplier=noise.noise_multiplier / 2)
    shares = noise.minimum_survivors - (fault == "a share forgotten")
    total = np.zeros((runs, dimension), dtype=np.int64)
    for _ in range(shares):
        total += noise.sample_share(runs * dimension, random).reshape(runs, dimension)
    return total
