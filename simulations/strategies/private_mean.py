"""The mean of people's uploads as the server of a round would get it: the deployment's own clip, rounding and noise.

Masks are left out, because they cancel in the sum to the last bit (``protocol.secure_sum``); everything else is
``protocol.round_plan``. Rounding and noise come from a seed here, so that a study can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocol import masks
from protocol.frames import Vector
from protocol.round_plan import RoundPlan, plan_task
from server.aggregate import RoundOutcome, decode_sum

DELTA = 1e-5
_NO_BASE = "0" * 64


def private_mean(
    uploads: Sequence[tuple[Vector, float]], *, clip_norm: float, noise_multiplier: float, round: int, seed: int
) -> RoundOutcome:
    """What a sum over these people's (vector (d,), loss) releases; nobody drops out."""
    people = len(uploads)
    draw = np.random.default_rng((seed, round))
    task = plan_task(
        run_id="strategies",
        round=round,
        kind="shared",
        artefacts={},
        base_sha256=_NO_BASE,
        dimension=len(uploads[0][0]),
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        cohort_size=people,
        minimum_survivors=people,
        delta=DELTA,
        rotation_seed=int(draw.integers(1 << 62)),
        graph_seed=0,
    )
    plan = RoundPlan.of(task)
    total = np.zeros(plan.layout.dimension, dtype=np.int64)
    for vector, loss in uploads:
        total += plan.contribute(vector, loss, 1, rounding_rng=draw, noise_rng=draw)
    return decode_sum(task, masks.reduce_to_ring(total, task.ring_bits), people)
