"""The steering study: the whole of it on a tiny model, and that its tables tell taste from chance and from length."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.engine.engine import Engine
from simulations.choices import attribute_ratios
from simulations.choices.tastes import SCORERS
from simulations.datasets.prefeval import PreferenceQuestion
from simulations.studies.steering import answers as steering_answers
from simulations.studies.steering import prefeval as steering_prefeval
from simulations.studies.steering import study as steering_study
from simulations.studies.steering.people import Pool, taste_choices, taste_people, village_choices
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny

TOPICS = tuple(f"topic-{number:02d}" for number in range(6))


def topics_of(folder: Path) -> dict[str, tuple[PreferenceQuestion, ...]]:
    """Topics whose right answers ask back, for some people."""
    return {
        topic: tuple(
            PreferenceQuestion(
                topic,
                f"I like walnuts number {row}.",
                f"What of {topic}, day {row}?",
                ("Take walnuts?", "Take tea.", "Take the long bus home today.", "Stay in."),
            )
            for row in range(12)
        )
        for topic in TOPICS
    }


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with open_tiny(tmp_path) as opened:
        yield opened


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The study with a tiny model, two villagers and short answers."""
    monkeypatch.setattr(attribute_ratios, "cache_folder", lambda: tmp_path / "cache")
    for module in (steering_answers, steering_prefeval):
        monkeypatch.setattr(module, "load_prefeval", topics_of)
    for module in (steering_study, steering_prefeval):
        monkeypatch.setattr(module, "SharedEmbedder", HashingEmbedder)
    monkeypatch.setattr(steering_answers, "MAX_TOKENS", 4)
    model = open_tiny(tmp_path)
    monkeypatch.setattr(steering_study, "find_model", lambda: model.model)
    for name, value in {"VILLAGERS": 3, "FLEET": 8, "PEOPLE": 20, "BASES": 2}.items():
        monkeypatch.setattr(steering_study, name, value)
    for name, value in {"QUESTIONS": 8, "TUNING_QUESTIONS": 4, "_DIMENSIONS": 25}.items():
        monkeypatch.setattr(steering_prefeval, name, value)
    width = model.embeddings_width
    model.close()

    def hidden(name: str, pairs: Sequence[tuple[str, str]], sources: Sequence[str]) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((len(pairs), width)).astype(np.float32)

    monkeypatch.setattr(steering_study, "cached_features", hidden)
    return tmp_path / "out"


def test_the_whole_study_on_a_tiny_model_and_its_continuation(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = steering_study.run(small, small, seed=0)
    told = json.loads((small / "steering.json").read_text())
    assert told == json.loads(json.dumps(report))
    parts = {"village_choices", "taste_choices", "taste_best_of", "taste_steering", "taste_guiding", "taste_asked"}
    assert parts | {"prefeval"} < set(told)
    assert told["taste_best_of"]["best of 8, truth"]["gain"][0] >= told["taste_best_of"]["best of 4, truth"]["gain"][0]
    monkeypatch.setattr(steering_answers, "candidates", None)  # nothing is generated twice
    monkeypatch.setattr(steering_answers, "steered", None)
    monkeypatch.setattr(steering_answers, "guided", None)
    assert steering_study.run(small, small, seed=0) == report


def made_pool(seed: int, people: int = 6, each: int = 40) -> Pool:
    """Pairs whose attribute 2 tells which answer was chosen, of random lengths."""
    rng = np.random.default_rng(seed)
    count = people * each
    ratios = 0.3 * rng.standard_normal((count, 8))
    ratios[:, 2] += 0.3
    rows = tuple(np.arange(start, start + each) for start in range(0, count, each))
    return Pool((), rows, (), np.tile(np.arange(each) >= each - 10, people), ratios, rng.standard_normal(count))


def mean_of(row: object) -> float:
    assert isinstance(row, list)
    return float(row[0])


def test_villagers_with_a_taste_are_told_and_length_tells_nothing_here() -> None:
    table = village_choices(made_pool(0))
    assert mean_of(table["drift"]) > 0.7 and mean_of(table["bayes"]) > 0.7
    assert abs(mean_of(table["length rule"]) - 0.5) < 0.15


def test_taste_people_choose_by_their_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((480, len(SCORERS)))
    people = taste_people(scores, 40, seed=3)
    margins = np.stack([(scores[::2] - scores[1::2]) @ person.taste * person.sides for person in people])
    assert 0.7 < np.mean(margins > 0) < 0.95
    # attributes that are the scores themselves
    pool = made_pool(2)
    apart = scores[::2] - scores[1::2]
    exact = Pool((), pool.rows, (), pool.held_out, apart[:, 1:], apart[:, 0])
    table = taste_choices(exact, people, seed=0)
    few, many = (table[str(count)]["bayes"] for count in (25, 50))  # type: ignore[index]
    assert mean_of(many) > mean_of(few) > 0.55


def lengths_and_rewards(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = 0.2 * rng.standard_normal((30, 8))
    return lengths, 5.0 * lengths[None] + rng.standard_normal((4, 30, 8))


def test_a_reward_that_is_mostly_length_gains_length_without_control_only() -> None:
    lengths, rewards = lengths_and_rewards(0)
    truth = rewards - 5.0 * lengths[None]
    table = steering_study.best_of_table(rewards, np.full(4, 5.0), truth, lengths)
    assert _ratio(table["best of 8, none"]) > 1.15
    assert abs(_ratio(table["best of 8, slope and band"]) - 1.0) < 0.05
    assert _gain(table["best of 8, slope and band"]) > _gain(table["best of 8, none"]) > 0
    assert _gain(table["best of 8, slope and band"]) > _gain(table["best of 4, slope and band"])
    assert abs(_gain(table["best of 8, stranger"])) < 0.4 * _gain(table["best of 8, slope and band"])


def test_an_attribute_that_pleases_everywhere_is_asked_for_and_a_strangers_is_not() -> None:
    rng = np.random.default_rng(5)
    truth = 0.3 * rng.standard_normal((4, 12, 9))
    for person in range(4):
        truth[person, :, 1 + person] += 1.0
    table = steering_study.asked_table(truth, np.zeros(4), truth, np.zeros((12, 9)))
    assert _gain(table["asked for own attribute"]) > 0.8
    assert abs(_gain(table["asked for stranger's attribute"])) < 0.3
    assert _gain(table["best of attributes, own"]) > _gain(table["asked for own attribute"])


def test_answers_are_made_once(tmp_path: Path) -> None:
    answers = steering_answers.Answers.open(tmp_path / "answers.json")
    assert answers.get(["a", "b"], lambda: ["1", "2"]) == ["1", "2"]

    def never() -> Sequence[str]:
        raise AssertionError

    assert steering_answers.Answers.open(tmp_path / "answers.json").get(["b"], never) == ["2"]


def _gain(row: object) -> float:
    assert isinstance(row, dict)
    return float(row["gain"][0])


def _ratio(row: object) -> float:
    assert isinstance(row, dict)
    return float(row["length_ratio"][0])
