"""A block of people: what each of them adds to a round's sum, clipped, and never kept one by one.

With delta_p (d,) what person p offers and C the clip norm, a block's part of the sum is

    S = sum_p f_p delta_p ,     f_p = min(1, C / |delta_p|) ,     f_p = 0 where |delta_p| is not finite,

the rule of ``protocol.clipping.clip_to_norm`` for many people at once: zero stays zero, and somebody whose training
failed takes part with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol.frames import Vector

People = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BlockSum:
    """``total`` (d,): the sum of clipped offers; ``clipped``: how many were cut; ``loss``: the sum over people of each
    one's mean loss before training. The last two help whoever runs a study and are never part of a release."""

    total: NDArray[np.floating]
    clipped: int
    loss: float


class Learner(Protocol):
    """What people of a fleet compute. Its results depend on the people of a block one by one, never on each other, and
    its instances can be pickled (a worker process gets one)."""

    @property
    def dimension(self) -> int:
        """d, the numbers that are trained."""

    @property
    def people_at_once(self) -> int:
        """Size of a block: what memory and caches like best."""

    @property
    def digest(self) -> str:
        """Differs where data, model or settings differ."""

    def clipped_sum(self, people: People, theta: Vector, clip_norm: float) -> BlockSum:
        """The block's part of a round from ``theta`` (d,)."""


def clip_factors(norms: Tensor, clip_norm: float) -> Tensor:
    """f (b,) of norms (b,)."""
    factors = (clip_norm / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), factors, 0.0)


def sum_clipped(deltas: Tensor, losses: Tensor, clip_norm: float) -> BlockSum:
    """The block's part from everybody's offer (b, d) and loss (b,)."""
    factors = clip_factors(deltas.norm(dim=1), clip_norm)
    kept = torch.where(factors[:, None] > 0, deltas, 0.0)  # 0 times infinity is no number
    return BlockSum((factors @ kept).numpy(), int((factors < 1).sum()), float(losses.nan_to_num().sum()))
