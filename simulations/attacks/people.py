"""Is this person in the sums, and who is it? Attacks on a fleet's releases with everybody's real contributions at hand.

`PeopleRound` holds what each of n people put (or would put) into one round, before noise; releases are then drawn anew
as often as wanted, by the round's own arithmetic: integers, noise shares, ring. Scores are likelihood ratios summed
over the rounds, ``sum_t <s_t, x_ut> / sigma_t^2`` (see `simulations.attacks.mechanism`).

- `others_known`: the adversary knows everybody else's vector, as the definition of privacy has it.
- `likelihood_ratio`: LiRA (Carlini et al. 2022) with shadow fleets. The adversary knows the victim's vector and who
  *might* take part, and scores sums by ``Sigma^-1 x_u``, Sigma their covariance over fleets and noise; scores of fleets
  with and without the victim are fitted by two normal distributions on one half of the fleets, the likelihood ratio is
  judged on the other. ``calibrated`` False: the plain score, one threshold for all.
- `identified`: which of n people is the missing one of a sum whose others are known.
- `masked`: the same question to one masked upload.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.work import LocalUpdate
from protocol.codec import centre, rotate, rotate_back
from protocol.masks import expand, reduce_to_ring
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan
from simulations.attacks.ceilings import Array
from simulations.attacks.finding import auc

Integers = NDArray[np.int64]
ROUNDING = 0.25  # largest variance of a value that is rounded at random


@dataclass(frozen=True, eq=False)
class PeopleRound:
    """One round's mechanism and what n people put into it: ``integers`` (n, D), the clipped, rotated, rounded vectors
    without noise, and ``exact`` (n, D), the same before rounding (what an adversary would compute)."""

    plan: RoundPlan
    integers: Integers
    exact: Array

    @staticmethod
    def of(task: RoundTask, updates: Sequence[LocalUpdate], random: np.random.Generator) -> PeopleRound:
        """The clipped vectors of people's updates under a task."""
        plan = RoundPlan.of(task)
        joint = [plan.layout.pack(u.update, u.loss_sum, u.example_count, task.clip_norm)[0] for u in updates]
        exact = np.stack([task.scale * rotate(one, task.rotation_seed) for one in joint])
        return PeopleRound(plan, np.stack([plan.codec.encode(one, random) for one in joint]), exact)

    @property
    def variance(self) -> float:
        """Of the noise of the smallest cohort, per value; without noise, of the rounding: a scale for the scores."""
        return self.plan.noise.total_variance(self.plan.task.minimum_survivors) or ROUNDING

    def noise(self, runs: int, survivors: int, random: np.random.Generator) -> Integers:
        """(runs, D): the sum of ``survivors`` shares; equal shares sum to one share of the summed variance."""
        multiplier = self.plan.noise.effective_noise_multiplier(survivors)
        whole = replace(self.plan.noise, noise_multiplier=multiplier, minimum_survivors=1)
        return whole.sample_share(runs * self.exact.shape[1], random).reshape(runs, -1)

    def released(self, sums: Integers) -> Array:
        """What the server reads from integer sums (runs, D): residues, centred."""
        bits = self.plan.task.ring_bits
        return np.asarray(centre(reduce_to_ring(sums, bits), bits), dtype=np.float64)

    def updates(self, released: Array) -> Array:
        """The updates (runs, d) in what was read: rotated back, in their own unit, without the numbers beside them."""
        task = self.plan.task
        back = np.stack([rotate_back(line, task.rotation_seed) for line in released])
        return np.asarray(back[:, : task.update_dimension] / task.scale)


def others_known(rounds: Sequence[PeopleRound], runs: int, random: np.random.Generator, *, noisy: bool = True) -> Array:
    """(n,) each person's AUC over ``runs`` releases with and as many without them."""
    people = len(rounds[0].exact)
    found = np.empty(people)
    for person in range(people):
        inside, outside = np.zeros(runs), np.zeros(runs)
        for one in rounds:
            survivors = one.plan.task.minimum_survivors
            own, whole = one.exact[person] / one.variance, one.integers[person]
            for scores, vector in ((inside, whole), (outside, np.zeros_like(whole))):
                noise = one.noise(runs, survivors, random) if noisy else np.zeros((1, len(whole)), dtype=np.int64)
                scores += one.released(vector + noise) @ own
        found[person] = auc(inside, outside).value
    return found


def likelihood_ratio(
    rounds: Sequence[PeopleRound],
    fleet: int,
    runs: int,
    random: np.random.Generator,
    *,
    noisy: bool = True,
    calibrated: bool = True,
) -> Array:
    """(n,) each person's AUC over ``runs`` shadow fleets of about ``fleet`` people: half of them fit the scores,
    half are judged. Who is in none sends zeros, and the noise is that of the smallest cohort."""
    people = len(rounds[0].exact)
    # A coin for each: fleets with and without the victim differ in one person, not in one for another.
    members = random.random((runs, people)) < fleet / people
    seen, own, spread = [], [], []
    for one in rounds:
        sums = members.astype(np.int64) @ one.integers
        if noisy:
            sums = sums + one.noise(runs, one.plan.task.minimum_survivors, random)
        seen.append(one.released(sums))
        own.append(one.exact)
        spread.append(np.full(one.exact.shape[1], one.variance if noisy else ROUNDING))
    vectors, variances = np.hstack(own), np.concatenate(spread)  # (n, D of all rounds), (D,)
    if calibrated:  # the best linear score knows how sums vary with who else is in them
        share = fleet / people
        directions = np.linalg.solve(share * (1 - share) * vectors.T @ vectors + np.diag(variances), vectors.T)
    else:
        directions = vectors.T / variances[:, None]
    scores = np.hstack(seen) @ directions  # (runs, n)
    half, found = runs // 2, np.empty(people)
    for person in range(people):
        fitted, present = scores[:half, person], members[:half, person]
        judged, truth = scores[half:, person], members[half:, person]
        if calibrated:
            judged = _log_normal(judged, fitted[present]) - _log_normal(judged, fitted[~present])
        found[person] = auc(judged[truth], judged[~truth]).value
    return found


def identified(one: PeopleRound, runs: int, random: np.random.Generator, *, noisy: bool = True) -> tuple[int, int]:
    """(right answers, questions): who of all n people is in this sum? The others' part is known and subtracted."""
    people = len(one.exact)
    truth = random.integers(people, size=runs)
    sums = one.integers[truth]
    if noisy:
        sums = sums + one.noise(runs, one.plan.task.minimum_survivors, random)
    return int((_guess(one, one.released(sums)) == truth).sum()), runs


def masked(one: PeopleRound, runs: int, random: np.random.Generator) -> tuple[int, int]:
    """(right answers, questions): whose is this masked upload? Without noise, so that only the mask protects.

    A device adds its own mask and one per neighbour; to a server that lacks one of the keys their sum is one mask under
    a fresh key, which is what is drawn here.
    """
    truth = random.integers(len(one.exact), size=runs)
    bits = one.plan.task.ring_bits
    masks = np.stack([expand(os.urandom(32), one.exact.shape[1], bits).astype(np.int64) for _ in range(runs)])
    return int((_guess(one, one.released(one.integers[truth] + masks)) == truth).sum()), runs


def transcript_scores(rounds: Sequence[PeopleRound], sums: Sequence[Integers]) -> Array:
    """(n,) each person's score, by the length of their vectors, on the sums that a run really released."""
    scores = np.zeros(len(rounds[0].exact))
    length = np.zeros_like(scores)
    for one, total in zip(rounds, sums, strict=True):
        scores += one.exact @ total.astype(np.float64) / one.variance
        length += np.square(one.exact).sum(1) / one.variance
    return np.asarray(scores / np.sqrt(np.maximum(length, 1e-300)))


def _guess(one: PeopleRound, released: Array) -> NDArray[np.int64]:
    """(runs,) the most likely person under white noise: largest <s, x_u> - |x_u|^2 / 2."""
    likelihood = released @ one.exact.T - 0.5 * np.square(one.exact).sum(1)
    return np.asarray(likelihood.argmax(1))


def _log_normal(values: Array, fitted: Array) -> Array:
    deviation = float(fitted.std()) + 1e-12
    return np.asarray(-0.5 * ((values - fitted.mean()) / deviation) ** 2 - np.log(deviation))


# ----- the private weights in the sums of the bases -----


def likeness_of_weights(contribution: Array, seen: Array, rows: Array) -> float:
    """|cosine| of a person's private weights with those read from what was ``seen`` of their ``w (x) delta``
    (rows * d,): its leading left singular vector. What they truly are: ``rows @ delta``, delta the right one of the
    bare ``contribution``."""
    count = len(rows)
    _, _, residual = np.linalg.svd(contribution.reshape(count, -1), full_matrices=False)
    truth = rows @ residual[0]
    guess = np.linalg.svd(seen.reshape(count, -1), full_matrices=False)[0][:, 0]
    return abs(float(guess @ truth)) / max(float(np.linalg.norm(truth)), 1e-300)


def weight_direction(
    rounds: Sequence[tuple[RoundTask, LocalUpdate]],
    runs: int,
    random: np.random.Generator,
    *,
    noisy: bool = True,
) -> tuple[int, int]:
    """(right answers, questions): does this person lean one way or the other along the first of the public rows?

    The adversary knows everything else: all other people, the residual and all other weights. The two hypotheses are
    ``w`` and ``w`` with its first entry's sign turned, in every round, equally likely.
    """
    difference = np.zeros(runs)
    truth = random.random(runs) < 0.5
    for task, update in rounds:
        mirrored = update.update.reshape(task.basis_count, task.dimension).copy()
        mirrored[0] *= -1.0
        one = PeopleRound.of(task, [update, replace(update, update=mirrored.ravel())], random)
        sums = one.integers[np.where(truth, 0, 1)]
        if noisy:
            sums = sums + one.noise(runs, task.minimum_survivors, random)
        difference += (one.released(sums) - one.exact.mean(0)) @ (one.exact[0] - one.exact[1]) / one.variance
    return int(((difference > 0) == truth).sum()), runs
