"""`penchant bench bases`: what understanding a newcomer costs, once the features of their choices are there.

`newcomer_fit`: the private weights on eight directions from eight choices with 64 features (`fit_weights`: Newton's
method) against LoRe's few-shot fit of the same choices (500 steps of Adam on the simplex, arXiv 2504.14439 and its
released code; here in numpy, without torch's overhead). `placement`: no fit at all, the nearest of twelve noised
centroids (CoPL's rule). `round`: one person's contribution to a round of gradients on those directions.
"""

from __future__ import annotations

import numpy as np

from protocol.bank import Bank
from protocol.placement import expert_log_likelihoods, place
from protocol.reward_model import ChoiceBatch, Choices, fit_weights
from protocol.reward_rounds import RewardWorkOrder, contribution
from simulations.bench.case import Case
from simulations.bench.runner import OnProgress, median_milliseconds
from simulations.choices.softmax_lore import fit_softmax_weights

FEATURES, DIRECTIONS, CHOICES, CENTROIDS = 64, 8, 8, 12


def run(on_progress: OnProgress, repeats: int = 50) -> dict[str, Case]:
    """Milliseconds, medians; the choices are drawn at random, which costs a fit as much as real ones."""
    random = np.random.default_rng(0)
    rows = np.linalg.qr(random.normal(size=(FEATURES, DIRECTIONS)))[0].T
    centroids = random.normal(size=(CENTROIDS, DIRECTIONS))
    bank = Bank("reward", "0" * 64, random.normal(size=FEATURES), rows, np.ones(DIRECTIONS), centroids)
    choices = Choices(random.normal(size=(CHOICES, FEATURES)), random.integers(0, 2, CHOICES).astype(float))
    ours = median_milliseconds(lambda: fit_weights(choices, bank), repeats)
    peer = median_milliseconds(lambda: fit_softmax_weights([choices], rows.T), max(repeats // 10, 1))
    on_progress("weights from eight choices", 1.0)
    batch, shares = ChoiceBatch.of([choices]), np.full(CENTROIDS, 1.0 / CENTROIDS)
    placed = median_milliseconds(lambda: place(expert_log_likelihoods(batch, bank), CHOICES, bank, shares), repeats)
    order, whitening = RewardWorkOrder("gradient", FEATURES, DIRECTIONS, 0.4, 0.25), np.eye(FEATURES)
    added = median_milliseconds(lambda: contribution(batch, order, bank, whitening), repeats)
    on_progress("placement and a round's contribution", 1.0)
    setting = {"choices": CHOICES, "features": FEATURES, "directions": DIRECTIONS}
    return {
        "newcomer_fit": Case(ours, peer, "ms", setting),
        "placement": Case(placed, peer, "ms", {**setting, "centroids": CENTROIDS}),
        "round": Case(added, None, "ms", setting),
    }
