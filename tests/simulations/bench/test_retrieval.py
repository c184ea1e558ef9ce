"""The retrieval benchmark measures a real search of a real encrypted file (small here)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from protocol.errors import PenchantError
from simulations.bench.retrieval import _texts, run


def test_both_sides_are_measured_and_the_search_finds() -> None:
    stages: list[str] = []
    case = run(300, 5, on_progress=lambda stage, share: stages.append(stage))["hybrid_20k"]
    assert case.unit == "ms" and case.ours > 0 and case.peer is not None and case.peer > 0
    assert case.more["chunks"] == 300 and case.more["queries"] == 5 and case.more["found_mean"] >= 1
    assert case.more["file_megabytes"] > 300 * 384 * 4 / 1e6  # the vectors are in it
    assert set(stages) == {"storing chunks", "searching"}
    json.dumps(case.to_dict())


def test_texts_are_seeded_distinct_and_of_many_words() -> None:
    texts = _texts(np.random.default_rng(3), 500)
    assert texts == _texts(np.random.default_rng(3), 500) and len(set(texts)) == 500
    assert len({word for text in texts for word in text.split()}) > 3_000


def test_nothing_to_measure_is_one_clear_line() -> None:
    with pytest.raises(PenchantError, match="at least one"):
        run(0, 1)
