"""The metrics on cases worked out by hand, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulations.benchmarks.metrics import accuracy, macro_f1, mae, mean_of, meteor, nats, overlap, pooled, rmse, scores

CHOICES = [{"gold": gold, "chosen": chosen} for gold, chosen in ((0, 0), (0, 2), (1, 1), (2, 2))]


def test_choices() -> None:
    assert accuracy(CHOICES) == 0.75
    assert mae(CHOICES) == 0.5 and rmse(CHOICES) == 1.0
    # label 0: P 1, R 1/2 -> 2/3; label 1: 1; label 2: P 1/2, R 1 -> 2/3
    assert macro_f1(CHOICES, 3) == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert macro_f1(CHOICES, 4) == pytest.approx((2 / 3 + 1 + 2 / 3) / 4)  # a label that nobody has counts nothing


def test_macro_f1_is_that_of_scikit_learn() -> None:
    f1_score = pytest.importorskip("sklearn.metrics").f1_score
    random = np.random.default_rng(3)
    gold, chosen = random.integers(0, 5, 60), random.integers(0, 4, 60)
    rows = [{"gold": int(a), "chosen": int(b)} for a, b in zip(gold, chosen, strict=True)]
    expected = f1_score(gold, chosen, labels=list(range(6)), average="macro", zero_division=0)
    assert macro_f1(rows, 6) == pytest.approx(expected)


def test_rouge() -> None:
    found = overlap("the cat sat on the mat", "the cat lay on a mat")
    assert found["rouge1"] == pytest.approx(2 / 3)  # the, cat, on, mat of six and six
    assert found["rougeL"] == pytest.approx(2 / 3)
    turned = overlap("one two three four", "four three two one")
    assert turned["rouge1"] == 1.0 and turned["rougeL"] == pytest.approx(0.25)
    assert overlap("one two", "") == {"rouge1": 0.0, "rougeL": 0.0, "meteor": 0.0}


def test_meteor_matches_stems_and_minds_the_order() -> None:
    # matches / precision = recall = 1; one chunk of three words: penalty 0.5 (1/3)^3
    assert meteor("cats sat down", "cat sat down") == pytest.approx(1 - 0.5 / 27)
    assert meteor("one two three", "three two one") == pytest.approx(0.5)  # three chunks
    # two of four words right, none too many: P 1, R 1/2, F 10 P R / (R + 9 P) = 10/19, one chunk of two
    assert meteor("red green blue grey", "red green") == pytest.approx(10 / 19 * (1 - 0.5 / 8))
    assert meteor("a car", "an automobile") == 0.0


def test_nats_are_over_all_tokens_and_other_values_over_queries() -> None:
    rows = [{"nats": 10.0, "tokens": 5}, {"nats": 2.0, "tokens": 1, "found": 0.5}, {"nats": 0.0, "tokens": 6}]
    assert nats(rows) == 1.0 and mean_of("found", rows) == 0.5


def test_a_person_gets_the_scores_that_the_outcomes_allow() -> None:
    assert scores(CHOICES, "accuracy") == {"accuracy": 0.75}
    assert scores(CHOICES, "mae") == {"accuracy": 0.75, "mae": 0.5}
    told = [{"nats": 3.0, "tokens": 2, "rouge1": 0.2, "rougeL": 0.1}]
    assert scores(told, "rouge1") == {"nats": 1.5, "rouge1": 0.2, "rougeL": 0.1}


def test_pooled_scores_need_labels() -> None:
    assert pooled(CHOICES, 0, "accuracy") == {}
    assert set(pooled(CHOICES, 3, "accuracy")) == {"macro_f1"}
    assert math.isclose(pooled(CHOICES, 3, "mae")["rmse"], 1.0)
