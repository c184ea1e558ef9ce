"""From the exact integer sum to what an algorithm uses: the noisy mean update and mean metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cbor2
import numpy as np
from numpy.typing import NDArray

from protocol.codec import centre
from protocol.errors import PenchantError
from protocol.masks import Residues, reduce_to_ring
from protocol.messages import RoundTask
from protocol.plain_cbor import read_plain
from protocol.round_plan import RoundPlan


@dataclass(frozen=True)
class RoundOutcome:
    """What one round released.

    `integer_sum`: int64 (joint dimension,), the sum of the survivors' noisy integers, centred. `mean_update`:
    float64 (task.update_dimension,). `effective_noise_multiplier`: z * sqrt(survivors / minimum_survivors),
    the noise that is really in it; the ledger counts the smaller z. `noise_deviation`: standard deviation of the noise
    on each value of `mean_update`.
    """

    task: RoundTask
    integer_sum: NDArray[np.int64]
    survivors: int
    mean_update: NDArray[np.float64]
    fraction_not_clipped: float
    mean_loss: float
    mean_examples: float
    effective_noise_multiplier: float
    noise_deviation: float

    @property
    def metrics(self) -> Mapping[str, float]:
        """The noisy means that came with the update (they may leave their ranges), and the noise."""
        return {
            "fraction_not_clipped": self.fraction_not_clipped,
            "mean_loss": self.mean_loss,
            "mean_examples": self.mean_examples,
            "effective_noise_multiplier": self.effective_noise_multiplier,
            "noise_deviation": self.noise_deviation,
        }

    def to_bytes(self) -> bytes:
        """The sum and the number of survivors: all else follows from them and the task."""
        return cbor2.dumps({"survivors": self.survivors, "sum": self.integer_sum.astype("<i8").tobytes()})

    @staticmethod
    def from_bytes(task: RoundTask, data: bytes) -> RoundOutcome:
        """Inverse of `to_bytes` for the same task."""
        try:
            fields = read_plain(data)
            integers = np.frombuffer(fields["sum"], dtype="<i8").astype(np.int64)
            survivors = int(fields["survivors"])
        except (ValueError, KeyError, TypeError, OverflowError, EOFError, cbor2.CBORError) as error:
            raise PenchantError("a stored outcome is damaged: restore the fleet's store from a copy") from error
        return _outcome(task, integers, survivors)


def decode_sum(task: RoundTask, ring_sum: Residues, survivors: int) -> RoundOutcome:
    """Decode the unmasked sum mod 2^b, shape (joint dimension,), of `survivors` people."""
    return _outcome(task, centre(ring_sum, task.ring_bits), survivors)


def decorrelate(outcomes: Sequence[RoundOutcome], starters: Sequence[int]) -> list[RoundOutcome]:
    """The same rounds with the means over those who started a participation in each (`matrix_factorisation`).

    `outcomes`: rounds 0, 1, 2 ... of one run under one strategy and one clip norm; `starters[t]` of them started in
    round t. Post-processing: nothing is spent. Raises PenchantError if a round is missing or differs.
    """
    if not outcomes:
        return []
    tasks = [outcome.task for outcome in outcomes]
    same = {(task.strategy, task.clip_norm, task.update_dimension) for task in tasks}
    if [task.round for task in tasks] != list(range(len(tasks))) or len(same) != 1 or len(starters) != len(tasks):
        raise PenchantError("correlated noise needs every round of the run, with one strategy and one clip norm")
    if min(starters) < 1:
        raise PenchantError("nobody started in one of the rounds: its mean is not defined")
    plans = [RoundPlan.of(task) for task in tasks]
    sums = [plan.codec.decode(_residues(outcome)) for plan, outcome in zip(plans, outcomes, strict=True)]
    decoded = plans[0].strategy.decode(sums)
    variances = np.array(
        [_sum_deviation(plan, outcome.survivors) ** 2 for plan, outcome in zip(plans, outcomes, strict=True)]
    )
    inverse = np.square(plans[0].strategy.inverse(len(plans)))
    corrected = []
    for place, (plan, outcome, total, people) in enumerate(zip(plans, outcomes, decoded, starters, strict=True)):
        mean = plan.layout.unpack(total, people, plan.task.clip_norm)
        corrected.append(
            replace(
                outcome,
                mean_update=mean.update,
                fraction_not_clipped=mean.fraction_not_clipped,
                mean_loss=mean.loss,
                mean_examples=mean.example_count,
                noise_deviation=math.sqrt(float(inverse[: place + 1] @ variances[place::-1])) / people,
            )
        )
    return corrected


def _sum_deviation(plan: RoundPlan, survivors: int) -> float:
    """Standard deviation of the noise on each value of the sum of updates."""
    return math.sqrt(plan.noise.total_variance(survivors)) / plan.task.scale


def _residues(outcome: RoundOutcome) -> Residues:
    return reduce_to_ring(outcome.integer_sum, outcome.task.ring_bits)


def _outcome(task: RoundTask, integers: NDArray[np.int64], survivors: int) -> RoundOutcome:
    plan = RoundPlan.of(task)
    mean = plan.decode(reduce_to_ring(integers, task.ring_bits), survivors)
    return RoundOutcome(
        task=task,
        integer_sum=integers,
        survivors=survivors,
        mean_update=mean.update,
        fraction_not_clipped=mean.fraction_not_clipped,
        mean_loss=mean.loss,
        mean_examples=mean.example_count,
        effective_noise_multiplier=plan.noise.effective_noise_multiplier(survivors),
        noise_deviation=_sum_deviation(plan, survivors) / survivors,
    )
