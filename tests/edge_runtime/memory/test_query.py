"""What is read from a question."""

from __future__ import annotations

from datetime import date

import pytest

from edge_runtime.memory.query import read_query, telling_words


def days(*spans: tuple[str, str]) -> tuple[tuple[int, int], ...]:
    return tuple((date.fromisoformat(a).toordinal(), date.fromisoformat(b).toordinal()) for a, b in spans)


def test_telling_words_only_each_once() -> None:
    assert telling_words('What is my "dog" called, OR dog NEAR x?') == ("dog", "called", "near", "x")
    assert telling_words("what is it") == () and telling_words("Žofie čte") == ("žofie", "čte")


def test_a_text_instead_of_a_question_is_cut() -> None:
    assert len(read_query(" ".join(f"word{n}" for n in range(500))).words) == 64


def test_the_speaker_asked_for() -> None:
    query = read_query("What is Ana Maria's job, and does Bruno like it?", ["", "Ana Maria", "Carl"])
    assert query.named == ("Ana Maria",) and query.speaker == "Ana Maria"
    assert query.name_words == {"ana", "maria"}
    assert query.text_without_names == "What is job, and does Bruno like it?"
    assert read_query("Ana and Carl", ["Ana", "Carl"]).speaker is None  # both: whose is open
    assert read_query("Anatomy", ["Ana"]).named == ()
    assert read_query("Where do I live?", ["Ana"]).speaker == "" and read_query("Where is it?").speaker is None
    assert read_query("What did Ana tell me?", ["Ana"]).speaker == "Ana"
    assert read_query("Ana", ["Ana"]).text_without_names == "Ana"  # nothing else to look for


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("on 14 March 2023", days(("2023-03-14", "2023-03-14"))),
        ("on March 14th, 2023", days(("2023-03-14", "2023-03-14"))),
        ("in february 2024", days(("2024-02-01", "2024-02-29"))),
        ("on 2023-03-14 or 2023-99-99", days(("2023-03-14", "2023-03-14"))),
        ("in July", days(("2022-07-01", "2022-07-31"), ("2023-07-01", "2023-07-31"))),
        ("on 31 June", ()),
        ("I may march in the marches of 2023", ()),
        ("May 2023", days(("2023-05-01", "2023-05-31"))),
        ("what happened yesterday", ()),
    ],
)
def test_dates_named(text: str, spans: tuple[tuple[int, int], ...]) -> None:
    assert read_query(text, years={2022, 2023}).periods == spans


def test_questions_about_the_past() -> None:
    for text in ("Where did I live before?", "Who was my dentist?", "What did I use to eat", "my previous job"):
        assert read_query(text).about_past, text
    for text in ("Where do I live?", "Who is my dentist?", "What is my washer called?"):
        assert not read_query(text).about_past, text
