"""The four arms on a tiny model: every arm is what it says, and a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.device_profile import ALL_KINDS
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import describe_model
from protocol.errors import PenchantError
from simulations.benchmarks.form import Benchmark, Query, Task
from simulations.benchmarks.four_arms import Notes, Study, run, tuned_on
from simulations.benchmarks.four_arms_people import (
    Opened,
    Recipe,
    chat_of,
    evidence_found,
    outcome,
    outcomes,
    prompt_of,
    recalled,
    train_personal,
)
from simulations.benchmarks.four_arms_tables import ARMS, read_set, write_tables
from simulations.people import Message
from simulations.studies.personal_fleet import device_of
from simulations.studies.rows import HEADING, RESULTS
from tests.client.framed_help import tiny_gguf, tiny_model
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.simulations.studies.history_help import person_of

RECIPE = Recipe(rank=2, passes=3, learning_rate=1e-2, newest=8, max_tokens=400)


def writer(name: str) -> Task:
    """Somebody whose texts are all alike, and unlike anybody else's."""
    person = person_of(name, 8, 2)
    return Task(name, person.train_messages, tuple(Query(one.cue, one.text) for one in person.test_messages))


WRITERS = Benchmark("diaries", "writing", "nats", tuple(map(writer, ("ann", "ben", "cleo"))), (writer("dora"),))


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    model = describe_model(tiny_gguf())
    with Engine.open(model, context_tokens=2048, threads=1) as engine:
        yield Opened(model, tiny_model(), engine, HashingEmbedder())


@pytest.fixture(scope="module")
def finished(opened: Opened, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    out = tmp_path_factory.mktemp("arms")
    study = Study(opened, WRITERS, RECIPE, out / "diaries")
    run(study, lambda line: None)
    return study, out


def test_every_arm_is_scored_for_everybody(finished: tuple[Study, Path]) -> None:
    study, out = finished
    document = read_set(study.out)
    assert [row["person"] for row in document["people"]] == ["ann", "ben", "cleo"]
    for row in document["people"]:
        assert list(row["arms"]) == list(ARMS) and row["history"] == 8
        assert all(len(found) == 2 for found in row["arms"].values())
        total = {arm: sum(one["nats"] for one in found) for arm, found in row["arms"].items()}
        # One person's texts are all alike, and unlike another's: what is their own helps, what is a stranger's less.
        assert total["peft"] < total["none"] and total["peft"] < total["stranger_adapter"]
    text = write_tables(out)
    assert "diaries, nats per token | 3 (6)" in text and (out / "four_arms.png").stat().st_size > 1000


def test_an_arm_is_what_its_name_says(finished: tuple[Study, Path], opened: Opened) -> None:
    study, _ = finished
    arms = read_set(study.out)["people"][1]["arms"]
    ann, ben = WRITERS.tasks[:2]
    none: Notes = [[] for _ in ben.queries]
    with device_of(ben.history, HashingEmbedder()) as device:
        own = [recalled(device, query, "writing") for query in ben.queries]
        assert all(own)
        adapter = train_personal(opened, device, RECIPE)
    with device_of(ann.history, HashingEmbedder()) as device:
        other = [recalled(device, query, "writing") for query in ben.queries]
    assert study.adapter(1) == adapter != study.adapter(0)
    expected = {
        "none": (none, None),
        "rag": (own, None),
        "peft": (none, adapter),
        "rag+peft": (own, adapter),
        "stranger_memory": (other, None),
        "stranger_adapter": (none, study.adapter(0)),
    }
    for arm, (notes, weights) in expected.items():
        found = outcomes(opened, WRITERS, ben, notes, weights)
        assert [one["nats"] for one in found] == pytest.approx([one["nats"] for one in arms[arm]]), arm


def test_a_killed_run_goes_on_and_other_settings_are_kept_apart(
    finished: tuple[Study, Path], opened: Opened, tmp_path: Path
) -> None:
    study, _ = finished
    whole = (study.out / RESULTS).read_text().splitlines(keepends=True)
    again = Study(opened, WRITERS, RECIPE, tmp_path / "diaries")
    again.out.mkdir()
    (again.out / RESULTS).write_text(whole[0] + whole[1][:40])
    told: list[str] = []
    run(again, told.append)
    assert len(told) == 2 and "0 min left" in told[-1]
    arms = {row["person"]: row["arms"] for row in read_set(again.out)["people"]}
    assert arms == {row["person"]: row["arms"] for row in read_set(study.out)["people"]}
    run(again, told.append)
    assert len(told) == 2  # nothing is missing
    other = Study(opened, WRITERS, replace(RECIPE, passes=1), again.out)
    assert other.of != again.of
    (again.out / HEADING).write_text(json.dumps(other.heading()))
    assert read_set(again.out)["people"] == []


def test_only_the_newest_texts_that_leave_room_are_trained_on(opened: Opened) -> None:
    task = writer("ann")
    with device_of(task.history, HashingEmbedder()) as device:
        newest = train_personal(opened, device, replace(RECIPE, newest=3))
        with pytest.raises(PenchantError, match="leaves room for a reply within 40 tokens"):
            train_personal(opened, device, replace(RECIPE, max_tokens=40))
    with device_of(task.history[-3:], HashingEmbedder()) as device:
        assert train_personal(opened, device, RECIPE) == newest
    assert len(ALL_KINDS) == 7


def test_options_are_ranked_by_mean_log_probability(opened: Opened) -> None:
    choices = Benchmark("choices", "writing", "accuracy", ())
    query = Query("Which one?", "a b", ("a b", "zzzzzzzzzzzz", "the and"))
    found = outcome(opened, choices, query, [])
    engine = opened.engine
    prompt = prompt_of(engine, choices, query, [])
    means = [engine.score(prompt, [engine.tokenise(text, special=False)])[0].mean() for text in query.options]
    assert found == {"gold": 0, "chosen": means.index(max(means))}


def test_advice_is_the_products_choice(opened: Opened) -> None:
    advice = Benchmark("advice", "advice", "accuracy", ())
    query = Query("Which fish soup should I eat?", "fish soup", ("apple cake", "fish soup"))
    likes = [Message("2020-01-01", "", "I love fish soup"), Message("2020-01-02", "", "I run")]
    with device_of(likes, HashingEmbedder()) as device:
        notes = recalled(device, query, "advice")
        assert len(notes) == 1
    assert outcome(opened, advice, query, notes) == {"gold": 1, "chosen": 1}


def test_questions_are_asked_with_notes_and_evidence_is_counted(opened: Opened) -> None:
    history = (Message("2020-01-01", "", "My kiln is blue"), Message("2020-01-02", "Hm?", "The kiln weighs a ton"))
    task = Task("ann", history, (Query("What colour is my kiln?", "blue", (), frozenset({0, 1})),))
    query = task.queries[0]
    with device_of(history, HashingEmbedder()) as device:
        notes = recalled(device, query, "question")
    assert evidence_found(task, query, notes) == len(notes) / 2 > 0
    assert evidence_found(task, query, []) == 0.0
    assert any("My kiln is blue" in turn.content for turn in chat_of("question", query, notes))
    assert any("no note about this" in turn.content for turn in chat_of("question", query, []))
    found = outcome(opened, Benchmark("chats", "question", "nats", ()), query, notes)
    assert set(found) == {"nats", "tokens"} and found["tokens"] == len("blue") + 1


def test_generations_are_scored_beside_the_gold(opened: Opened) -> None:
    headlines = Benchmark("headlines", "writing", "rouge1", (), answer_tokens=8)
    found = outcome(opened, headlines, Query("Write a headline", "the and the"), [])
    assert set(found) == {"nats", "tokens", "rouge1", "rougeL", "meteor"}
    assert 0 <= found["rougeL"] <= found["rouge1"] <= 1


def test_notes_that_do_not_fit_are_left_out_and_a_query_that_does_not_fit_is_refused(opened: Opened) -> None:
    history = [Message("2020-01-01", "Say kiln", "kiln " * 400), Message("2020-01-02", "Say kiln now", "kiln now")]
    query = Query("Say kiln", "kiln")
    with device_of(history, HashingEmbedder()) as device:
        notes = recalled(device, query, "writing")
    assert len(notes) == 2
    assert len(prompt_of(opened.engine, WRITERS, query, notes)) <= opened.engine.context_tokens - 64
    with pytest.raises(PenchantError, match="shorten its input"):
        prompt_of(opened.engine, WRITERS, Query("kiln " * 500, "kiln"), notes)


def test_the_tuning_people_take_the_place_of_the_reported_ones() -> None:
    assert [task.person for task in tuned_on(WRITERS).tasks] == ["dora"]


def test_one_person_has_no_stranger(opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="two people or more"):
        Study(opened, tuned_on(WRITERS), RECIPE, tmp_path)
