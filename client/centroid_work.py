"""What a device adds to the fleet's centroids: its owner's offset from the nearest kind of people, bounded.

The device fits its owner's weights once, under the bank's own prior, and keeps of the likelihood what a Gaussian can
hold: precision L and information h, p(choices | w) ~ exp(h . w - w . L w / 2). Under a kind m of the mixture that the
task carries everything then has a closed form (the conjugate update; L may be singular, choices may be few):

    P = L + diag(within^-2),  v = h + within^-2 c_m,  mean = P^-1 v
    log evidence = (v . P^-1 v - c_m . within^-2 c_m - log det P - log det diag(within^2)) / 2

It adds to the block of the most probable kind, and to no other (`protocol.centroid_sums` has the vector and the bound).
Two posteriors of the offset u from that kind's centroid, for two questions:

- where is the middle of my kind? The mean under the bank's wide prior, centred on the centroid: choices that are few
  pull u towards zero a little, which slows a centroid on its way but does not move where it comes to rest;
- how wide is my kind? The second moment E[u^2] = mean^2 + variance under the kind's own prior, the E step of
  expectation maximisation: an owner with few choices adds uncertainty, not a false narrowness.

An owner without choices adds zero. Weights, kind and offset never leave the device but inside the masked sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.reward_training import PhiOf, device_choices
from client.work import LocalUpdate
from edge_runtime.device import Device
from protocol.bank import Bank
from protocol.centroid_sums import CentroidLayout
from protocol.errors import ProtocolError
from protocol.feature_map import FeatureMap
from protocol.messages import RoundTask
from protocol.mixture_prior import MixturePrior
from protocol.reward_model import ChoiceBatch, WeightFit, choice_nll, fit_weights_batch

Array = NDArray[np.float64]


class CentroidWork:
    """``client.work.LocalWork`` for the centroids of weights in reward space, ``phi_of`` as in `RewardWork`."""

    def __init__(self, device: Device, phi_of: PhiOf | None = None) -> None:
        self._device, self._phi_of = device, phi_of

    def compute(self, task: RoundTask, artefacts: Mapping[str, bytes]) -> LocalUpdate:
        """The owner's part of the sum. Raises PenchantError if task, model and artefacts do not belong together."""
        feature_map = FeatureMap.from_bytes(artefacts["feature_map"])
        bank = Bank.from_bytes(artefacts["bank"], space_sha256=feature_map.digest, dimension=feature_map.dimension)
        prior = MixturePrior.from_bytes(artefacts["prior"], bank_sha256=bank.digest, weight_count=bank.count)
        layout = CentroidLayout.for_clip_norm(task.clip_norm, len(prior.centroids), bank.count)
        if layout.dimension != task.update_dimension:
            raise ProtocolError("the round's vector does not fit its centroids; the sender runs another version")
        choices = device_choices(self._device, feature_map, self._phi_of)
        if not len(choices):
            return LocalUpdate(np.zeros(layout.dimension), 0.0, 0)
        fit = fit_weights_batch(ChoiceBatch.of([choices]), bank)
        found = kind_statistics(fit, bank, prior)
        rewards = choices.differences @ bank.mix(fit.weights[0])
        loss = float(choice_nll(rewards, choices.outcomes, bank.tie_width).sum())
        vector = layout.contribution(int(found.kinds[0]), found.offsets[0], found.second_moments[0])
        return LocalUpdate(vector, loss, len(choices))


@dataclass(frozen=True, eq=False)
class KindStatistics:
    """n people: `kinds` (n,), `offsets` (n, K) and `second_moments` (n, K) in units of the bank's spread, unclipped."""

    kinds: NDArray[np.int64]
    offsets: Array
    second_moments: Array


def kind_statistics(fit: WeightFit, bank: Bank, prior: MixturePrior) -> KindStatistics:
    """The E step for n people at once (on a device n is 1). `fit`: weights (n, K) and covariance (n, K, K) under the
    bank's prior. Directions that move nobody (spread 0) stay at 0.
    """
    moving = bank.spread > 0.0
    unit = bank.spread[moving]
    covariance = fit.covariance[:, moving][:, :, moving] / np.outer(unit, unit)
    precision = np.linalg.inv(covariance)
    information = np.einsum("nij,nj->ni", precision, fit.weights[:, moving] / unit)
    precision = precision - np.eye(len(unit))  # the likelihood's own, less the prior's
    centres, width = prior.centroids[:, moving] / unit, prior.within[moving] / unit
    evidence = np.stack([_posterior(precision, information, centre, width)[2] for centre in centres], axis=1)
    kinds = (evidence + prior.log_shares).argmax(1)
    offsets, moments = np.zeros((2, len(kinds), bank.count))
    mine = centres[kinds]
    wide, _, _ = _posterior(precision, information, mine, np.ones(len(unit)))
    mean, spread, _ = _posterior(precision, information, mine, width)
    offsets[:, moving] = wide - mine
    moments[:, moving] = np.square(mean - mine) + np.diagonal(spread, axis1=1, axis2=2)
    return KindStatistics(np.asarray(kinds, dtype=np.int64), offsets, moments)


def _posterior(precision: Array, information: Array, centre: Array, width: Array) -> tuple[Array, Array, Array]:
    """(mean (n, K), covariance (n, K, K), log evidence (n,)) under N(centre, diag(width^2)); centre (K,) or (n, K)."""
    pull = centre / np.square(width)
    covariance: Array = np.linalg.inv(precision + np.diag(width**-2.0)).astype(np.float64)
    total = information + pull
    mean: Array = np.einsum("nij,nj->ni", covariance, total)
    fitted: Array = (total * mean).sum(-1) - (centre * pull).sum(-1)
    volume = np.linalg.slogdet(covariance)[1] - 2.0 * np.log(width).sum()
    return mean, covariance, 0.5 * (fitted + volume)
