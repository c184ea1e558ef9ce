"""The PrefEval benchmark on invented preferences: what is found, what is chosen, and what an interval is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from edge_runtime.answering.choosing import RankedOption
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import TextEmbedder
from protocol.errors import PenchantError
from simulations.bench.preferences import (
    CONDITIONS,
    choices,
    mixed_people,
    recall_first,
    retrieval,
    retrieval_among_topics,
    run,
    wilson,
)
from simulations.datasets.prefeval import PreferenceQuestion
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny


def question(topic: str, number: int) -> PreferenceQuestion:
    """Preference and question share one word that no other has."""
    return PreferenceQuestion(
        topic,
        f"I dislike {topic}{number}",
        f"Which {topic}{number} suits?",
        (f"none {number}", f"{topic}{number} now", f"{topic}{number} later", "any of them"),
    )


TOPICS = {
    topic: tuple(question(topic, number) for number in range(count)) for topic, count in (("food", 7), ("sport", 6))
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("preferences"), context_tokens=2048) as opened:
        yield opened


def progress(seen: list[tuple[str, float]]):  # type: ignore[no-untyped-def]
    return lambda stage, fraction: seen.append((stage, fraction))


def test_a_preference_that_shares_a_rare_word_is_found_first_by_both() -> None:
    seen: list[tuple[str, float]] = []
    cases = retrieval(TOPICS, HashingEmbedder(), progress(seen))
    assert set(cases) == {"topic_first", "topic_within_5"}
    first = cases["topic_first"]
    assert first.ours == 1.0 and first.peer == 1.0 and first.more["questions"] == 13
    assert first.more["per_topic"] == {"food": [1.0, 1.0], "sport": [1.0, 1.0]}
    low, high = first.more["interval"]
    assert 0.7 < low < 1 and high == pytest.approx(1)
    assert seen == [("retrieval", 0.5), ("retrieval", 1.0)]


def test_what_shares_nothing_is_not_found() -> None:
    rows = tuple(
        PreferenceQuestion("food", f"I dislike thing{number}", f"Which other{number} suits?", ("a", "b", "c", "d"))
        for number in range(8)
    )
    assert retrieval({"food": rows}, HashingEmbedder(), progress([]))["topic_first"].ours < 0.5


def test_a_mixed_person_holds_one_preference_of_each_topic() -> None:
    people = mixed_people(TOPICS, seed=1)
    assert len(people) == 6 and all([row.topic for row in person] == ["food", "sport"] for person in people)
    assert len({row for person in people for row in person}) == 12
    assert people == mixed_people(TOPICS, seed=1) != mixed_people(TOPICS, seed=2)
    cases = retrieval_among_topics(people, HashingEmbedder(), progress([]))
    assert cases["one_of_each_first"].ours == 1.0 and cases["one_of_each_first"].more["questions"] == 12


def test_recall_is_from_the_persons_own_preferences() -> None:
    people = mixed_people(TOPICS, seed=0)
    asked = [(person, person[0]) for person in people]
    assert recall_first(asked, HashingEmbedder()) == {person[0]: person[0].preference for person in people}


def test_choices_are_paired_and_do_not_depend_on_where_the_right_one_stands(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chooser that respects what it was shown: right with its preference, wrong without."""

    def respectful(
        engine: Engine, embedder: TextEmbedder, asked: str, options: Sequence[str], statements: Sequence[str]
    ) -> list[RankedOption]:
        avoided = statements[0].rsplit(" ", 1)[-1] if statements else ""
        knows = bool(avoided) and avoided in asked
        ranked = sorted(options, key=lambda option: option.startswith("none") != knows)
        return [RankedOption(option, 0.0, 0.0, 0.0) for option in ranked]

    monkeypatch.setattr("simulations.bench.preferences.choose", respectful)
    people, held_out = mixed_people(TOPICS, seed=0), frozenset(["sport"])
    cases = choices(engine, people, TOPICS, held_out, HashingEmbedder(), progress([]), questions=5, seed=3)
    assert set(cases) == {f"choice_{condition}" for condition in CONDITIONS[1:]}
    assert (cases["choice_right"].ours, cases["choice_right"].peer) == (1.0, 0.0)
    assert cases["choice_recalled"].ours == 1.0 and cases["choice_recalled"].more["right_one_recalled"] == 1.0
    assert cases["choice_stranger"].ours == 0.0 and cases["choice_right"].more["questions"] == 5
    assert cases["choice_right"].more["difference"] == 1.0


def test_wilson_intervals() -> None:
    assert wilson(0, 10) == pytest.approx([0.0, 0.2775], abs=1e-3)
    assert wilson(5, 10) == pytest.approx([0.2366, 0.7634], abs=1e-3)
    for count in range(1, 80):  # with 4 of 4 the upper end was rounded to less than 1
        for hits in range(count + 1):
            low, high = wilson(hits, count)
            assert 0.0 <= low <= hits / count <= high <= 1.0


def test_without_data_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENCHANT_DATA", raising=False)
    with pytest.raises(PenchantError, match="PENCHANT_DATA"):
        run()
