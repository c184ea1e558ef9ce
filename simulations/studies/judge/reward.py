"""The judge that needs no language model: a person's reward weights, from the choices they made before.

The reward is the product's (features of the embedder and of style, a bank learnt from the fleet's training choices, the
person's weights on it: `protocol/reward_model.py`); its difference between two answers is the log-odds of the choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from protocol.reward_model import FIRST, TIE, fit_weights
from simulations.choices.data import ChoiceSet, judges
from simulations.choices.features import item_features
from simulations.choices.reward_fleet import centralised_bases
from simulations.studies.judge.judge import Judgement

_DIMENSION: Final = 48
_BASES: Final = 4
_SWEEPS: Final = 10


def reward_judgements(choices: ChoiceSet, folder: Path, *, stranger: bool = False) -> dict[str, Judgement]:
    """The opinion of everybody's decided held-out choices, by the key of their case (`cases.py`). With ``stranger``
    everybody is judged by the weights of the next person: a control."""
    phi = item_features(choices, folder, ["embedding", "style"], _DIMENSION).phi
    people = judges(choices, phi)
    bank = centralised_bases([one.choices for one in people if one.role == "fleet"], _BASES, sweeps=_SWEEPS)
    found = {}
    for number, person in enumerate(people):
        whose = people[(number + stranger) % len(people)]
        direction = bank.mix(fit_weights(whose.choices, bank).weights)
        margins = person.held_out.differences @ direction
        for place, (margin, outcome) in enumerate(zip(margins, person.held_out.outcomes, strict=True)):
            if outcome != TIE:
                logit = float(margin if outcome == FIRST else -margin)
                found[f"{choices.name}/{person.user}/{place}"] = Judgement(person.user, logit, True)
    return found
