"""One person's contribution: a raw update becomes integers that are ready for masks.

    joint vector (update, clip bit, loss, count) -> clip -> rotate, scale, round -> + this person's noise
    share

The steps are `protocol`'s, derived from the public task alone (`protocol.round_plan`), so no training code
can choose them. The ring (mod 2^b) and the masks come after, in `protocol.secure_sum.mask`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.work import LocalUpdate
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan


def contribute(task: RoundTask, update: LocalUpdate, *, age: int = 0) -> NDArray[np.int64]:
    """Clipped, rounded, noised integers, shape (joint dimension,), not yet reduced mod 2^b.

    `age`: rounds since this participation started (`protocol.matrix_factorisation`). Rounding and noise draw from the
    operating system's randomness, never from a seed that anybody else knows.
    Raises ProtocolError if the update has another dimension than the task.
    """
    return RoundPlan.of(task).contribute(update.update, update.loss_sum, update.example_count, age=age)
