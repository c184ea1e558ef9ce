from __future__ import annotations

from edge_runtime.memory.claim_clauses import asserted_sentences


def _clauses(text: str) -> list[str]:
    return [clause for _, clauses in asserted_sentences(text) for clause in clauses]


def test_openers_are_taken_off_and_clauses_cut() -> None:
    assert _clauses("Well, by the way: I like tea, but my wife hates it.") == ["I like tea", "my wife hates it"]
    assert _clauses("On Tuesdays I sing.") == ["I sing on Tuesdays"]
    assert _clauses("My wife and I live here.") == ["we live here"]


def test_a_quoted_name_stays_and_quoted_speech_drops_its_sentence() -> None:
    assert _clauses('My cat is called "Minou".') == ["My cat is called Minou"]
    assert _clauses('He shouted "I love you all". I left.') == ["I left"]


def test_reports_end_a_sentence() -> None:
    assert _clauses("I like tea and my boss says I am slow and I am late.") == ["I like tea"]


def test_labels_quotes_code_and_forwarded_mail_are_left_out() -> None:
    text = (
        "Note: I like tea.\nAna: I like wine.\n> I like beer.\n`I like rum.`\n----- Original Message -----\nI like gin."
    )
    assert _clauses(text) == ["I like tea"]


def test_what_follows_a_request_to_work_on_a_text_is_left_out() -> None:
    assert _clauses("I like tea. Please translate this. I like wine.") == ["I like tea"]
