"""The summary benchmark on the tiny model: what each arm's prompt holds, and how the arms are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.engine.engine import Engine
from protocol.errors import PenchantError
from simulations.bench import summary
from simulations.bench.summary import ARMS, KINDS, Scored, run, score_person
from simulations.people import Fact, Message, Person
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny

PERSON = Person(
    id="ada",
    name="Ada",
    about="",
    role="fleet",
    train_messages=tuple(
        Message(
            f"2025-01-{day:02d}",
            "Tell Leo about the kiln",
            f"I live in Ghent. The kiln had red{day} and blue{day} with green{day}, was kiln day, Leo!",
        )
        for day in range(1, 21)
    ),
    test_messages=(Message("2025-03-01", "Tell Leo about the kiln day", "Kiln again."),),
    facts=(Fact("2025-03-02", "What was kiln day?", "Kiln day."),),
    train_choices=(),
    test_choices=(),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("summary"), context_tokens=8192) as opened:
        yield opened


def test_each_arm_shows_what_it_says_and_scores_the_same_reply(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []
    replies: list[list[int]] = []
    score = engine.score

    def recorded(prefix, continuations):  # type: ignore[no-untyped-def]
        prompts.append(engine.detokenise(prefix, special=True))
        replies.append(list(continuations[0]))
        return score(prefix, continuations)

    monkeypatch.setattr(engine, "score", recorded)
    results = score_person(engine, PERSON, HashingEmbedder(), messages=1, facts=1, k=8)
    assert set(results) == {(kind, arm) for kind in KINDS for arm in ARMS}
    by_arm = dict(zip([(kind, arm) for kind in KINDS for arm in ARMS], prompts, strict=True))
    for kind in KINDS:
        own = {arm: by_arm[kind, arm].count("was kiln day, Leo!") for arm in ARMS}
        assert own == {"all": 8, "summary+quarter": 2, "quarter": 2, "summary": 0, "none": 0}
        assert by_arm[kind, "summary"] != by_arm[kind, "none"]
        assert results[kind, "all"].prompt_tokens > results[kind, "quarter"].prompt_tokens
        assert len({results[kind, arm].tokens for arm in ARMS}) == 1
    assert "There is no note about this." in by_arm["facts", "none"]
    assert len({tuple(reply) for reply in replies}) == 2 and all(
        reply[-1] == engine.end_of_turn[0] for reply in replies
    )
    assert all(np.isfinite(one.loss) and one.loss > 0 for one in results.values())


def test_the_difference_is_paired_over_people(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    """Losses differ by person, the difference between arms does not: its interval is narrow."""
    people = [replace(PERSON, id=str(number)) for number in range(6)]

    def fixed(engine, person, embedder, **sizes):  # type: ignore[no-untyped-def]
        base = 2.0 + int(person.id)
        shift = {"all": 0.0, "summary+quarter": -0.1, "quarter": 0.2, "summary": 0.5, "none": 1.0}
        return {(kind, arm): Scored(10 * (base + shift[arm]), 10, 50) for kind in KINDS for arm in ARMS}

    class Closing:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(summary, "load_village", lambda: people)
    monkeypatch.setattr(summary, "score_person", fixed)
    monkeypatch.setattr(summary, "find_model", lambda: None)
    monkeypatch.setattr(summary.Engine, "open", lambda *_, **__: Closing())
    seen: list[float] = []
    cases = run(lambda stage, fraction: seen.append(fraction), people=5)
    case = cases["messages"]
    assert (case.ours, case.peer) == (pytest.approx(3.9), pytest.approx(4.0)) and case.more["people"] == 5
    mean, low, high = case.more["difference_to_all"]["quarter"]
    assert mean == pytest.approx(0.2) and high - low < 1e-6
    assert case.more["no_worse_than_all"] is True and seen[-1] == 1.0
    assert case.more["summary+quarter_to_quarter"][0] == pytest.approx(-0.3)


def test_too_few_memories_or_people_are_refused() -> None:
    for bad in ({"k": 3}, {"people": 1}):
        with pytest.raises(PenchantError, match="at least 2 people and k of 4"):
            run(**bad)
