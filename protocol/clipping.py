"""One L2 clip per person, and the clip bit, loss and count that travel inside the same clipped, noised
vector.

Everything a person adds to the sum is one vector of bounded length, so one noise covers it and one event
accounts for it. Layout of the joint vector for an update of length d (all entries float64):

    [ update (d,) | weight * (clip bit - 1/2) | weight * (loss / maximum - 1/2) | weight * (count / maximum -
    1/2) ]

The three metrics are mapped to [-1/2, 1/2], so that their weight costs half its sensitivity (as pfl does for
the bit). With r^2 = `metric_share` the part of the squared joint norm given to metrics and C the update's
clip norm:

    joint norm J = C / sqrt(1 - r^2),      3 * (weight / 2)^2 = r^2 * J^2
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError

METRIC_COUNT = 3


def clip_to_norm(vector: NDArray[np.float64], clip_norm: float) -> tuple[NDArray[np.float64], bool]:
    """(vector scaled to L2 norm <= clip_norm, whether it was within the norm already).

    The zero vector stays as it is (factor 1). A vector with a NaN or an infinity becomes zero and counts as
    clipped: the person still takes part, so nobody learns that their training failed.
    """
    if not (clip_norm > 0.0 and math.isfinite(clip_norm)):
        raise ProtocolError("clip_norm must be positive and finite")
    if not np.isfinite(vector).all():
        return np.zeros_like(vector, dtype=np.float64), False
    largest = float(np.max(np.abs(vector), initial=0.0))
    if largest == 0.0:
        return vector.astype(np.float64), True
    norm = largest * float(np.linalg.norm(vector / largest))  # no overflow for huge entries
    if norm <= clip_norm:
        return vector.astype(np.float64), True
    return (vector / largest) * (clip_norm / (norm / largest)), False


@dataclass(frozen=True)
class JointMean:
    """Noisy means over the people in a sum; noise can push every one of them outside its range."""

    update: NDArray[np.float64]
    fraction_not_clipped: float
    loss: float
    example_count: float


@dataclass(frozen=True)
class JointLayout:
    """Where things lie in the joint vector. `loss` is nats per example, averaged within each person first.

    `maximum_loss` and `maximum_count` are public bounds; values beyond are clamped. Equal weight per person:
    the loss of somebody with many examples counts no more than anybody's.
    """

    update_dimension: int
    metric_share: float = 0.1
    maximum_loss: float = 8.0
    maximum_count: float = 1024.0

    def __post_init__(self) -> None:
        if self.update_dimension < 1 or not 0.0 < self.metric_share < 1.0:
            raise ProtocolError("the joint vector needs a dimension of at least 1 and a metric_share between 0 and 1")

    @property
    def dimension(self) -> int:
        """Length of the joint vector."""
        return self.update_dimension + METRIC_COUNT

    def joint_norm(self, clip_norm: float) -> float:
        """L2 sensitivity J of the joint vector when the update is clipped to `clip_norm` (zero-out
        neighbours)."""
        return clip_norm / math.sqrt(1.0 - self.metric_share)

    def metric_weight(self, clip_norm: float) -> float:
        """Weight of each metric: 2 r J / sqrt(3)."""
        return 2.0 * math.sqrt(self.metric_share / METRIC_COUNT) * self.joint_norm(clip_norm)

    def pack(
        self, update: NDArray[np.float64], loss_sum: float, example_count: int, clip_norm: float
    ) -> tuple[NDArray[np.float64], bool]:
        """(joint vector with L2 norm <= joint_norm(clip_norm), whether the update was *not* clipped).

        `loss_sum` is the sum over `example_count` examples. A non-finite loss counts as the maximum.
        """
        if update.shape != (self.update_dimension,):
            raise ProtocolError(f"the update has shape {update.shape}, expected ({self.update_dimension},)")
        clipped, was_not_clipped = clip_to_norm(update, clip_norm)
        loss = loss_sum / max(example_count, 1)
        loss = min(max(loss, 0.0), self.maximum_loss) if math.isfinite(loss) else self.maximum_loss
        count = min(max(float(example_count), 0.0), self.maximum_count)
        metrics = np.array([float(was_not_clipped), loss / self.maximum_loss, count / self.maximum_count])
        return np.concatenate([clipped, self.metric_weight(clip_norm) * (metrics - 0.5)]), was_not_clipped

    def unpack(self, total: NDArray[np.float64], survivors: int, clip_norm: float) -> JointMean:
        """Means from the (noisy) sum over `survivors` people's joint vectors."""
        if total.shape != (self.dimension,) or survivors < 1:
            raise ProtocolError("the sum does not fit the layout, or nobody is in it")
        mean = total / survivors
        bit, loss, count = mean[self.update_dimension :] / self.metric_weight(clip_norm) + 0.5
        return JointMean(
            update=mean[: self.update_dimension],
            fraction_not_clipped=float(bit),
            loss=float(loss) * self.maximum_loss,
            example_count=float(count) * self.maximum_count,
        )


def update_clip_norm(
    clip_norm: float,
    noisy_fraction_not_clipped: float,
    target_quantile: float = 0.5,
    learning_rate: float = 0.2,
) -> float:
    """C <- C * exp(-eta * (fraction not clipped - quantile)) (Andrew et al. 2021, algorithm 1).

    If more than the quantile fits within C, C shrinks. The fraction is the one of people *not* clipped; with
    the fraction clipped instead (Flower 1.41) C runs away from the quantile.
    """
    fraction = min(max(noisy_fraction_not_clipped, 0.0), 1.0)  # noise may push it outside
    return clip_norm * math.exp(-learning_rate * (fraction - target_quantile))
