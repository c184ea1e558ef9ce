from __future__ import annotations

import pytest

from edge_runtime.memory.claim_verbs import claims_of_verb, first_person


@pytest.mark.parametrize(
    ("verb", "base"),
    [
        ("likes tea", "like tea"),
        ("is a nurse", "am a nurse"),
        ("has two cats", "have two cats"),
        ("studies law", "study law"),
        ("teaches", "teach"),
        ("also really likes tea", "also really like tea"),
        ("never drinks wine", "never drink wine"),
    ],
)
def test_the_first_verb_in_base_form(verb: str, base: str) -> None:
    assert first_person(verb) == base


@pytest.mark.parametrize(
    ("verb", "claim"),
    [
        ("am no longer allergic to milk", ("allergic_to", "milk", False, "now")),
        ("do not eat pork any more", ("eats", "pork", False, "now")),
        ("have stopped drinking coffee", ("drinks", "coffee", False, "now")),
        ("gave up meat", ("eats", "meat", False, "now")),
        ("used to be a postman", ("works_as", "postman", True, "past")),
        ("started learning Welsh", ("learning", "Welsh", True, "now")),
        ("have no pets", ("owns", "pets", False, "now")),
    ],
)
def test_negation_and_change(verb: str, claim: tuple[str, str, bool, str]) -> None:
    (found,) = claims_of_verb("", verb)
    assert (found.attribute, found.value, found.polarity, found.temporal) == claim


def test_a_second_verb_counts_only_after_a_first_that_says_something() -> None:
    assert [found.attribute for found in claims_of_verb("", "live in Kiel and work as a baker")] == [
        "lives_in",
        "works_as",
    ]
    assert claims_of_verb("", "turned around and like whoa") == []
