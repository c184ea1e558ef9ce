"""LoCoMo's and REALTALK's chats as people: what each speaker said, and the questions that only they can answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.benchmarks.memory_chats import QUESTIONS, locomo, realtalk
from tests.simulations.benchmarks.help import write_json

TURNS = (("Ann", "D1:1", "I bought a blue kiln."), ("Ben", "D1:2", "I never fire clay."), ("Ann", "D1:3", "Pity!"))
QUESTIONS_OF_CHAT: list[dict[str, Any]] = [
    {"question": "What did Ann buy?", "answer": "a blue kiln", "evidence": ["D1:1"], "category": 4},
    {"question": "How many kilns?", "answer": 1, "evidence": ["D1:1", "D1:3"], "category": 1},
    {"question": "Who spoke?", "answer": "both", "evidence": ["D1:1", "D1:2"], "category": 1},
    {"question": "What did Ben fire?", "adversarial_answer": "clay", "evidence": ["D1:2"], "category": 5},
    {"question": "What does Ben avoid?", "answer": "clay", "evidence": ["D1:2"], "category": 4},
]


def write_locomo(folder: Path, chats: int = 4) -> Path:
    for number in range(chats):
        turns = [{"speaker": who, "dia_id": place, "text": text} for who, place, text in TURNS]
        chat = {"session_1": turns, "session_1_date_time": "1:56 pm on 8 May, 2023"}
        write_json(folder / "locomo" / f"Chat_{number}.json", {"conversation": chat, "qa": QUESTIONS_OF_CHAT})
    return folder


def write_realtalk(folder: Path, chats: int = 3, **change: Any) -> Path:
    turns = [
        {"speaker": who, "dia_id": place, "clean_text": text, "date_time": "29.12.2023, 22:00:05", **change}
        for who, place, text in TURNS
    ]
    names = {"speaker_1": "Ann", "speaker_2": "Ben"}
    for number in range(chats):
        write_json(
            folder / "realtalk" / f"Chat_{number}_Ann_Ben.json",
            {"name": names, "session_1": turns, "qa": QUESTIONS_OF_CHAT, "session_1_summary": "x"},
        )
    return folder


@pytest.mark.parametrize(("read", "write"), [(locomo, write_locomo), (realtalk, write_realtalk)])
def test_a_speaker_is_asked_what_their_own_words_answer(tmp_path: Path, read: Any, write: Any) -> None:
    benchmark = read(write(tmp_path), 20)
    assert benchmark.serving == "question" and benchmark.measure == "nats"
    ann, ben = benchmark.tasks
    assert ann.person.endswith("-Ann") and ben.person.endswith("-Ben")
    assert [(row.cue, row.text) for row in ann.history] == [
        ("", "I bought a blue kiln."),
        ("I never fire clay.", "Pity!"),
    ]
    assert [(query.input, query.gold, query.evidence) for query in ann.queries] == [
        ("What did Ann buy?", "a blue kiln", {0}),
        ("How many kilns?", "1", {0, 1}),
    ]
    assert [query.gold for query in ben.queries] == ["clay"]
    assert ann.history[0].date in ("2023-05-08", "2023-12-29")


def test_neighbours_come_from_other_chats_and_tuning_people_from_other_ones_again(tmp_path: Path) -> None:
    benchmark = locomo(write_locomo(tmp_path, 6), 20)
    chats = [task.person.split("-")[0] for task in benchmark.tasks]
    assert all(chats[place] != chats[place - 1] for place in range(len(chats)))
    assert not set(chats) & {task.person.split("-")[0] for task in benchmark.tuning}
    assert len(locomo(tmp_path, 2).tasks) == 2


def test_long_lists_of_questions_are_thinned_evenly(tmp_path: Path) -> None:
    write_locomo(tmp_path)
    many = [{**QUESTIONS_OF_CHAT[0], "question": f"Question {n}?"} for n in range(3 * QUESTIONS)]
    file = tmp_path / "locomo" / "Chat_3.json"
    turns = [{"speaker": who, "dia_id": place, "text": text} for who, place, text in TURNS]
    write_json(
        file,
        {"conversation": {"session_1": turns, "session_1_date_time": "1:56 pm on 8 May, 2023"}, "qa": many},
    )
    asked = [query.input for query in locomo(tmp_path, 2).tasks[0].queries] if len(many) else []
    assert asked == [f"Question {n}?" for n in range(0, 3 * QUESTIONS, 3)]


def test_wrong_realtalk_files_are_named_by_place_and_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="no REALTALK chats"):
        realtalk(tmp_path, 2)
    write_realtalk(tmp_path, date_time="kiln")
    with pytest.raises(PenchantError, match=r"session_1 is not .* see 0\.date_time") as refused:
        realtalk(tmp_path, 2)
    assert "kiln" not in str(refused.value)
    write_realtalk(tmp_path, clean_text=["kiln"])
    with pytest.raises(PenchantError, match=r"session_1 is not .* see 0\.clean_text") as refused:
        realtalk(tmp_path, 2)
    assert "kiln" not in str(refused.value)
    write_json(tmp_path / "realtalk" / "Chat_0_Ann_Ben.json", {"name": {"speaker_1": "kiln"}, "qa": []})
    with pytest.raises(PenchantError, match=r"Chat_0_Ann_Ben\.json .* see name\.speaker_2") as refused:
        realtalk(tmp_path, 2)
    assert "kiln" not in str(refused.value)
