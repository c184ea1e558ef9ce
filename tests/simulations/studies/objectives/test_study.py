"""The ablation of objectives: its tables, and the people and measures of its parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.feedback.preferences import Preference
from simulations.datasets.locomo import Chat, ChatQuestion, ChatTurn
from simulations.studies.objectives.choices import choice_people, judge_pairs, pair_measures
from simulations.studies.objectives.recall import in_first_person, judge_facts, owner_of
from simulations.studies.objectives.study import Setting, Study, Subject, labeller, summary, writer
from simulations.studies.personal_fleet import HistorySplit, device_of
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.simulations.studies.history_help import person_of, tiny_shop


def row(person: str, arm: str, plain: float, source: str = "novels") -> dict[str, Any]:
    return {"experiment": "writing", "source": source, "person": person, "arm": arm, "losses": {"plain": plain}}


def test_gains_are_paired_per_person_against_plain_training() -> None:
    rows = [row("a", "next_token", 4.0), row("b", "next_token", 2.0), row("c", "next_token", 9.0)]
    rows += [row("a", "grounded", 3.9), row("b", "grounded", 1.8), row("d", "next_token", 1.0, "blogs")]
    tables = summary(rows)
    assert set(tables) == {"writing/novels", "writing/blogs"}
    found = tables["writing/novels"]["grounded"]
    assert found["people"] == 2
    assert found["plain"]["mean"] == pytest.approx(2.85) and found["plain"]["gain"] == pytest.approx(0.15)
    low, high = found["plain"]["interval"]
    assert low == pytest.approx(0.15 - 12.7062 * 0.05, abs=1e-3) and high == pytest.approx(0.3 - low)
    assert tables["writing/novels"]["next_token"]["plain"]["gain"] == 0.0


def test_pair_measures_by_hand() -> None:
    measures = pair_measures(np.array([10.0, 0.0, -10.0, 30.0]), np.array([[4.0, 2.0], [5.0, 1.0]]))
    assert measures["wrong pairs"] == 1.5 / 4 and measures["preferred text"] == 3.0
    expected = np.mean(np.log1p(np.exp([-1.0, 0.0, 1.0, -3.0])))
    assert measures["pair loss"] == pytest.approx(expected)


def test_the_village_has_tuning_people_apart_from_those_judged() -> None:
    tuning, judged = (list(choice_people("village", group, 3)) for group in ("tuning", "judged"))
    assert len(tuning) == 4 and len(judged) == 3
    assert not {name for name, _, _ in tuning} & {name for name, _, _ in judged}
    for _, train, held_out in judged:
        assert max(choice.said_at for choice in train) < min(choice.said_at for choice in held_out)


def test_questions_about_somebody_are_put_into_their_mouth() -> None:
    assert in_first_person("When did Ana move?", "Ana") == "When did I move?"
    assert in_first_person("What is Ana's job, and does Ana like it?", "Ana") == "What is my job, and do I like it?"
    assert in_first_person("Where is Ana now with her cat?", "Ana") == "Where am I now with my cat?"


def test_an_owner_is_asked_for_what_they_said_themselves() -> None:
    turns = (
        ChatTurn("D1:1", "Ana", "Hello", 1, 0, "2025-01-01"),
        ChatTurn("D1:2", "Ben", "I moved", 1, 1, "2025-01-01"),
        ChatTurn("D9:1", "Ana", "Much later", 9, 0, "2025-09-01"),
    )
    questions = tuple(
        ChatQuestion(text, frozenset({evidence}), category)
        for text, evidence, category in (
            ("Did Ana say hello?", "D1:1", 4),
            ("Did Ana meet Ben?", "D1:1", 4),  # names both
            ("Did Ana move?", "D1:2", 4),  # Ben said it
            ("When did Ana come?", "D9:1", 2),  # too late
            ("Would Ana wave?", "D1:1", 3),  # an opinion
            ("Is Ana polite?", "D1:1", 4),  # no answer
        )
    )
    answers = {question.text: "yes" for question in questions[:-1]}
    owner = owner_of(Chat("c", turns, questions), "Ana", answers)
    assert owner.facts == (("Did I say hello?", "yes"),)
    assert [(item.text, item.speaker) for item in owner.items] == [("Hello", ""), ("I moved", "Ben")]


def test_every_arm_of_every_experiment_trains_and_is_judged() -> None:
    """On a model of noise: what counts is that each adapter differs from the others and from none."""
    split = HistorySplit("novels", held_out=2)
    said = [
        "The kiln is in the shed.",
        "Where is it?",
        "In the old shed of ours.",
        "When?",
        "On the second of May.",
        "So",
    ]
    turns = tuple(ChatTurn(f"D1:{n}", "AB"[n % 2], text, 1, n, "2025-01-01") for n, text in enumerate(said))
    asked = tuple(ChatQuestion(f"Where is kiln {n} of A?", frozenset({f"D1:{n}"}), 4) for n in (0, 2, 4))
    owner = owner_of(Chat("c", turns, asked), "A", {one.text: f"shed {n}" for n, one in enumerate(asked)})
    person = person_of("ida", texts=7)  # other numbers of steps for batches of three and of four
    choices = [Preference(n, "Tea?", f"green {n}", f"black {n}", "2025-01-01") for n in range(3)]
    with tiny_shop() as shop, device_of(person.train_messages, HashingEmbedder()) as device:
        study = Study(shop, Setting(epochs=1))
        arms, judge = judge_pairs(shop, choices[:2], choices[2:], 1.0)
        facts, judge_answers = judge_facts(shop, owner, 1.0, HashingEmbedder())
        subjects = [
            writer(study, person, split, device),
            labeller(study, person, split, device),
            Subject("pairs", arms, judge),
            Subject("facts", facts, judge_answers),
        ]
        for subject in subjects:
            rows = list(study.rows(subject, ["none", *subject.arms]))
            assert [one["arm"] for one in rows] == ["none", *subject.arms] and "next_token" in subject.arms
            assert len({repr(one["losses"]) for one in rows}) == len(rows)
            assert all(np.isfinite(list(one["losses"].values())).all() for one in rows)
