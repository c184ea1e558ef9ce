"""The lifelong study: years are cut without leaks, every arm starts alike, and the sums are right."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from client.examples import Example, prepare_input
from client.lifelong import LifelongSettings, next_increment
from client.torch_model import TorchModel
from client.training_work import TextSettings, TextWork
from edge_runtime.models.catalogue import describe_model
from protocol.errors import PenchantError
from simulations.studies.lifelong import study
from simulations.studies.lifelong.people import Year, YearSplit, load_years, year_of
from simulations.studies.lifelong.plot import draw
from simulations.studies.personal_fleet import Workshop
from tests.client.framed_help import TOP_LAYERS, tiny_gguf

SPLIT = YearSplit(increments=3, size=2, future=2, cue_words=2, reply_words=4, days=5)


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    model = describe_model(tiny_gguf())
    torch_model = TorchModel.load(model.path, top_layers=TOP_LAYERS, dtype=torch.float32)
    with closing(Workshop(model, torch_model)) as opened:
        yield opened


def post(person: str, number: int) -> str:
    return " ".join(f"{person}{number}{chr(97 + word)}" for word in range(12))


def data(folder: Path) -> Path:
    """Blogs a, b (a's under another name), c (all in one day), d (too short), e; novels n."""

    def rows(person: str, count: int, every: int = 1) -> list[list[str]]:
        start = date(2004, 1, 1)
        return [[(start + timedelta(days=n * every)).isoformat(), post(person, n)] for n in range(count)]

    blogs = [
        {"user": "a", "train": rows("a", 9)[3:7], "val": rows("a", 9)[7:], "test": rows("a", 9)[:3]},
        {"user": "b", "train": rows("a", 9), "val": [], "test": []},
        {
            "user": "c",
            "train": rows("c", 9, every=0),
            "val": [],
            "test": [],
        },
        {"user": "d", "train": rows("d", 7), "val": [], "test": []},
        {"user": "e", "train": rows("e", 8), "val": [], "test": []},
    ]
    texts = [post("n", number) for number in range(10)]
    novels = [{"user": "X_n", "author": "X", "year": 1900, "train": [*texts[:6], "short"], "test": texts[6:]}]
    for name, records in (("blogs/fleet", blogs), ("novels/novels", novels)):
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    return folder


def words_of(shop: Workshop, part: tuple[Example, ...]) -> list[str]:
    return [shop.engine.detokenise(list(each.tokens[each.prompt_length :])).strip() for each in part]


def test_a_year_is_cut_in_time_and_the_held_out_words_are_never_taught(shop: Workshop, tmp_path: Path) -> None:
    folder = data(tmp_path)
    for source, person in (("blogs", "a"), ("novels", "n")):
        years = load_years(folder, source, shop.engine, replace(SPLIT, seed=1), 2 if source == "blogs" else 1)
        year = next(year for year in years if person in words_of(shop, year.taught[0])[0])
        newest = {"a": 1, "n": 2}[person]  # eight of nine, eight of ten
        for number in range(3):
            texts = [post(person, newest + 2 * number + place).split() for place in range(2)]
            assert words_of(shop, year.taught[number]) == [" ".join(text[2:6]) for text in texts]
            assert words_of(shop, year.held_out[number]) == [" ".join(text[8:12]) for text in texts]
        assert words_of(shop, year.future) == [
            " ".join(post(person, newest + number).split()[2:6]) for number in (6, 7)
        ]


def test_people_with_too_little_or_somebody_elses_texts_are_left_out(shop: Workshop, tmp_path: Path) -> None:
    folder = data(tmp_path)
    found = {year.id for year in load_years(folder, "blogs", shop.engine, SPLIT, 2)}
    assert len(found) == 2 and not any(name in found for name in ("blogs-c", "blogs-d")) and "blogs-e" in found
    with pytest.raises(PenchantError, match="ask for fewer"):
        load_years(folder, "blogs", shop.engine, SPLIT, 3)
    with pytest.raises(PenchantError, match="no source"):
        load_years(folder, "letters", shop.engine, SPLIT, 1)


def year_of_noise(shop: Workshop, split: YearSplit) -> Year:
    return year_of("blogs-z", [("", post("z", number)) for number in range(split.texts)], "blogs", shop.engine, split)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "MEASURED", (1, 2, 3))
    monkeypatch.setattr(study, "SCRATCH_MEASURED", (1, 3))


def test_the_steps_are_those_of_the_products_work(shop: Workshop) -> None:
    examples = year_of_noise(shop, SPLIT).taught[0] * 2
    texts = prepare_input(examples)
    ours = study.RowsWork(
        shop.torch_model, shop.lora, shop.torch_model.prepare(texts), range(4), study.Recipe(2, 2, 0.1)
    )
    theirs = TextWork(
        shop.torch_model, shop.lora, texts, [], TextSettings(2, batch_size=2, learning_rate=0.1), max_tokens=160
    )
    theta = shop.lora.start(1) + np.float32(0.01) * np.random.default_rng(2).normal(size=shop.lora.dimension).astype(
        np.float32
    )
    assert (ours.steps, ours.learning_rate, ours.check(theta, 2)) == (theirs.steps, 0.1, None)
    for step in range(ours.steps):
        expected = theirs.gradient(theta, 7, step, 9)
        assert np.allclose(ours.gradient(theta, 7, step, 9), expected, rtol=1e-4, atol=1e-6)


def test_arms_share_the_first_increment_and_cost_what_they_differentiate(shop: Workshop, short: None) -> None:
    year, recipe = year_of_noise(shop, SPLIT), study.Recipe(epochs=2, batch_size=2, learning_rate=0.05)
    arms = {
        "naive": study.NOTHING,
        "replay": LifelongSettings(recent=1, replayed=1, strength=0.0),
        "anchoring": replace(study.NOTHING, strength=5.0),
    }
    rows, ends = study.study_year(shop, year, SPLIT, recipe, arms)
    for kind in ("taught", "first", "current", "future"):
        assert len({rows[arm]["1"][kind] for arm in (*arms, "scratch")}) == 1
    assert rows["none"]["1"]["taught"] == rows["none"]["3"]["taught"] > rows["naive"]["1"]["taught"]
    taught = [2 * 2 * 3, 2 * (2 + 4 + 4), 2 * 2 * 3, 2 * (2 + 4 + 6)]
    assert [rows[arm]["3"]["cost"] for arm in (*arms, "scratch")] == taught
    moved = {arm: float(np.linalg.norm(ends[arm] - ends["naive"])) for arm in arms}
    assert moved["naive"] == 0 < min(moved["replay"], moved["anchoring"])
    assert np.array_equal(ends["none"], shop.lora.start(0)) and "2" not in rows["scratch"]
    scored = study.gguf_losses(shop, year, ends)
    assert scored["naive"]["taught"] == pytest.approx(rows["naive"]["3"]["taught"], rel=1e-3)


def test_the_summary_pairs_people_and_the_picture_is_drawn(tmp_path: Path, short: None) -> None:
    def person(shift: float) -> dict[str, object]:
        def row(base: float, cost: float) -> dict[str, float]:
            return {"taught": base + shift, "first": base, "current": base, "future": base, "cost": cost}

        arms = {arm: {number: row(4.0, 0.0) for number in ("1", "2", "3")} for arm in ("none", *study.ARMS)}
        arms["naive"]["3"] = row(4.5 + shift, 12.0)
        return {
            "arms": arms | {"scratch": {"1": row(4.0, 2.0), "3": row(3.0, 24.0)}},
            "gguf": {"scratch": {"taught": 1.0}, "naive": {"taught": 2.0}},
        }

    found = study.summary({"x": person(0.0), "y": person(1.0)})
    assert found["lost"]["naive"]["taught"][0] == pytest.approx(1.0)
    assert found["lost"]["naive"]["taught"][1] < 0 < found["lost"]["naive"]["taught"][2] - 1
    assert found["against_scratch"]["naive"]["first"] == pytest.approx((2.0, -4.353, 8.353), abs=1e-2)
    assert found["against_naive"]["replay"]["current"][0] == pytest.approx(-1.0)
    assert (found["people"], found["cost"]["naive"]) == (2, 12.0)
    assert found["gguf"]["against_scratch"]["naive"]["taught"] == pytest.approx((1.0, 1.0, 1.0))
    draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_one_arm_is_the_products_default_and_each_tries_one_thing() -> None:
    increment = next_increment(range(50), str, None, study.ARMS["anchoring"])
    assert increment.items == tuple(range(50)) and study.ARMS["anchoring"] == LifelongSettings()
    assert study.ARMS["anchoring"].recent == study.ARMS["anchoring"].replayed == 0 < study.ARMS["anchoring"].strength
    assert study.ARMS["replay"].strength == 0 < min(study.ARMS["replay"].recent, study.ARMS["replay"].replayed)
