"""Difference-aware codes: a person is their kind, plus what sets them apart from it.

    w_u = centroid_m + code_u,     code_u ~ N(0, diag(within^2)),   m the kind that explains the person's choices best

DEP ("Latent Inter-User Difference Modeling for LLM Personalization", EMNLP 2025) contrasts a person's embedding with
those of their peers and keeps the difference. Here the peers are a noised centroid that the fleet released
(`mixture_prior`), so no peer's vector is ever seen, and the difference is the personal part of the fit: its prior is
centred on the person's kind and as wide as the kind is. The code, the kind and the weights stay on the device.

The broad kind is the bank's own prior N(0, diag(spread^2)): somebody unlike every centroid is fitted as if
there were none. Kinds are weighed by the Laplace approximation of the evidence (MacKay 1992),

    log p(choices | m) = -nll(w) - |code / within|^2 / 2 + (log det Cov - log det diag(within^2)) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.mixture_prior import MixturePrior, without_centroids
from protocol.placement import normalised
from protocol.reward_model import ChoiceBatch, Choices, WeightFit, choice_nll, fit_weights_batch

Array = NDArray[np.float64]

BROAD_SHARE = 0.1
"""Probability, before any choice, that somebody is of no kind that the fleet knows."""


@dataclass(frozen=True, eq=False)
class DifferenceCodes:
    """n people, each seen from E = M + 1 kinds, the broad one last.

    `centroids` (E, K); `codes` (n, E, K) = weights - centroid; `covariances` (n, E, K, K) of the codes;
    `posterior` (n, E): how probable each kind is, given the person's choices.
    """

    centroids: Array
    codes: Array
    covariances: Array
    posterior: Array

    @property
    def weights(self) -> Array:
        """Private weights (n, K): the mean over all kinds, by their posterior."""
        mean: Array = np.einsum("ne,nek->nk", self.posterior, self.centroids + self.codes)
        return mean

    def sparse(self, deviations: float = 1.0) -> DifferenceCodes:
        """The same people with those differences left out that are smaller than so many posterior standard deviations:
        what DEP's sparse autoencoder does with a trained network, the fit's own uncertainty does here.
        """
        uncertain = np.sqrt(np.diagonal(self.covariances, axis1=2, axis2=3))
        return replace(self, codes=np.where(np.abs(self.codes) < deviations * uncertain, 0.0, self.codes))

    @property
    def kinds(self) -> NDArray[np.int64]:
        """(n,): everybody's most probable kind; M stands for the broad one."""
        return np.asarray(self.posterior.argmax(1), dtype=np.int64)

    @property
    def own_codes(self) -> Array:
        """(n, K): each person's code, seen from their most probable kind."""
        own: Array = self.codes[np.arange(len(self.codes)), self.kinds]
        return own


def code_people(people: ChoiceBatch, bank: Bank, prior: MixturePrior) -> DifferenceCodes:
    """Everybody seen from every kind and from none. On a device n is 1, and it takes milliseconds."""
    views = [(centroid, prior.within) for centroid in prior.centroids] + [(np.zeros(bank.count), bank.spread)]
    fits = [fit_around(people, bank, centroid, within) for centroid, within in views]
    share = BROAD_SHARE if len(prior.centroids) else 1.0
    log_priors = np.log(np.append((1.0 - share) * np.maximum(prior.shares, 1e-6), share))
    evidence = np.stack([log_evidence(people, bank, *view, fit) for view, fit in zip(views, fits, strict=True)], axis=1)
    return DifferenceCodes(
        centroids=np.stack([centroid for centroid, _ in views]),
        codes=np.stack([fit.weights for fit in fits], axis=1),
        covariances=np.stack([fit.covariance for fit in fits], axis=1),
        posterior=normalised(log_priors + evidence),
    )


def code_person(choices: Choices, bank: Bank, prior: MixturePrior) -> DifferenceCodes:
    """`code_people` for one device's owner: n = 1."""
    return code_people(ChoiceBatch.of([choices]), bank, prior)


def fit_around(people: ChoiceBatch, bank: Bank, centroid: Array, deviation: Array) -> WeightFit:
    """Offsets from one centroid (K,) under N(0, diag(deviation^2)): the fit of weights in a bank moved there."""
    return fit_weights_batch(people, _moved(bank, centroid, deviation))


def log_evidence(people: ChoiceBatch, bank: Bank, centroid: Array, deviation: Array, fit: WeightFit) -> Array:
    """(n,) nats: Laplace's approximation of log p(choices | kind) around the fit of that kind."""
    tastes = _moved(bank, centroid, deviation).mix(fit.weights)
    rewards = np.einsum("nmk,nk->nm", people.differences, tastes)
    nll = np.where(people.present, choice_nll(rewards, people.outcomes, bank.tie_width), 0.0).sum(1)
    moving = deviation > 0.0  # a direction of no width holds no evidence
    unit = deviation[moving]
    offsets = fit.weights[:, moving] / unit
    narrowed = np.linalg.slogdet(fit.covariance[:, moving][:, :, moving] / np.outer(unit, unit))[1]
    evidence: Array = -nll - 0.5 * np.square(offsets).sum(1) + 0.5 * narrowed
    return evidence


def _moved(bank: Bank, centroid: Array, deviation: Array) -> Bank:
    return replace(without_centroids(bank), shared=bank.mix(centroid), spread=deviation)
