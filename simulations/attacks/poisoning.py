"""Poisoners in a mean, and what clipping leaves of them.

Somebody whose *texts* are poisoned runs the real app: their contribution is clipped like everybody's, so that k of n
people move the mean by at most ``k C / n`` from where it would be without them (``influence``). Somebody whose *app* is
changed is behind a mask where no clip can be enforced: they move it as far as the ring reaches (`unclipped_reach`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from protocol.clipping import clip_to_norm
from protocol.messages import RoundTask
from simulations.attacks.ceilings import Array

Poison = Literal["scaled", "sign-flipped", "backdoor"]
POISONS: tuple[Poison, ...] = get_args(Poison)


@dataclass(frozen=True)
class PoisonedMean:
    """``raw`` and ``clipped`` (d,): the mean with the poisoners in it, without and with everybody's clip. ``clean``:
    the clipped mean where the poisoners' contributions are zero. ``limit``: k C / n."""

    raw: Array
    clipped: Array
    clean: Array
    limit: float

    @property
    def influence(self) -> float:
        """|clipped - clean|: how far the poisoners move the mean."""
        return float(np.linalg.norm(self.clipped - self.clean))

    @property
    def raw_influence(self) -> float:
        """The same without the clip."""
        return float(np.linalg.norm(self.raw - self.clean))

    @property
    def kept(self) -> float:
        """Part of the clean mean that is left along its own direction: 1 untouched, below 0 reversed."""
        return float(self.clipped @ self.clean / max(float(self.clean @ self.clean), 1e-300))

    @property
    def raw_kept(self) -> float:
        """The same without the clip."""
        return float(self.raw @ self.clean / max(float(self.clean @ self.clean), 1e-300))


def poison(honest: Array, kind: Poison, backdoor: Array, factor: float) -> Array:
    """What a poisoner offers in place of its honest update (d,): that, its opposite or a ``backdoor``, times
    ``factor``: people per poisoner, so that a plain mean becomes what they want (model replacement, Bagdasaryan et
    al. 2020)."""
    wanted = {"scaled": honest, "sign-flipped": -honest, "backdoor": backdoor}[kind]
    return np.asarray(factor * wanted)


def poisoned_mean(updates: Array, clip_norm: float, poisoners: int, kind: Poison, backdoor: Array) -> PoisonedMean:
    """The mean of n people's updates (n, d), the first ``poisoners`` of which attack. Adversaries who agree with each
    other: in "sign-flipped" all of them push against the honest mean."""
    honest = updates[poisoners:]
    wanted = updates[:poisoners] if kind != "sign-flipped" else np.tile(honest.mean(0), (poisoners, 1))
    offered = np.concatenate([[poison(one, kind, backdoor, len(updates) / poisoners) for one in wanted], honest])
    clipped = np.stack([clip_to_norm(one, clip_norm)[0] for one in offered])
    count = len(updates)
    return PoisonedMean(
        offered.mean(0), clipped.mean(0), clipped[poisoners:].sum(0) / count, poisoners * clip_norm / count
    )


def unclipped_reach(task: RoundTask) -> float:
    """By how many times C / n one changed app can move a mean: half the ring in each of D rotated values."""
    reach = math.sqrt(task.update_dimension) * 2.0 ** (task.ring_bits - 1) / task.scale
    return reach / task.clip_norm
