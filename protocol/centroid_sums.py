"""Federated k-means as one vector sum: how much one person may add to the centroids of private weights, and the proof.

A fleet's people are summarised by a Gaussian mixture over their private weights (`MixturePrior`): M kinds of people,
each with a centroid, and one spread around all of them. A round is a step of hard expectation maximisation (k-means
with known uncertainties), and all that it needs of a person is a sum. With everything in units of the bank's spread,
m the person's kind, u (K,) the offset of their weights from its centroid and s (K,) the second moment of that offset
(the square of the estimate plus its variance):

    x = one-hot(m) (x) [ u, b s, a R ]            length M (2 K + 1),   |u| <= R,  |s| <= R

**Bound.** Exactly one of the M blocks is not zero, and u, s and the count lie in different places of it, so

    |x|^2 = |u|^2 + b^2 |s|^2 + (a R)^2 <= R^2 (1 + b^2 + a^2) = C^2

whatever the person's choices are; somebody without choices adds zero. C is the round's clip norm, so the ordinary clip
never touches an honest vector, and one noise covers sums, counts and spreads together. Clipping u and s apart, and not
x, leaves the count whole: a person far from every centroid still counts as one.

Sources: k-means by noised sums and counts, Blum, Dwork, McSherry and Nissim 2005 (SuLQ); hard EM for a mixture prior,
Celeux and Govaert 1992.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.clipping import clip_to_norm
from protocol.errors import ProtocolError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MixtureSums:
    """A round's (noised) sums over the people of each kind: `offsets` (M, K) of u, `squares` (M, K) of s, `counts`
    (M,). `deviation` is the standard deviation of the noise on each offset, `count_deviation` on each count.
    """

    offsets: Array
    squares: Array
    counts: Array
    deviation: float
    count_deviation: float


@dataclass(frozen=True)
class CentroidLayout:
    """Where things lie in x, and how large they may be (M, K, R, a, b of the module's text)."""

    centroid_count: int
    weight_count: int
    radius: float
    count_weight: float = 0.5
    square_weight: float = 0.5

    @staticmethod
    def for_clip_norm(clip_norm: float, centroid_count: int, weight_count: int) -> CentroidLayout:
        """The layout whose C is a task's clip norm: what devices and server read the same from the task."""
        unit = CentroidLayout(centroid_count, weight_count, 1.0)
        return CentroidLayout(centroid_count, weight_count, clip_norm / unit.sensitivity)

    def __post_init__(self) -> None:
        if self.centroid_count < 1 or self.weight_count < 1:
            raise ProtocolError("centroid rounds need at least one centroid and a bank with at least one direction")
        for value in (self.radius, self.count_weight, self.square_weight):
            if not (value > 0.0 and math.isfinite(value)):
                raise ProtocolError("radius, count_weight and square_weight of a centroid round must be above zero")

    @property
    def dimension(self) -> int:
        """Length of x."""
        return self.centroid_count * (2 * self.weight_count + 1)

    @property
    def sensitivity(self) -> float:
        """C: the L2 norm that nobody's x exceeds (zero-out neighbours; one person instead of another moves 2 C)."""
        return self.radius * math.sqrt(1.0 + self.count_weight**2 + self.square_weight**2)

    def contribution(self, kind: int, offset: Array, second_moment: Array) -> Array:
        """x of one person: `offset` (K,) and `second_moment` (K,) in units of the bank's spread, each clipped to R."""
        if not 0 <= kind < self.centroid_count:
            raise ProtocolError(f"kind {kind} is not one of {self.centroid_count}")
        blocks = np.zeros((self.centroid_count, 2 * self.weight_count + 1))
        blocks[kind] = np.concatenate(
            [
                clip_to_norm(offset, self.radius)[0],
                self.square_weight * clip_to_norm(second_moment, self.radius)[0],
                [self.count_weight * self.radius],
            ]
        )
        return blocks.ravel()

    def read(self, total: Array, noise_deviation: float) -> MixtureSums:
        """The sum (dimension,) over all people taken apart, with the standard deviation of the noise on its values."""
        if total.shape != (self.dimension,):
            raise ProtocolError(f"the centroids' sum has shape {total.shape}, expected ({self.dimension},)")
        blocks = total.reshape(self.centroid_count, 2 * self.weight_count + 1)
        return MixtureSums(
            offsets=blocks[:, : self.weight_count],
            squares=blocks[:, self.weight_count : -1] / self.square_weight,
            counts=blocks[:, -1] / (self.count_weight * self.radius),
            deviation=noise_deviation,
            count_deviation=noise_deviation / (self.count_weight * self.radius),
        )
