"""What a round asks of the owner's data, as a type: the one seam between a round and training.

The plumbing (`client.app`) never imports a training library: it gets a `LocalWork` from a factory and calls
it once, in the collect stage. `compute` returns plain numbers; clipping, rounding, noise and masks come after
it (`client.contribution`), so no training code can weaken them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.messages import RoundTask


@dataclass(frozen=True)
class LocalUpdate:
    """A device's raw contribution, before clipping.

    `update`: float64 (d,) with d = task.dimension. `loss_sum`: sum of losses over the person's examples, in
    nats. `example_count`: how many examples it sums over. None of them leaves the device in this form.
    """

    update: NDArray[np.float64]
    loss_sum: float
    example_count: int


class LocalWork(Protocol):
    """Computes one device's update for one task."""

    def compute(self, task: RoundTask, artefacts: Mapping[str, bytes]) -> LocalUpdate:
        """`artefacts`: role ("frame", "shared", "bases", ...) -> verified bytes, exactly the roles that the
        task names.
        """
        ...
