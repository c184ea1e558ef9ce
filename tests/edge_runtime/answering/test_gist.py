"""Summaries without a model: short notes whole, long ones by their telling sentences, one line of key words."""

from __future__ import annotations

from edge_runtime.answering.gist import gist, key_line

LONG = (
    "The morning was cold. We walked to the harbour with Leo.\nBruno ate the landlord's sandwich, which he denied. "
    "Later it rained. Nobody minded much."
)


def test_a_short_note_stays_whole_on_one_line() -> None:
    assert gist("one\n two ", "anything") == "one two"


def test_of_a_long_note_the_sentences_about_the_question_are_kept_in_their_order() -> None:
    assert gist(LONG, "What did Bruno eat, the sandwich?", limit=60).startswith("Bruno ate the landlord's sandwich")
    both = gist(LONG, "Did Bruno eat the sandwich at the harbour with Leo?", limit=120)
    assert both.index("harbour") < both.index("Bruno") and len(both) <= 120
    assert "cold" in gist(LONG, "Unrelated?", limit=60)  # nothing to go by: from the beginning


def test_a_sentence_that_is_too_long_is_cut_at_a_word() -> None:
    cut = gist("word " * 500, "word?", limit=50)
    assert cut.endswith("word ...") and len(cut) <= 54


def test_key_words_are_what_the_best_note_adds() -> None:
    assert key_line(["My cat is called Minou.", "The cello"], "What is my cat called?") == "Key words: Minou"
    assert key_line(["The dentist is on 14 March"], "When is the dentist?") == "Key words: 14, march"
    assert key_line(["My cat"], "What is my cat called?") == "" and key_line([], "x") == ""
