"""PrefEval's implicit forms belong to its rows, and unrelated turns are about something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol.errors import PenchantError
from simulations.studies.decay.forms import FORMS, draw_turns, load_forms, unrelated_turns
from tests.simulations.studies.prefeval_help import write_prefeval


def test_every_form_tells_the_same_preferences(tmp_path: Path) -> None:
    folder = write_prefeval(tmp_path)
    chats = {form: load_forms(folder, form) for form in FORMS}
    rows = list(chats["explicit"])
    assert all(list(found) == rows for found in chats.values()) and len(rows) == 6
    first = rows[0]
    assert chats["explicit"][first][0].content == first.preference
    assert [turn.role for turn in chats["choice-based"][first]] == ["user", "assistant"] * 2
    # exchanges come in the order of their numbers, not of their names
    assert [turn.content for turn in chats["persona-driven"][first]][::2] == [
        "Good evening.",
        "I do not like cinnamon at all.",
        "Bye.",
    ]


def test_unrelated_turns_are_of_another_kind_and_nested(tmp_path: Path) -> None:
    exchanges = unrelated_turns(write_prefeval(tmp_path))
    two = draw_turns(exchanges, "food_dishes", 2, "a")
    assert draw_turns(exchanges, "food_dishes", 1, "a") == two[:1]
    assert all("travel_trains" in message.content for exchange in two for message in exchange)
    assert all("dislike" not in message.content for exchange in two for message in exchange)
    with pytest.raises(PenchantError, match="ask for fewer"):
        draw_turns(exchanges, "food_dishes", 3, "a")


def test_other_rows_or_another_form_are_refused_without_their_text(tmp_path: Path) -> None:
    folder = write_prefeval(tmp_path)
    file = folder / "implicit_preference" / "choice-based" / "food_dishes.json"
    rows = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(rows[::-1]), "utf-8")
    with pytest.raises(PenchantError, match="other rows") as refused:
        load_forms(folder, "choice-based")
    assert "cinnamon" not in str(refused.value)
    file.write_text(json.dumps([{**rows[0], "conversation": {"query": ""}}]), "utf-8")
    with pytest.raises(PenchantError, match=r"0\.conversation\.query"):
        load_forms(folder, "choice-based")
    file.unlink()
    with pytest.raises(PenchantError, match="pass the folder"):
        load_forms(folder, "choice-based")
    with pytest.raises(PenchantError, match="no form"):
        load_forms(folder, "sung")
