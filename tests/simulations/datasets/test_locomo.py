"""The loader of LoCoMo chats, on a small chat written for this test in the original form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.datasets.locomo import Chat, load_chats


def invented_chat(first: str = "Ida", second: str = "Tor") -> dict[str, Any]:
    """Two sessions of two people about a boat, an allergy and a move."""

    def turn(session: int, number: int, speaker: str, text: str) -> dict[str, Any]:
        return {"speaker": speaker, "dia_id": f"D{session}:{number}", "text": text}

    return {
        "qa": [
            {"question": f"What did {first} name the boat?", "answer": "Gannet", "evidence": ["D1:3"], "category": 4},
            {
                "question": f"Where do {first} and {second} live?",
                "answer": "Bergen, Vardø",
                "evidence": ["D1:1; D:2:02", "D9:9"],
                "category": 1,
            },
            {"question": "What is unknown?", "answer": "nothing", "evidence": [], "category": 3},
            {"question": "What else is unknown?", "answer": "nothing", "category": 3},
        ],
        "conversation": {
            "speaker_a": first,
            "speaker_b": second,
            "session_2_date_time": "1:56 pm on 8 May, 2023",
            "session_2": [
                turn(2, 1, first, "Where did you move to?"),
                turn(2, 2, second, "Vardø, last week."),
                turn(2, 3, first, "That is far north."),
            ],
            "session_1_date_time": "11:53 am on 23 March, 2023",
            "session_1": [
                turn(1, 1, first, f"Hey {second}! Greetings from Bergen, where I live."),
                turn(1, 2, second, f"{first}! What do you call the boat that you bought?"),
                turn(1, 3, first, "Gannet!"),
                turn(1, 4, second, "I am allergic to walnuts, by the way."),
            ],
        },
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 10, 2, 3, 4):
        (tmp_path / f"Chat_{number}_Ida_Tor.json").write_text(json.dumps(invented_chat()), encoding="utf-8")
    return tmp_path


def test_turns_in_order_with_their_dates(folder: Path) -> None:
    chat = load_chats(folder)[0]
    assert [turn.id for turn in chat.turns] == ["D1:1", "D1:2", "D1:3", "D1:4", "D2:1", "D2:2", "D2:3"]
    last = chat.turns[-1]
    assert (last.speaker, last.session, last.position, last.said_at) == ("Ida", 2, 2, "2023-05-08")


def test_questions_with_evidence_only_read_as_meant(folder: Path) -> None:
    questions = load_chats(folder)[0].questions
    assert [question.evidence for question in questions] == [{"D1:3"}, {"D1:1", "D2:2"}]
    assert [question.category for question in questions] == [4, 1]


def test_the_first_three_by_name_are_for_tuning(folder: Path) -> None:
    def names(part: str) -> list[str]:
        return [chat.name.split("_")[1] for chat in load_chats(folder, part)]

    assert names("all") == ["10", "1", "2", "3", "4"]
    assert names("tuning") == ["10", "1", "2"] and names("report") == ["3", "4"]


def test_turns_become_passages_of_their_session(folder: Path) -> None:
    chat: Chat = load_chats(folder)[0]
    statements = chat.statements()
    assert len(statements) == len(chat.turns) and {statement.kind for statement in statements} == {"passage"}
    assert len({statement.document for statement in statements}) == 2
    assert (statements[4].speaker, statements[4].position, statements[4].said_at) == ("Ida", 0, "2023-05-08")


def test_what_is_no_chat_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="no LoCoMo chats"):
        load_chats(tmp_path)
    with pytest.raises(PenchantError, match="tuning"):
        load_chats(tmp_path, "secret")
    for content in ("{", "[]", '{"qa": [], "conversation": {"session_1": []}}'):
        (tmp_path / "Chat_1.json").write_text(content)
        with pytest.raises(PenchantError, match="original form"):
            load_chats(tmp_path)
