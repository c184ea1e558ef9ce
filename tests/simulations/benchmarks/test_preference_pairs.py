"""PRISM's utterances and PersonalLLM's interactions: choices in time order, the latest asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.benchmarks.preference_pairs import TUNING, personalllm, prism
from tests.simulations.benchmarks.help import write_lines

PEOPLE, CHOICES = TUNING + 2, 8


def utterances() -> list[dict[str, Any]]:
    """Eight conversations a person, told in falling order; the chosen answer is the second of every turn."""
    return [
        {
            "utterance_id": "u",
            "user_id": f"user{person}",
            "conversation_id": f"c{10 * person + number}",
            "turn": 0,
            "within_turn_id": answer,
            "user_prompt": f"Prompt {number}?",
            "model_response": f"Answer {number} {'ab'[answer]} of {person}",
            "score": 50,
            "if_chosen": answer == 1,
        }
        for person in range(PEOPLE)
        for number in reversed(range(CHOICES))
        for answer in (1, 0)
    ]


def test_prism_choices_go_by_conversation_and_the_latest_are_asked(tmp_path: Path) -> None:
    write_lines(tmp_path / "prism" / "utterances.jsonl", utterances())
    read = prism(tmp_path, 2)
    task = read.tasks[0]
    assert task.person == f"user{TUNING}" and read.measure == "accuracy"
    assert [row.text for row in task.history] == [f"Answer {number} b of {TUNING}" for number in range(6)]
    assert [query.input for query in task.queries] == ["Prompt 6?", "Prompt 7?"]
    assert task.queries[0].gold == f"Answer 6 b of {TUNING}"
    assert task.queries[0].options == (f"Answer 6 a of {TUNING}", f"Answer 6 b of {TUNING}")


def test_prism_turns_without_a_real_choice_are_left_out(tmp_path: Path) -> None:
    rows = utterances()
    for row in rows:
        if row["user_prompt"] == "Prompt 0?":
            row["model_response"] = "word " * 100 + row["model_response"]  # alike as far as they are shown
        if row["user_prompt"] == "Prompt 1?":
            row["if_chosen"] = True
    write_lines(tmp_path / "prism" / "utterances.jsonl", rows)
    task = prism(tmp_path, 2).tasks[0]
    assert [row.cue for row in task.history] == [f"Prompt {number}?" for number in range(2, 7)]


def interactions(**change: Any) -> list[dict[str, Any]]:
    rows = []
    for person in range(PEOPLE):
        row: dict[str, Any] = {"person_id": person, "person_weight": [0.5, 0.5], "length": CHOICES}
        for number in range(1, CHOICES + 1):
            row |= {f"prompt_{number}": f"Prompt {number}?", f"chosen_{number}": "ab"[number % 2]}
            row |= {f"response_{number}_{letter}": f"Answer {number}{letter}" for letter in "ab"}
        rows.append({**row, f"prompt_{CHOICES + 1}": None, **change})
    return rows


def test_personalllm_interactions_end_with_the_first_that_is_missing(tmp_path: Path) -> None:
    write_lines(tmp_path / "personalllm" / "interactions.jsonl", interactions())
    task = personalllm(tmp_path, 2).tasks[0]
    assert task.person == f"persona-{TUNING}"
    assert [row.text for row in task.history] == [f"Answer {number}{'ab'[number % 2]}" for number in range(1, 7)]
    assert [query.gold for query in task.queries] == ["Answer 7b", "Answer 8a"]
    assert all(query.options[0].endswith("a") for query in task.queries)


def test_wrong_rows_are_named_by_place_and_not_quoted(tmp_path: Path) -> None:
    write_lines(tmp_path / "personalllm" / "interactions.jsonl", interactions(chosen_2="kiln"))
    with pytest.raises(PenchantError, match="row 0, interaction 2") as refused:
        personalllm(tmp_path, 2)
    assert "kiln" not in str(refused.value)
    write_lines(tmp_path / "prism" / "utterances.jsonl", [utterances()[0] | {"if_chosen": "kiln"}])
    with pytest.raises(PenchantError, match="line 1, if_chosen") as refused:
        prism(tmp_path, 2)
    assert "kiln" not in str(refused.value)
    with pytest.raises(PenchantError, match=r"pass the folder that holds utterances\.jsonl"):
        prism(tmp_path / "nowhere", 2)
