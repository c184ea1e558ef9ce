from __future__ import annotations

import numpy as np
import pytest

from protocol.errors import ProtocolError
from protocol.mixture_prior import without_centroids
from protocol.placement import (
    expert_differences,
    expert_log_likelihoods,
    gate,
    mixture_log_likelihood,
    mixture_preference,
    normalised,
    place,
)
from protocol.reward_model import ChoiceBatch, Choices, choice_nll
from tests.protocol.clustered_people import KINDS, TIE_WIDTH, clustered_people

FLEET = clustered_people(200, 40)
SHARES = FLEET.prior.shares


def placed(count: int) -> np.ndarray:
    return place(expert_log_likelihoods(FLEET.first(count), FLEET.bank), count, FLEET.bank, SHARES)


def test_the_likelihood_of_an_expert_is_that_of_its_reward() -> None:
    person = Choices(FLEET.people.differences[0, :5], FLEET.people.outcomes[0, :5])
    likelihoods = expert_log_likelihoods(ChoiceBatch.of([person]), FLEET.bank)
    for expert, weights in enumerate([np.zeros(4), *FLEET.bank.centroids]):
        rewards = person.differences @ FLEET.bank.mix(weights)
        assert likelihoods[0, expert] == pytest.approx(-choice_nll(rewards, person.outcomes, TIE_WIDTH).sum())


def test_padding_says_nothing() -> None:
    three = Choices(FLEET.people.differences[0, :3], FLEET.people.outcomes[0, :3])
    nine = Choices(FLEET.people.differences[1, :9], FLEET.people.outcomes[1, :9])
    both = expert_log_likelihoods(ChoiceBatch.of([three, nine]), FLEET.bank)
    assert np.allclose(both[:1], expert_log_likelihoods(ChoiceBatch.of([three]), FLEET.bank))


def test_who_has_not_chosen_yet_is_exactly_the_shared_model() -> None:
    nobody = expert_log_likelihoods(FLEET.first(0), FLEET.bank)
    assert not nobody.any()
    assert not place(nobody, 0, FLEET.bank, np.array([0.8, 0.1, 0.1]), shared_share=0.0).any()


def test_a_placement_is_copls_softmax_times_the_probability_of_a_kind() -> None:
    likelihoods = expert_log_likelihoods(FLEET.first(16), FLEET.bank)
    nearness = np.exp(likelihoods[:, 1:] / 16 / 0.07)
    nearness /= nearness.sum(1, keepdims=True)
    of_a_kind = 1.0 - gate(likelihoods, SHARES)[:, :1]
    expected = of_a_kind * (nearness @ FLEET.bank.centroids)
    assert np.allclose(placed(16), expected)
    bolder = place(likelihoods, 16, FLEET.bank, SHARES, shared_share=0.1)
    assert (np.linalg.norm(bolder, axis=1) >= np.linalg.norm(expected, axis=1)).all()


def test_choices_place_people_near_their_own_kind_without_a_gradient() -> None:
    def right(count: int) -> float:
        distances = np.linalg.norm(placed(count)[:, None] - FLEET.bank.centroids, axis=2)
        return float((distances.argmin(1) == FLEET.kinds).mean())

    assert right(32) > 0.95 and right(32) > right(2)
    errors = [np.linalg.norm(placed(count) - FLEET.weights, axis=1).mean() for count in (0, 4, 16)]
    assert errors[0] > errors[1] > errors[2]


def test_who_is_like_everybody_stays_with_everybody() -> None:
    """People whose choices follow the shared model: the kinds do not explain them better, so nothing moves."""
    random = np.random.default_rng(1)
    differences = random.normal(size=(50, 30, FLEET.bank.dimension))
    outcomes = (random.random((50, 30)) < 1 / (1 + np.exp(-differences @ FLEET.bank.shared))).astype(float)
    people = ChoiceBatch(differences, outcomes, np.ones((50, 30), dtype=bool))
    weights = place(expert_log_likelihoods(people, FLEET.bank), 30, FLEET.bank, SHARES)
    assert (np.linalg.norm(weights, axis=1) < 0.1).mean() > 0.9


def test_one_device_gets_what_the_population_gets() -> None:
    person = Choices(FLEET.people.differences[7, :8], FLEET.people.outcomes[7, :8])
    own = expert_log_likelihoods(ChoiceBatch.of([person]), FLEET.bank)[0]
    assert np.allclose(place(own, 8, FLEET.bank, SHARES), placed(8)[7])


def test_the_gate_is_bayes_rule() -> None:
    likelihoods = np.log([[0.2, 0.4, 0.1, 0.1]])
    prior = np.array([0.5, 0.25, 0.125, 0.125])
    expected = prior * [0.2, 0.4, 0.1, 0.1]
    found = gate(likelihoods, np.array([0.5, 0.25, 0.25]), shared_share=0.5)
    assert np.allclose(found[0], expected / expected.sum())
    cautious = gate(likelihoods, np.array([0.5, 0.25, 0.25]), temperature=1e6)
    assert np.allclose(cautious[0], prior, atol=1e-5)


def test_gated_experts_give_a_mixture_of_probabilities() -> None:
    gates = gate(expert_log_likelihoods(FLEET.first(6), FLEET.bank), SHARES)
    assert np.allclose(gates.sum(1), 1.0)
    rewards = expert_differences(FLEET.people.differences[:, 20:], FLEET.bank)
    total = np.zeros(rewards.shape[:2])
    for outcome in (0.0, 0.5, 1.0):
        each = np.exp(-choice_nll(rewards, np.full(rewards.shape, outcome), TIE_WIDTH))
        mixed = np.exp(mixture_log_likelihood(gates, rewards, np.full(rewards.shape[:2], outcome), TIE_WIDTH))
        assert np.allclose(mixed, np.einsum("ne,nme->nm", gates, each), atol=1e-5)
        total += mixed
    assert np.allclose(total, 1.0, atol=1e-4)
    certain = np.eye(KINDS + 1)[np.full(len(gates), 2)]
    assert np.array_equal(np.sign(mixture_preference(certain, rewards, TIE_WIDTH)), np.sign(rewards[..., 2]))


def test_a_bank_without_centroids_places_nobody() -> None:
    bare, none = without_centroids(FLEET.bank), np.zeros(0)
    likelihoods = expert_log_likelihoods(FLEET.first(8), bare)
    assert not place(likelihoods, 8, bare, none).any()
    assert np.array_equal(gate(likelihoods, none), np.ones((200, 1)))


def test_extreme_likelihoods_stay_probabilities() -> None:
    assert np.allclose(normalised(np.array([-1e6, -1e6 - np.log(3.0)])), [0.75, 0.25])
    assert np.array_equal(gate(np.array([[-1e5, 0.0], [0.0, -1e5]]), np.ones(1)), [[0.0, 1.0], [1.0, 0.0]])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="one for each centroid"):
        place(np.zeros(3), 1, FLEET.bank, SHARES)
    with pytest.raises(ProtocolError, match="temperature"):
        place(np.zeros(KINDS + 1), 1, FLEET.bank, SHARES, temperature=0.0)
    with pytest.raises(ProtocolError, match="share lies between"):
        gate(np.zeros(KINDS + 1), SHARES, shared_share=1.5)
