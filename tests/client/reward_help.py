"""A few real devices whose owners chose between short texts by their style, and a feature map that sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from client.reward_training import device_choices
from edge_runtime.device import Device
from edge_runtime.reward.features import RewardFeatures
from edge_runtime.reward.style import STYLE_NAMES
from protocol.feature_map import FeatureMap
from protocol.reward_model import Choices

DIMENSION = 4
_ENDINGS = (
    "Of course!",
    "It is what it is, and nobody who has seen it before would ever call it anything else.",
    "Why not? What do you think?",
    "Sorry, no.",
    "Thank you so much, dear friend!!",
    "In particular, the municipal administration considers the aforementioned regulation inapplicable.",
)


def style_map(seed: int = 0) -> FeatureMap:
    """Four random projections of standardised style numbers, about 1 long."""
    texts = [("What now?", ending) for ending in _ENDINGS]
    raw = RewardFeatures(None, None, ("style",)).of(texts)
    spread = np.maximum(raw.std(0), 0.1)
    mixing = np.random.default_rng(seed).normal(size=(len(STYLE_NAMES), DIMENSION)) / np.sqrt(4 * len(STYLE_NAMES))
    return FeatureMap(("style",), "", "", raw.mean(0), (mixing / spread[:, None]).astype(np.float32))


def choose_by_style(homes: Sequence[Path], count: int = 12) -> None:
    """Even owners like the texts that score high on one style axis, odd ones those that score low."""
    feature_map, features = style_map(), RewardFeatures(None, None, ("style",))
    for number, home in enumerate(homes):
        random = np.random.default_rng(number)
        with Device.open(home) as device:
            for turn in range(count):
                prompt = f"Question {turn} of {number}?"
                one, two = (f"{_ENDINGS[i]} Item {turn}." for i in random.permutation(len(_ENDINGS))[:2])
                phi = feature_map.apply(features.of([(prompt, one), (prompt, two)]))
                taste = phi @ np.array([3.0 if number % 2 else -3.0, 1.0, 0.0, 0.0])
                chosen, rejected = (one, two) if taste[0] > taste[1] else (two, one)
                device.feedback.add_preference(prompt, chosen, rejected, said_at=f"2025-01-{turn + 1:02d}")


def choices_of(homes: Sequence[Path]) -> list[Choices]:
    """What the owners chose, as features."""
    found = []
    for home in homes:
        with Device.open(home) as device:
            found.append(device_choices(device, style_map()))
    return found
