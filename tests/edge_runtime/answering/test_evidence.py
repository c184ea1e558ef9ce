"""The rank stage: weak, repeated and surplus evidence is dropped, with a reason; what is left keeps its order."""

from __future__ import annotations

from edge_runtime.answering.evidence import Evidence, drop, gather, rank
from edge_runtime.memory.statements import MemoryItem, Recalled


def evidence(number: int, text: str, similarity: float, score: float | None = None) -> Evidence:
    return Evidence(f"memory:{number}", text, "2025-01-01", "statement", score or similarity, similarity, 0.0)


def test_what_was_recalled_becomes_evidence_with_its_coverage() -> None:
    item = MemoryItem(7, "My dog is called Bruno", "Describe your pets", "2025-01-01", "me", "")
    (one,) = gather("Which pet is a dog, which a cat?", [Recalled(item, 0.2, {"dense": 1}, 0.6)])
    assert (one.id, one.kind, one.said_at, one.similarity, one.kept) == (
        "memory:7",
        "statement",
        "2025-01-01",
        0.6,
        True,
    )
    assert abs(one.coverage - 2 / 3) < 1e-9  # the cue counts too
    (unknown,) = gather("???", [Recalled(item, 0.2, {"recency": 1}, None)])
    assert unknown.similarity == 0 and unknown.coverage == 0


def test_the_best_come_first_and_no_more_than_k() -> None:
    texts = ("red apples fell", "green pears grew", "blue plums rotted", "white cherries bloomed")
    ranked = rank([evidence(n, text, 0.5 - n / 100) for n, text in enumerate(texts)], k=2)
    assert [one.id for one in ranked if one.kept] == ["memory:0", "memory:1"]
    assert [one.why for one in ranked if not one.kept] == ["beyond the 2 shown"] * 2
    assert len(ranked) == 4


def test_what_is_much_weaker_than_the_best_goes() -> None:
    ranked = rank([evidence(1, "red apples fell", 0.8), evidence(2, "green pears grew", 0.47)], k=3)
    assert [(one.id, one.kept) for one in ranked] == [("memory:1", True), ("memory:2", False)]
    assert ranked[1].why == "much weaker than the best"
    assert all(one.kept for one in rank([evidence(1, "red apples fell", 0.8), evidence(2, "pears", 0.49)], k=3))


def test_the_same_said_twice_is_shown_once() -> None:
    ranked = rank(
        [evidence(1, "Bruno hates the vacuum cleaner", 0.6), evidence(2, "Bruno really hates vacuum cleaners!", 0.6)],
        k=3,
    )
    assert [one.kept for one in ranked] == [True, False] and ranked[1].why == "repeats memory:1"


def test_variety_is_preferred_among_near_equals() -> None:
    ranked = rank(
        [
            evidence(1, "Bruno eats carrots every morning", 0.60),
            evidence(2, "Bruno eats carrots at noon happily", 0.59),
            evidence(3, "Walks happen after dark", 0.58),
        ],
        k=2,
    )
    assert [one.id for one in ranked if one.kept] == ["memory:1", "memory:3"]


def test_what_was_dropped_before_stays_dropped_and_the_audit_has_no_text() -> None:
    before = drop(evidence(1, "Bruno hates vacuum cleaners", 0.9), "the plan leaves memory out")
    ranked = rank([before, evidence(2, "green pears grew", 0.3)], k=3)
    assert [(one.id, one.kept) for one in ranked] == [("memory:2", True), ("memory:1", False)]
    assert ranked[1].why == "the plan leaves memory out"
    assert "text" not in before.to_dict() and "Bruno" not in str(before.to_dict())
    assert rank([], k=3) == []
