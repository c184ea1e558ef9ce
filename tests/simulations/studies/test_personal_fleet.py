"""Groups of people with a long history, and a workshop that trains and scores as the product does."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.examples import message_examples, prepare_input
from client.training_run import RunPlan, open_run, result_of, run_training
from client.training_work import TextSettings, TextWork
from protocol.errors import PenchantError
from simulations.people import Person
from simulations.studies.personal_fleet import (
    ROWS_AT_ONCE,
    HistorySplit,
    Workshop,
    device_of,
    load_groups,
    run_work,
)
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.simulations.studies.history_help import person_of, tiny_shop

SPLIT = HistorySplit(
    "blogs", judged=3, tuning=2, fleet=2, history=8, fleet_history=3, minimum_words=6, cue_words=2, max_words=4
)


def post(user: str, number: int, words: int = 9) -> str:
    return " ".join(f"{user}-{number}-{word}" for word in range(words))


def blog(user: str, train: int = 6, val: int = 2, test: int = 3) -> dict[str, Any]:
    """Posts on one day each, every third test post too short to count."""
    dated = [[f"2004-01-{day + 1:02d}", post(user, day)] for day in range(train + val + test)]
    dated[-2][1] = post(user, 99, words=5)
    return {"user": user, "train": dated[:train], "val": dated[train : train + val], "test": dated[train + val :]}


def write(folder: Path, source: str, file: str, records: list[dict[str, Any]]) -> None:
    (folder / source).mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / source / file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)


def texts_of(person: Person) -> set[str]:
    return {row.text for row in (*person.train_messages, *person.test_messages)}


def test_the_newest_texts_are_held_out_and_the_ones_before_are_the_history(tmp_path: Path) -> None:
    write(tmp_path, "blogs", "fleet.jsonl.gz", [blog(f"b{n}") for n in range(9)])
    groups = load_groups(tmp_path, SPLIT)
    assert (len(groups.judged), len(groups.tuning), len(groups.fleet), groups.candidates) == (3, 2, 2, 9)
    for person in (*groups.judged, *groups.tuning):
        assert [row.date[-2:] for row in person.test_messages] == ["09", "11"]  # the 10th is too short
        assert [row.date[-2:] for row in person.train_messages] == [f"{day:02d}" for day in range(1, 9)]
    everybody = [texts_of(person) for person in (*groups.judged, *groups.tuning, *groups.fleet)]
    assert len(set.union(*everybody)) == sum(map(len, everybody))  # no text in two groups


def test_a_longer_list_begins_with_the_shorter_and_another_seed_chooses_others(tmp_path: Path) -> None:
    write(tmp_path, "blogs", "fleet.jsonl.gz", [blog(f"b{n}") for n in range(9)])
    names = [person.id for person in load_groups(tmp_path, SPLIT).judged]
    more = load_groups(tmp_path, replace(SPLIT, judged=5))
    assert [person.id for person in more.judged[:3]] == names
    assert [person.id for person in load_groups(tmp_path, replace(SPLIT, seed=1)).judged] != names


def test_people_without_the_history_are_left_for_the_fleet_and_copies_for_nobody(tmp_path: Path) -> None:
    copied = blog("b0") | {"user": "twin"}
    short = blog("short", train=3)
    write(tmp_path, "blogs", "fleet.jsonl.gz", [*(blog(f"b{n}") for n in range(5)), copied, short])
    groups = load_groups(tmp_path, SPLIT)
    assert groups.candidates == 5 and [person.id for person in groups.fleet] == ["blog-fleet-short"]
    with pytest.raises(PenchantError, match="5 people have 8 texts and 2 to hold out, not 6"):
        load_groups(tmp_path, replace(SPLIT, judged=4))


def test_a_novel_gives_its_first_part_and_its_test_part(tmp_path: Path) -> None:
    records = [
        {
            "user": f"Author{n}_Title", "author": f"Author{n}", "year": 1890,
            "train": [post(f"n{n}", place) for place in range(6)],
            "test": [post(f"n{n}", place) for place in range(6, 10)],
        }
        for n in range(5)
    ]  # fmt: skip
    write(tmp_path, "novels", "novels.jsonl.gz", records)
    groups = load_groups(tmp_path, replace(SPLIT, source="novels", fleet=1))
    assert groups.candidates == 5 and groups.fleet == ()
    for person in groups.judged:
        number = person.id.removeprefix("novel-Author").removesuffix("_Title")
        assert [row.text.split()[0] for row in person.test_messages] == [f"n{number}-8-2", f"n{number}-9-2"]
        assert len(person.train_messages) == 8


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="no source 'village'"):
        load_groups(tmp_path, replace(SPLIT, source="village"))


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with tiny_shop() as opened:
        yield opened


def test_a_device_holds_the_history_and_is_gone_afterwards() -> None:
    ann = person_of("ann")
    with device_of(ann.train_messages[-5:], HashingEmbedder()) as device:
        items = device.memory.items()
        assert {(item.text, item.cue, item.said_at) for item in items} == {
            (row.text, row.cue, row.date) for row in ann.train_messages[-5:]
        }
        home = device.home
    assert not home.exists()


def test_training_is_that_of_the_product_and_shows_on_the_served_file(shop: Workshop) -> None:
    ann, split = person_of("ann"), HistorySplit("blogs")
    with device_of(ann.train_messages, HashingEmbedder()) as device:
        texts = prepare_input(message_examples(shop.engine, device, 100))
        settings = TextSettings(epochs=4, batch_size=5)
        work = TextWork(shop.torch_model, shop.frame, texts[:10], texts[10:], settings, max_tokens=200)
        start = np.zeros(shop.frame.dimension)
        theta = run_work(work, start)
        plan = RunPlan(work, "texts", "plan", ROWS_AT_ONCE)
        state = open_run(device.vault, plan, start, fresh=False, on_notice=lambda line: None)
        state = run_training(state, work, device.vault, on_progress=lambda f: None, wants_pause=lambda: None)
        assert np.array_equal(theta, result_of(state))
        held_out = shop.texts(ann, split, None)
        adapter = shop.adapter(theta, shop.frame)
        assert shop.loss(held_out, adapter) < shop.loss(held_out, None) - 0.05
        with_memory = shop.texts(ann, split, device)
    plain = [shop.engine.detokenise(text.tokens[: text.prompt_length]) for text in held_out]
    noted = [shop.engine.detokenise(text.tokens[: text.prompt_length]) for text in with_memory]
    assert all("annannannann" in prompt for prompt in noted)
    assert not any("annannannann" in prompt for prompt in plain)


def test_the_loss_is_that_of_all_tokens_of_the_held_out_texts(shop: Workshop) -> None:
    ann = person_of("ann")
    texts = shop.texts(ann, HistorySplit("blogs"), None)
    assert len(texts) == 2
    for text, message in zip(texts, ann.test_messages, strict=True):
        assert shop.engine.detokenise(text.tokens[text.prompt_length :]).strip() == message.text
    rows = [
        shop.engine.score(text.tokens[:one], [text.tokens[one:]])[0] for text in texts for one in [text.prompt_length]
    ]
    assert shop.loss(texts, None) == pytest.approx(-np.concatenate(rows).mean())


def test_a_frame_of_another_model_is_refused(shop: Workshop) -> None:
    with pytest.raises(PenchantError, match="another model file"):
        Workshop(shop.model, shop.torch_model, replace(shop.frame, base_sha256="0" * 64))
