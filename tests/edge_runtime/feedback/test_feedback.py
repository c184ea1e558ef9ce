"""Thumbs, edits and choices: stored once, turned into pairs, apart from memories, and gone when forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.answering.conversations import Turn
from edge_runtime.feedback.feedback import Feedback
from edge_runtime.feedback.preferences import PREFERENCE_STEPS
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import decrypted_pages

KEY = bytes(32)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path, KEY) as opened:
        yield opened


@pytest.fixture
def feedback(vault: Vault) -> Feedback:
    return Feedback(vault)


def answer(turn: int, text: str, *memories: int) -> Turn:
    candidates = [{"id": f"memory:{memory}", "kept": True} for memory in memories]
    return Turn(turn, "c", "assistant", text, "2025-01-01T00:00:00+00:00", {"candidates": candidates})


def never(_: str) -> bool:
    return False


def pairs(feedback: Feedback) -> list[tuple[str, str, str]]:
    return [(one.prompt, one.chosen, one.rejected) for one in feedback.preferences()]


def test_choices_are_idempotent_ordered_and_forgotten(feedback: Feedback) -> None:
    later = feedback.add_preference("Name a cake", "walnut-free", "walnut", said_at="2025-02-01")
    earlier = feedback.add_preference("Name a tea", "green", "black", said_at="2025-01-01")
    assert feedback.add_preference("name a  TEA", "green", "black", said_at="2025-05-01") == earlier
    assert feedback.preferences() == [earlier, later]
    with pytest.raises(PenchantError, match="two different"):
        feedback.add_preference("a", "b", "b")
    assert feedback.forget_all() == 2 and feedback.preferences() == []


def test_an_edit_is_preferred_to_what_was_edited(feedback: Feedback) -> None:
    edited = feedback.edit(answer(3, "Dear Sir,"), "Write to Ines", "Hi Ines,")
    assert (edited.prompt, edited.chosen, edited.rejected) == ("Write to Ines", "Hi Ines,", "Dear Sir,")
    assert feedback.preferences() == [edited]
    with pytest.raises(PenchantError, match="two different"):
        feedback.edit(answer(3, "Dear Sir,"), "Write to Ines", "Dear Sir,")


def test_opposite_thumbs_for_one_question_make_a_pair_and_single_ones_do_not(feedback: Feedback) -> None:
    rated = feedback.thumbs(answer(1, "Walnut cake"), "Name a cake", up=False, note=" allergic ")
    assert (rated.turn, rated.up, rated.note, rated.answer) == (1, False, "allergic", "Walnut cake")
    feedback.thumbs(answer(2, "Green tea"), "Name a tea", up=True)
    assert pairs(feedback) == []
    feedback.thumbs(answer(3, "Lemon cake"), "name a CAKE", up=True)
    feedback.thumbs(answer(4, "Carrot cake"), "Name a cake", up=True)
    assert sorted(chosen for _, chosen, _ in pairs(feedback)) == ["Carrot cake", "Lemon cake"]
    assert {rejected for *_, rejected in pairs(feedback)} == {"Walnut cake"}
    assert [one.turn for one in feedback.ratings()] == [1, 2, 3, 4]


def test_changing_or_taking_back_a_thumb_takes_its_pairs_along(feedback: Feedback) -> None:
    feedback.thumbs(answer(1, "Walnut cake"), "Name a cake", up=False)
    feedback.thumbs(answer(2, "Lemon cake"), "Name a cake", up=True)
    feedback.thumbs(answer(5, "lemon  CAKE"), "Name a cake", up=True)  # the same answer again: the same pair
    chosen = feedback.add_preference("Name a cake", "Plum cake", "Walnut cake")
    assert len(feedback.preferences()) == 2
    feedback.remove(turn=5)
    assert len(feedback.preferences()) == 2  # turn 2 still says so
    feedback.thumbs(answer(2, "Lemon cake"), "Name a cake", up=False)
    assert feedback.preferences() == [chosen] and [one.up for one in feedback.ratings()] == [False, False]
    feedback.remove(preference=chosen.id)
    assert feedback.preferences() == []
    for missing in ({"turn": 9}, {"preference": chosen.id}):
        with pytest.raises(PenchantError, match="feedback list"):
            feedback.remove(**missing)


def test_only_answers_are_judged(feedback: Feedback) -> None:
    mine = Turn(1, "c", "user", "I like tea", "2025-01-01T00:00:00+00:00")
    for judge in (lambda: feedback.thumbs(mine, "x", True), lambda: feedback.edit(mine, "x", "y")):
        with pytest.raises(PenchantError, match="about an answer"):
            judge()


def test_what_answers_from_a_forgotten_memory_gave_rise_to_goes(feedback: Feedback) -> None:
    feedback.thumbs(answer(1, "Lemon cake", 7), "Name a cake", up=True)
    feedback.thumbs(answer(2, "Plum cake", 8), "Name a cake", up=False)
    feedback.edit(answer(3, "Dear Sir,", 8), "Write a line", "Hi,")
    kept = feedback.add_preference("Name a tea", "green", "black")
    assert feedback.forget_traces([7], never) == 2  # the thumb, and the pair that it made with the other one
    assert [one.turn for one in feedback.ratings()] == [2] and len(feedback.preferences()) == 2
    assert feedback.forget_traces([8], never) == 2
    assert feedback.preferences() == [kept] and feedback.ratings() == []


@pytest.mark.parametrize("place", ["prompt", "chosen", "rejected", "note"])
def test_what_repeats_forgotten_words_goes_from_the_file_too(
    feedback: Feedback, vault: Vault, tmp_path: Path, place: str
) -> None:
    text = {name: f"plain {name}" for name in ("prompt", "chosen", "rejected", "note")} | {place: "Zebulon likes tea"}
    feedback.thumbs(answer(1, text["rejected"]), text["prompt"], up=False, note=text["note"])
    feedback.edit(answer(1, text["rejected"]), text["prompt"], text["chosen"])
    assert feedback.forget_traces([], lambda said: "Zebulon" in said) == {"note": 1, "chosen": 1}.get(place, 2)
    vault.sweep_log()
    assert b"Zebulon" not in decrypted_pages(tmp_path, KEY)


def test_a_file_with_the_first_table_only_is_brought_up_to_date(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        vault.migrate("preferences", PREFERENCE_STEPS[:1])
        vault.connection.execute(
            "INSERT INTO preferences (digest, prompt, chosen, rejected, said_at) "
            "VALUES (x'00', 'p', 'a', 'b', '2025-01-01')"
        )
        feedback = Feedback(vault)
        assert pairs(feedback) == [("p", "a", "b")] and feedback.ratings() == []
        assert feedback.forget_traces([1], never) == 0
