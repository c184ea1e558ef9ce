"""The people and the measures of the preference ablation: choices of real judges of arguments, and of the village.

An adapter's margin on a pair is DPO's (`client/objectives/preference.py`), from llama.cpp's log-probabilities under the
adapter and without it. `wrong pairs` counts those whose margin is not above zero, `pair loss` is
-log sigmoid(beta margin), `preferred text` the nats per token of what was preferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from client.examples import Example, make_example
from client.objectives.next_token import next_token
from client.objectives.objective import Objective
from client.objectives.preference import BETA, preference
from client.personal_gate import token_losses
from edge_runtime.answering.answering import build_messages
from edge_runtime.feedback.preferences import Preference
from simulations.choices.data import ChoiceSet, Judgements, load_ukpconvarg
from simulations.datasets.village import load_village
from simulations.datasets.writing import data_folder
from simulations.studies.personal_fleet import Workshop

MOST_WORDS = 60  # of an argument: longer ones would be cut
TRAIN_PAIRS, HELD_OUT_PAIRS = 16, 8
TUNING_PEOPLE = 4

Split = tuple[str, list[Preference], list[Preference]]


def choice_people(source: str, group: str, people: int) -> Iterator[Split]:
    """(name, choices to train on, held-out ones) of the people of a group; the first ``TUNING_PEOPLE`` are tuning."""
    every = list(_village() if source == "village" else _arguments())
    yield from every[:TUNING_PEOPLE] if group == "tuning" else every[TUNING_PEOPLE : TUNING_PEOPLE + people]


def _village() -> Iterator[Split]:
    for person in load_village():
        train, held_out = (
            [Preference(n, row.prompt, row.chosen, row.rejected, row.date) for n, row in enumerate(rows)]
            for rows in (person.train_choices, person.test_choices)
        )
        yield person.id, train, held_out


def _arguments() -> Iterator[Split]:
    choice_set = load_ukpconvarg(data_folder())
    for person in choice_set.people:
        train = _preferences(choice_set, person, held_out=False)[-TRAIN_PAIRS:]
        held_out = _preferences(choice_set, person, held_out=True)[:HELD_OUT_PAIRS]
        if len(train) == TRAIN_PAIRS and len(held_out) == HELD_OUT_PAIRS:
            yield person.user, train, held_out


def _preferences(choice_set: ChoiceSet, person: Judgements, *, held_out: bool) -> list[Preference]:
    """Choices between two short arguments, ties left out; the request is the debate's."""
    pairs = person.held_out_pairs if held_out else person.pairs
    outcomes = person.held_out_outcomes if held_out else person.outcomes
    found = []
    for number, (pair, outcome) in enumerate(zip(pairs, outcomes, strict=True)):
        texts = [choice_set.items[int(item)][1] for item in (pair if outcome > 0.5 else pair[::-1])]
        if outcome != 0.5 and max(len(text.split()) for text in texts) <= MOST_WORDS and texts[0] != texts[1]:
            debate = choice_set.groups[int(pair[0])].replace("-", " ").replace("_", ": ")
            found.append(Preference(number, f"Give me an argument about: {debate}", texts[0], texts[1], "2016-01-01"))
    return found


def judge_pairs(
    shop: Workshop, train: Sequence[Preference], held_out: Sequence[Preference], weight: float
) -> tuple[dict[str, list[Objective]], Callable[[bytes | None], Mapping[str, float]]]:
    """The arms of one person and how their adapters are judged."""
    texts = next_token(shop.engine, (), train)
    arms = {
        "next_token": [texts],
        "next_token+preference": [texts, preference(shop.engine, train, weight=weight)],
        "preference": [preference(shop.engine, train)],
    }
    scored = [
        make_example(shop.engine, build_messages(choice.prompt, []), reply)
        for choice in held_out
        for reply in (choice.chosen, choice.rejected)
    ]
    alone = sums(shop, scored, None).reshape(-1, 2, 2)  # (pairs, chosen or rejected, nats and tokens)

    def judge(adapter: bytes | None) -> Mapping[str, float]:
        rows = sums(shop, scored, adapter).reshape(-1, 2, 2) if adapter else alone
        gain = alone[:, :, 0] - rows[:, :, 0]
        return pair_measures(gain[:, 0] - gain[:, 1], rows[:, 0])

    return arms, judge


def sums(shop: Workshop, texts: Sequence[Example], adapter: bytes | None) -> NDArray[np.float64]:
    """(nats, tokens) of each text's reply under an adapter (None: the model alone), (n, 2)."""
    return np.array([(loss.sum(), len(loss)) for loss in token_losses(shop.engine, texts, adapter)])


def pair_measures(margin: NDArray[np.float64], chosen: NDArray[np.float64]) -> dict[str, float]:
    """The measures of pairs with these margins (n,) and (nats, tokens) of the preferred texts (n, 2); a margin of zero
    is half wrong."""
    wrong = np.mean((margin < 0) + 0.5 * (margin == 0))
    return {
        "wrong pairs": float(wrong),
        "pair loss": float(np.mean(np.logaddexp(0.0, -BETA * margin))),
        "preferred text": float(chosen[:, 0].sum() / chosen[:, 1].sum()),
    }
