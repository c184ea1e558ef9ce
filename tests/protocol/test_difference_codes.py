from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protocol.difference_codes import BROAD_SHARE, code_people, code_person, fit_around, log_evidence
from protocol.mixture_prior import MixturePrior, without_centroids
from protocol.reward_model import ChoiceBatch, Choices, choice_nll, fit_weights_batch
from tests.protocol.clustered_people import KINDS, clustered_people

FLEET = clustered_people(200, 40)


def test_a_code_is_the_persons_difference_from_their_kind() -> None:
    codes = code_people(FLEET.first(40), FLEET.bank, FLEET.prior)
    assert (codes.kinds == FLEET.kinds).mean() > 0.97
    own = FLEET.kinds[codes.kinds == FLEET.kinds]
    true = (FLEET.weights - FLEET.prior.centroids[FLEET.kinds])[codes.kinds == FLEET.kinds]
    found = codes.own_codes[codes.kinds == FLEET.kinds]
    assert len(own) and np.square(found - true).mean() < 0.8 * np.square(true).mean()  # better than the bare centroid


def test_centring_on_the_kind_beats_centring_on_everybody_where_there_are_kinds() -> None:
    for count in (4, 8, 16):
        batch = FLEET.first(count)
        around_kind = code_people(batch, FLEET.bank, FLEET.prior).weights
        around_zero = fit_weights_batch(batch, FLEET.bank).weights
        errors = [np.linalg.norm(found - FLEET.weights, axis=1).mean() for found in (around_kind, around_zero)]
        assert errors[0] < 0.8 * errors[1]


def test_sparse_codes_keep_what_the_choices_are_sure_of() -> None:
    codes = code_people(FLEET.first(16), FLEET.bank, FLEET.prior)
    uncertain = np.sqrt(np.diagonal(codes.covariances, axis1=2, axis2=3))
    sparse = codes.sparse(1.0)
    assert np.array_equal(sparse.codes, np.where(np.abs(codes.codes) >= uncertain, codes.codes, 0.0))
    assert 0.01 < np.mean(sparse.own_codes != 0.0) < 0.6
    assert np.array_equal(codes.sparse(0.0).weights, codes.weights)
    assert not code_people(FLEET.first(0), FLEET.bank, FLEET.prior).sparse().codes.any()


def test_who_is_of_no_kind_is_fitted_as_if_there_were_none() -> None:
    strange = np.array([0.0, 0.0, 0.0, 8.0])
    random = np.random.default_rng(2)
    bank = replace(FLEET.bank, spread=np.full(4, 3.0))
    differences = random.normal(size=(1, 60, bank.dimension))
    outcomes = (random.random((1, 60)) < 1 / (1 + np.exp(-differences @ bank.mix(strange)))).astype(float)
    batch = ChoiceBatch(differences, outcomes, np.ones((1, 60), dtype=bool))
    codes = code_people(batch, bank, FLEET.prior)
    assert codes.kinds[0] == KINDS and codes.posterior[0, KINDS] > 0.9
    alone = fit_weights_batch(batch, without_centroids(bank)).weights[0]
    assert np.allclose(codes.codes[0, KINDS], alone)
    assert np.linalg.norm(codes.weights[0] - alone) < 0.5


def test_without_kinds_the_code_is_the_ordinary_fit() -> None:
    bare = without_centroids(FLEET.bank)
    nothing = MixturePrior(bare.digest, np.zeros((0, 4)), np.zeros(0), bare.spread)
    batch = FLEET.first(8)
    assert np.allclose(code_people(batch, bare, nothing).weights, fit_weights_batch(batch, bare).weights)


def test_before_any_choice_the_posterior_is_the_prior() -> None:
    codes = code_people(FLEET.first(0), FLEET.bank, FLEET.prior)
    assert np.allclose(codes.posterior[0], [*((1 - BROAD_SHARE) * FLEET.prior.shares), BROAD_SHARE])
    assert np.allclose(codes.codes, 0.0)


def test_one_device_gets_what_the_population_gets() -> None:
    person = Choices(FLEET.people.differences[7, :8], FLEET.people.outcomes[7, :8])
    alone, together = code_person(person, FLEET.bank, FLEET.prior), code_people(FLEET.first(8), FLEET.bank, FLEET.prior)
    assert np.allclose(alone.weights[0], together.weights[7])


def test_the_evidence_is_the_integral_over_the_kind() -> None:
    """One moving direction: Laplace against the integral on a grid."""
    spread = np.array([1.2, 0.0, 0.0, 0.0])
    centroid, batch = np.array([1.0, 0.0, 0.0, 0.0]), FLEET.first(12)
    found = log_evidence(batch, FLEET.bank, centroid, spread, fit_around(batch, FLEET.bank, centroid, spread))
    grid = np.linspace(-9.0, 9.0, 4001)
    for person in range(5):
        weights = centroid + grid[:, None] * np.eye(4)[0]
        rewards = FLEET.bank.mix(weights) @ batch.differences[person].T
        likelihood = -choice_nll(rewards, batch.outcomes[person], FLEET.bank.tie_width).sum(1)
        density = np.exp(likelihood - 0.5 * np.square(grid / 1.2)) / (1.2 * np.sqrt(2 * np.pi))
        assert found[person] == pytest.approx(np.log(np.trapezoid(density, grid)), abs=0.1)
