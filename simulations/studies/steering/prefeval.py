"""PrefEval's choice among four with a reward from choices on top of `answering/choosing.py`.

A person holds one preference of every topic (`bench.preferences.mixed_people`). Their choices are made of the topics on
which nothing is tuned or asked of them: the answer that respects their preference rather than each of the other three.
The question is of another topic, so a reward can only help by what carries over from topic to topic. It is added to
the score of `choose` (likelihood and the leaning of what recall finds), times a weight that is chosen on the tuning
topics. The control is the reward of a stranger: what it gains as well is how the benchmark's right answers are
written, and no taste.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.choosing import choose
from edge_runtime.device import SharedEmbedder
from edge_runtime.engine.engine import Engine
from edge_runtime.reward.features import RewardFeatures
from protocol.feature_map import FeatureMap, fit_feature_map
from protocol.reward_model import Choices, fit_direction
from simulations.bench.preferences import TUNING_TOPICS, mixed_people, recall_first
from simulations.datasets.prefeval import PreferenceQuestion, load_prefeval
from simulations.statistics import mean_interval

__all__ = ["TUNING_TOPICS", "prefeval_choices"]

QUESTIONS: Final = 40
TUNING_QUESTIONS: Final = 12
WEIGHTS: Final = (0.0, 0.1, 0.3, 1.0)
_DIMENSIONS: Final = 48
_PRIOR_DEVIATION: Final = 2.0
Array = NDArray[np.float64]
Person = tuple[PreferenceQuestion, ...]


def prefeval_choices(
    engine: Engine, folder: Path, on_progress: Callable[[float], None], *, seed: int
) -> dict[str, object]:
    """Shares right of held-out topics: without a reward, with the person's, with a stranger's; and the differences,
    with 95 % intervals over questions.
    """
    topics = load_prefeval(folder)
    names = list(topics)
    people = mixed_people(topics, seed)
    generator = random.Random(seed)
    tuning, held_out = frozenset(names[:TUNING_TOPICS]), frozenset(names[TUNING_TOPICS:])
    asked = {
        part: generator.sample([(person, row) for person in people for row in person if row.topic in part], count)
        for part, count in ((tuning, TUNING_QUESTIONS), (held_out, QUESTIONS))
    }
    features = RewardFeatures(None, SharedEmbedder(), ["embedding", "style"])
    space = _space(features, [row for part in asked.values() for person, _ in part for row in person])
    everything = asked[tuning] + asked[held_out]
    recalled = recall_first(everything, SharedEmbedder())
    scored: list[tuple[Array, Array, Array]] = []
    for done, (person, row) in enumerate(everything):
        statement = recalled[row]
        ranked = choose(engine, SharedEmbedder(), row.question, row.options, [statement] if statement else [])
        scores = np.array([next(one.score for one in ranked if one.option == option) for option in row.options])
        phi = space.apply(features.of([(row.question, option) for option in row.options]))
        stranger = generator.choice([other for other in people if other != person])
        own, other = (phi @ _taste(features, space, one, without=row.topic) for one in (person, stranger))
        scored.append((scores, own, other))
        on_progress((done + 1) / len(everything))
    tune, test = scored[:TUNING_QUESTIONS], scored[TUNING_QUESTIONS:]
    weight = max(WEIGHTS, key=lambda one: (np.mean(_right(tune, 1, one)), -one))
    plain = _right(test, 1, 0.0)
    report: dict[str, object] = {"questions": len(test), "weight": weight, "none": float(np.mean(plain))}
    for name, which in (("own", 1), ("stranger", 2)):
        for told, used in ((name, weight), (f"{name}, weight 0.3", 0.3)):
            right = _right(test, which, used)
            report[told] = float(np.mean(right))
            report[f"{told} - none"] = [round(value, 4) for value in mean_interval((right - plain).tolist())]
    return report


def _space(features: RewardFeatures, rows: Sequence[PreferenceQuestion]) -> FeatureMap:
    """The feature map of all options that are looked at, by question."""
    seen = list(dict.fromkeys(rows))
    pairs = [(row.question, option) for row in seen for option in row.options]
    groups = [row.question for row in seen for _ in row.options]
    raw = features.of(pairs)
    return fit_feature_map(raw, features.widths, _DIMENSIONS, embedder_sha256=features.embedder_sha256, groups=groups)


def _taste(features: RewardFeatures, space: FeatureMap, person: Sequence[PreferenceQuestion], without: str) -> Array:
    """(k,) a person's direction from their choices in all topics but one."""
    rows = [row for row in person if row.topic != without]
    phi = space.apply(features.of([(row.question, option) for row in rows for option in row.options]))
    phi = phi.reshape(len(rows), -1, space.dimension)
    apart = (phi[:, :1] - phi[:, 1:]).reshape(-1, space.dimension)
    return fit_direction(Choices(apart, np.ones(len(apart))), np.zeros(space.dimension), _PRIOR_DEVIATION)


def _right(scored: Sequence[tuple[Array, Array, Array]], which: int, weight: float) -> Array:
    """1 where the first option, the right one, has the highest score."""
    return np.array([float(np.argmax(one[0] + weight * one[which]) == 0) for one in scored])
