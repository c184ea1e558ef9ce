"""A newcomer placed among the fleet's centroids with no gradient step: CoPL's rule, and a private gate over experts.

Expert 0 is the shared model, expert m the m-th kind of people: `shared + centroids_m @ directions`. All that placement
reads of a person is how well each expert explains their few choices, `log_likelihoods` (M + 1,) in nats, summed:

    gate    g_e ~ prior_e * p(choices | e)^(1 / temperature),  over the shared expert and the kinds
            p(choice) = sum_e g_e p(choice | e)
    place   a = softmax(mean log-likelihood under each centroid / temperature)      CoPL, stage 3 (temperature 0.07)
            weights = (1 - g_0) * a @ centroids,     g_0 from the gate at temperature 1

The factor 1 - g_0, the probability that the person is of any kind at all, is ours: CoPL's mean forgets how many choices
it is a mean of and places after one as firmly as after a hundred. Here the evidence of all choices shrinks a placement
towards everybody's model, and a person about whom nothing is known gets exactly that.

Every function takes one person or, with leading axes, a whole population. Source: CoPL, arXiv 2503.01658 (EMNLP 2025);
there the neighbours are other people's embeddings, here they are noised centroids, which anybody may see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.errors import ProtocolError
from protocol.reward_model import ChoiceBatch, choice_nll

Array = NDArray[np.float64]

COPL_TEMPERATURE = 0.07


def expert_differences(differences: Array, bank: Bank) -> Array:
    """(..., m, k) -> (..., m, M + 1): reward of the first minus the second answer by the shared model and each kind."""
    experts = np.vstack([bank.shared[None], bank.shared + bank.centroids @ bank.directions])
    rewards: Array = differences @ experts.T
    return rewards


def expert_log_likelihoods(people: ChoiceBatch, bank: Bank) -> Array:
    """Nats, summed over each person's choices: (n, M + 1), the shared model first. On a device n is 1."""
    rewards = expert_differences(people.differences, bank)
    nll = choice_nll(rewards, people.outcomes[..., None], bank.tie_width)
    total: Array = -np.where(people.present[..., None], nll, 0.0).sum(1)
    return total


def gate(log_likelihoods: Array, shares: Array, *, shared_share: float = 0.5, temperature: float = 1.0) -> Array:
    """Posterior over the experts (..., M + 1). `shares` (M,): how many of the fleet are of each kind; `shared_share`:
    probability of the shared expert before any choice; `temperature` above 1 trusts the choices less, because nobody is
    exactly like the middle of their kind.
    """
    if log_likelihoods.shape[-1] != len(shares) + 1:
        raise ProtocolError("placement needs one log-likelihood for the shared model and one for each centroid")
    if not 0.0 <= shared_share <= 1.0:
        raise ProtocolError("the shared expert's share lies between 0 and 1")
    prior = np.concatenate([[shared_share], (1.0 - shared_share) * shares]) if shares.size else np.ones(1)
    posterior: Array = normalised(_log(prior) + log_likelihoods / _positive(temperature))
    return posterior


def place(
    log_likelihoods: Array,
    count: NDArray[np.int64] | int,
    bank: Bank,
    shares: Array,
    *,
    shared_share: float = 0.5,
    temperature: float = COPL_TEMPERATURE,
) -> Array:
    """Private weights (..., K) of people with `count` choices each; zero, the shared model, before the first one."""
    of_a_kind = 1.0 - gate(log_likelihoods, shares, shared_share=shared_share)[..., 0]
    if not shares.size:
        return np.zeros((*log_likelihoods.shape[:-1], bank.count))
    counts = np.asarray(count)
    means = log_likelihoods[..., 1:] / np.maximum(counts, 1)[..., None]
    nearness = normalised(means / _positive(temperature))
    placed: Array = np.where(counts > 0, of_a_kind, 0.0)[..., None] * (nearness @ bank.centroids)
    return placed


def mixture_log_likelihood(gates: Array, rewards: Array, outcomes: Array, tie_width: float) -> Array:
    """log p(outcome) of each choice under the gated experts: gates (..., M + 1), rewards (..., m, M + 1) as
    `expert_differences` gives them, outcomes (..., m) -> (..., m)."""
    experts = -choice_nll(rewards, outcomes[..., None], tie_width)
    mixed: Array = np.logaddexp.reduce(_log(gates)[..., None, :] + experts, axis=-1)
    return mixed


def mixture_preference(gates: Array, rewards: Array, tie_width: float) -> Array:
    """p(first) - p(second) in (-1, 1) under the gated experts, (..., m): its sign is the predicted choice."""
    first, second = np.ones(rewards.shape[:-1]), np.zeros(rewards.shape[:-1])
    likelihoods = (mixture_log_likelihood(gates, rewards, outcome, tie_width) for outcome in (first, second))
    chosen, other = (np.exp(values) for values in likelihoods)
    margin: Array = chosen - other
    return margin


def normalised(log_weights: Array) -> Array:
    """Softmax over the last axis: probabilities from log weights, however large they are."""
    weights: Array = np.exp(log_weights - np.logaddexp.reduce(log_weights, axis=-1, keepdims=True))
    return weights


def _log(probabilities: Array) -> Array:
    """log with a floor: an expert of share zero stays possible, and no infinity meets another."""
    return np.log(np.maximum(probabilities, 1e-6))


def _positive(temperature: float) -> float:
    if not temperature > 0.0:
        raise ProtocolError("a placement's temperature must be above zero")
    return temperature
