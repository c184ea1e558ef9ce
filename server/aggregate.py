"""From the exact integer sum to what an algorithm uses: the noisy mean update and mean metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cbor2
import numpy as np
from numpy.typing import NDArray

from protocol.codec import centre
from protocol.errors import PenchantError
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan


@dataclass(frozen=True)
class RoundOutcome:
    """What one round released.

    `integer_sum`: int64 (joint dimension,), the sum of the survivors' noisy integers, centred. `mean_update`:
    float64 (task.update_dimension,). `effective_noise_multiplier`: z * sqrt(survivors / minimum_survivors),
    the noise that is really in it; the ledger counts the smaller z.
    """

    task: RoundTask
    integer_sum: NDArray[np.int64]
    survivors: int
    mean_update: NDArray[np.float64]
    fraction_not_clipped: float
    mean_loss: float
    mean_examples: float
    effective_noise_multiplier: float

    @property
    def metrics(self) -> Mapping[str, float]:
        """The noisy means that came with the update (they may leave their ranges), and the noise."""
        return {
            "fraction_not_clipped": self.fraction_not_clipped,
            "mean_loss": self.mean_loss,
            "mean_examples": self.mean_examples,
            "effective_noise_multiplier": self.effective_noise_multiplier,
        }

    def to_bytes(self) -> bytes:
        """The sum and the number of survivors: all else follows from them and the task."""
        return cbor2.dumps({"survivors": self.survivors, "sum": self.integer_sum.astype("<i8").tobytes()})

    @staticmethod
    def from_bytes(task: RoundTask, data: bytes) -> RoundOutcome:
        """Inverse of `to_bytes` for the same task."""
        try:
            fields = cbor2.loads(data)
            integers = np.frombuffer(fields["sum"], dtype="<i8").astype(np.int64)
            survivors = int(fields["survivors"])
        except (ValueError, KeyError, TypeError, EOFError, cbor2.CBORError) as error:
            raise PenchantError("a stored outcome is damaged: restore the fleet's store from a copy") from error
        return _outcome(task, integers, survivors)


def decode_sum(task: RoundTask, ring_sum: NDArray[np.uint32], survivors: int) -> RoundOutcome:
    """Decode the unmasked sum mod 2^b, shape (joint dimension,), of `survivors` people."""
    return _outcome(task, centre(ring_sum, task.ring_bits), survivors)


def _outcome(task: RoundTask, integers: NDArray[np.int64], survivors: int) -> RoundOutcome:
    plan = RoundPlan.of(task)
    residues = (integers & ((1 << task.ring_bits) - 1)).astype(np.uint32)
    mean = plan.decode(residues, survivors)
    return RoundOutcome(
        task=task,
        integer_sum=integers,
        survivors=survivors,
        mean_update=mean.update,
        fraction_not_clipped=mean.fraction_not_clipped,
        mean_loss=mean.loss,
        mean_examples=mean.example_count,
        effective_noise_multiplier=plan.noise.effective_noise_multiplier(survivors),
    )
