"""The ways to understand a newcomer that the placement study compares: choices in, predictions of other choices out.

| arm | what a device does with a few choices | gradient steps |
|---|---|---|
| `global` | nothing: the shared taste | 0 |
| `map` | fits weights under the bank's prior, centred on the shared taste | Newton |
| `copl` | CoPL's rule as published, over centroids: softmax of the mean log-likelihood / 0.07 | 0 |
| `place` | the same with a temperature of its own, times the probability of being of any kind | 0 |
| `gate` | Bayes over the shared expert and the kinds; a mixture of probabilities | 0 |
| `code` | fits the difference from every kind, weighs them by evidence | Newton |
| `sparse` | the same without the differences that are smaller than their uncertainty | Newton |

The last five need centroids (`simulations.studies.placement.fleet`); temperature, the shared expert's share and the
number of centroids are chosen by nll on people who are neither in the fleet nor among the newcomers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.difference_codes import code_people
from protocol.placement import (
    COPL_TEMPERATURE,
    expert_differences,
    expert_log_likelihoods,
    gate,
    mixture_log_likelihood,
    mixture_preference,
    normalised,
    place,
)
from protocol.reward_model import ChoiceBatch, Choices, choice_nll, fit_weights_batch
from simulations.choices.data import Judge
from simulations.choices.scores import Scores, decided_accuracy
from simulations.studies.placement.fleet import DrawnCentroids

Array = NDArray[np.float64]

WITHOUT_CENTROIDS: Final = ("global", "map")
WITH_CENTROIDS: Final = ("copl", "place", "gate", "code", "sparse")
TEMPERATURES: Final = {"place": (0.02, 0.07, 0.2), "gate": (1.0, 2.0, 4.0)}
SHARED_SHARES: Final = (0.05, 0.5, 0.95)
CONTROVERSIAL: Final = 0.2
"""A choice is controversial if at least this share of the fleet's kinds would choose either side of it."""


@dataclass(frozen=True)
class Settings:
    """What tuning chooses for `place` and `gate`; the other arms have no use for it."""

    temperature: float = COPL_TEMPERATURE
    shared_share: float = 0.5


DEFAULTS: Final = Settings()


@dataclass(frozen=True, eq=False)
class Predictions:
    """Per person, for each held-out choice: `margins` (its sign is the prediction) and `nll`."""

    margins: list[Array]
    nll: list[Array]

    def scores(self, people: Sequence[Judge]) -> Scores:
        """Accuracy and nll of each person."""
        right = [decided_accuracy(m, judge.held_out.outcomes) for m, judge in zip(self.margins, people, strict=True)]
        return Scores(np.array(right), np.array([float(values.mean()) for values in self.nll]))

    def accuracy_where(self, people: Sequence[Judge], chosen: Sequence[NDArray[np.bool_]]) -> Array:
        """(n,) accuracy over some of each person's held-out choices; not a number where none is among them."""
        return np.array(
            [
                decided_accuracy(margins[which], judge.held_out.outcomes[which])
                for margins, judge, which in zip(self.margins, people, chosen, strict=True)
            ]
        )


def predict(
    arm: str,
    people: Sequence[Judge],
    count: int,
    bank: Bank,
    drawn: DrawnCentroids | None = None,
    settings: Settings = DEFAULTS,
) -> Predictions:
    """What the arm makes of everybody's first `count` choices. `drawn` is needed by the arms with centroids only."""
    few = ChoiceBatch.of([judge.choices.part(slice(0, count)) for judge in people])
    held_out = [judge.held_out for judge in people]
    if arm == "global":
        return _by_tastes(np.tile(bank.shared, (len(people), 1)), held_out, bank)
    if arm == "map" or drawn is None or not len(drawn.prior.centroids):
        return _by_tastes(bank.mix(fit_weights_batch(few, bank).weights), held_out, bank)
    kinds, shares, chosen = drawn.bank, drawn.prior.shares, few.present.sum(1)
    if arm in ("code", "sparse"):
        codes = code_people(few, bank, drawn.prior)
        return _by_tastes(bank.mix((codes.sparse() if arm == "sparse" else codes).weights), held_out, bank)
    likelihoods = expert_log_likelihoods(few, kinds)
    if arm == "gate":
        return _by_gates(gate(likelihoods, shares, **asdict(settings)), held_out, kinds)
    if arm == "copl":
        means = likelihoods[:, 1:] / np.maximum(chosen, 1)[:, None]
        weights = normalised(means / COPL_TEMPERATURE) @ kinds.centroids
    else:
        weights = place(likelihoods, chosen, kinds, shares, **asdict(settings))
    return _by_tastes(bank.mix(weights), held_out, bank)


def tune(
    arm: str, people: Sequence[Judge], counts: Sequence[int], bank: Bank, drawn: DrawnCentroids | None
) -> tuple[float, Settings]:
    """(mean nll over counts and people, the arm's best settings for these centroids)."""
    tried = []
    for settings in candidates(arm):
        losses = [predict(arm, people, count, bank, drawn, settings).scores(people).nll.mean() for count in counts]
        tried.append((float(np.mean(losses)), settings))
    return min(tried, key=lambda one: one[0])


def candidates(arm: str) -> list[Settings]:
    """What tuning may choose from."""
    if arm not in TEMPERATURES:
        return [DEFAULTS]
    return [Settings(temperature, share) for temperature in TEMPERATURES[arm] for share in SHARED_SHARES]


def controversial(people: Sequence[Judge], drawn: DrawnCentroids) -> list[NDArray[np.bool_]]:
    """Per person, which held-out choices the fleet's kinds disagree about."""
    found = []
    for judge in people:
        rewards = expert_differences(judge.held_out.differences, drawn.bank)[:, 1:]
        first = (rewards > 0.0) @ drawn.prior.shares
        found.append(np.asarray(np.minimum(first, 1.0 - first) >= CONTROVERSIAL))
    return found


def _by_tastes(tastes: Array, held_out: Sequence[Choices], bank: Bank) -> Predictions:
    margins = [choices.differences @ taste for choices, taste in zip(held_out, tastes, strict=True)]
    nll = [choice_nll(m, choices.outcomes, bank.tie_width) for m, choices in zip(margins, held_out, strict=True)]
    return Predictions(margins, nll)


def _by_gates(gates: Array, held_out: Sequence[Choices], kinds: Bank) -> Predictions:
    margins, nll = [], []
    for own, choices in zip(gates, held_out, strict=True):
        rewards = expert_differences(choices.differences, kinds)
        margins.append(mixture_preference(own, rewards, kinds.tie_width))
        nll.append(-mixture_log_likelihood(own, rewards, choices.outcomes, kinds.tie_width))
    return Predictions(margins, nll)
