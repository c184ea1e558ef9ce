"""An objective as data: what it holds, what is left of it, and which may be private."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client.examples import Example
from client.objectives.objective import NOT_PRIVATE, Objective, Pair, check_private
from protocol.errors import PenchantError
from tests.client.objectives.objective_help import some_examples, some_pairs


def test_either_examples_or_pairs_and_a_weight_above_zero() -> None:
    assert (
        len(Objective("next_token", some_examples(4))) == 4 and len(Objective("preference", pairs=some_pairs(2))) == 2
    )
    with pytest.raises(PenchantError, match="not both"):
        Objective("next_token", some_examples(1), some_pairs(1))
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(PenchantError, match="weight"):
            Objective("next_token", weight=weight)


def test_a_pass_takes_one_telling() -> None:
    texts = some_examples(5)
    told = Objective("turns", texts, tellings=(0, 0, 1, 1, 1))
    assert [places.tolist() for places in told.passes()] == [[0, 1], [2, 3, 4]]
    assert [places.tolist() for places in Objective("next_token", texts).passes()] == [[0, 1, 2, 3, 4]]
    gone = replace(texts[1], prompt_length=len(texts[1].tokens))  # nothing is left to train on
    kept = replace(told, examples=(texts[0], gone, *texts[2:])).usable()
    assert kept.examples == (texts[0], *texts[2:]) and kept.tellings == (0, 1, 1, 1)
    with pytest.raises(PenchantError, match="one telling"):
        Objective("turns", texts, tellings=(0, 1))


def test_what_the_cut_leaves_nothing_of_goes() -> None:
    short, long = Example((1, 2, 3, 4), 3), Example((1, 2, 3, 4, 5), 4)
    kept = Objective("next_token", (short, long), max_tokens=4).usable()
    assert kept.examples == (short,)
    pairs = (Pair(short, short), Pair(short, long), Pair(long, short))
    assert Objective("preference", pairs=pairs, max_tokens=4).usable().pairs == pairs[:1]


def test_the_content_differs_when_anything_that_is_trained_on_differs() -> None:
    texts, pairs = some_examples(2), some_pairs(1)
    one = Objective("next_token", texts)
    weighted = replace(texts[0], weights=(0.5,) * (len(texts[0].tokens) - texts[0].prompt_length))
    others = [
        Objective("next_token", texts[:1]),
        Objective("next_token", (weighted, texts[1])),
        Objective("unlabelled", texts),
        Objective("next_token", texts, weight=0.5),
        Objective("next_token", texts, max_tokens=90),
        Objective("next_token", texts, in_order=True),
        Objective("next_token", texts, tellings=(0, 1)),
        Objective("preference", pairs=pairs),
        Objective("next_token", (pairs[0].chosen, pairs[0].rejected)),
    ]
    seen = [repr(each.content) for each in [one, *others]]
    assert len(set(seen)) == len(seen) and repr(Objective("next_token", texts).content) == seen[0]


def test_what_cannot_be_private_per_text_is_refused_with_the_reason() -> None:
    allowed = [Objective("next_token", some_examples(1)), Objective("preference", pairs=some_pairs(1))]
    check_private([*allowed, Objective("unlabelled", some_examples(1))])
    for name, reason in NOT_PRIVATE.items():
        with pytest.raises(PenchantError, match=name) as refused:
            check_private([*allowed, Objective(name, some_examples(1))])
        assert reason in str(refused.value)
