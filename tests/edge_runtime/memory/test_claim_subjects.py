from __future__ import annotations

from edge_runtime.memory.claim_subjects import claims_of_clause


def _read(clause: str) -> list[tuple[str, str, str]]:
    return [(claim.subject, claim.attribute, claim.value) for claim in claims_of_clause(clause)]


def test_names_of_relations_and_pets() -> None:
    assert _read("my sister is called Ana") == [("", "sister's name", "Ana")]
    assert _read("our cats are called Salt and Olive") == []  # which of them is which is not said
    assert _read("my boss is Dutch") == []
    assert _read("my brother Tomas lives in Kiel") == [
        ("", "brother's name", "Tomas"),
        ("my brother Tomas", "lives_in", "Kiel"),
    ]


def test_what_belongs_to_the_owner() -> None:
    assert _read("my favourite colour is green") == [("", "favourite colour", "green")]
    assert _read("my birthday is on 3 May") == [("", "birthday", "3 May")]
    assert _read("my car is a blue Volvo") == [("", "car", "a blue Volvo")]
    assert _read("my car is broken") == []


def test_a_capitalised_word_is_a_person_only_before_a_verb_of_theirs() -> None:
    assert _read("Anton likes tea") == [("Anton", "likes", "tea")]
    assert _read("Stop work at noon") == []
    assert _read("Everyone likes tea") == []
