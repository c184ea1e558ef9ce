"""Which notes an answer rests on."""

from __future__ import annotations

from edge_runtime.answering.citing import notes_behind

NOTES = (
    ("memory:1", "My dog is called Bruno and hates the vacuum cleaner."),
    ("memory:2", "The spare key is under the blue flower pot."),
    ("memory:3", "Bruno was at the vet."),
)


def test_the_note_whose_words_the_answer_says() -> None:
    assert notes_behind("Your dog is called Bruno.", "What is my dog called?", NOTES[:2]) == ("memory:1",)
    assert notes_behind("It is under the blue pot.", "Where is the spare key?", NOTES) == ("memory:2",)


def test_words_of_the_question_prove_nothing_and_an_answer_of_its_own_rests_on_none() -> None:
    assert notes_behind("Your dog has no name.", "Has my dog a spare key?", NOTES) == ()
    assert notes_behind("A week has seven days.", "How many days has a week?", NOTES) == ()
    assert notes_behind("", "What?", NOTES) == () and notes_behind("Bruno.", "Who?", ()) == ()


def test_a_second_note_counts_only_for_what_the_first_did_not_say() -> None:
    both = notes_behind("Bruno hates the vacuum cleaner; the key is under the blue pot.", "Well?", NOTES)
    assert both == ("memory:1", "memory:2")
