"""What a device computes for a round on reward bases: its owner's choices, through `protocol.reward_rounds`.

No training library: the features come from the model file that serves (llama.cpp) or from the retrieval embedder, and
what follows is some milliseconds of numpy. The owner's weights on the directions are fitted anew for every round and
live no longer than it; what leaves is one bounded vector inside the masked sum.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from client.work import LocalUpdate
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import find_model
from edge_runtime.reward.features import Pair, RewardFeatures
from protocol.bank import Bank
from protocol.coordinates import Coordinates
from protocol.feature_map import FeatureMap
from protocol.messages import RoundTask
from protocol.reward_model import FIRST, Array, ChoiceBatch, Choices
from protocol.reward_rounds import RewardWorkOrder, contribution

MOST_CHOICES = 200  # the newest; a few seconds of reading the first time, kept in the vault afterwards
CONTEXT_TOKENS = 2048

_engine_lock = threading.Lock()

PhiOf = Callable[[Device, FeatureMap, Sequence[Pair]], Array]


class RewardWork:
    """``client.work.LocalWork`` in reward space. ``phi_of`` gives the features (n, k) of (prompt, answer) pairs."""

    def __init__(self, device: Device, phi_of: PhiOf | None = None) -> None:
        self._device = device
        self._phi_of = phi_of or device_features

    def compute(self, task: RoundTask, artefacts: Mapping[str, bytes]) -> LocalUpdate:
        """The vector that the task asks for. Raises PenchantError if task, model and artefacts do not belong together.

        An owner who has made no choices adds zero, as if they were not there.
        """
        feature_map = FeatureMap.from_bytes(artefacts["feature_map"])
        digest, k = feature_map.digest, feature_map.dimension
        order = RewardWorkOrder.of(task, k)
        bank = Bank.from_bytes(artefacts["bank"], space_sha256=digest, dimension=k)
        whitening = Coordinates.from_bytes(artefacts["whitening"], frame_sha256=digest, dimension=k).rows
        choices = device_choices(self._device, feature_map, self._phi_of)
        given = contribution(ChoiceBatch.of([choices]), order, bank, whitening)
        count = int(given.counts[0])
        return LocalUpdate(given.vectors[0], float(given.loss[0] * count), count)


def device_choices(device: Device, feature_map: FeatureMap, phi_of: PhiOf | None = None) -> Choices:
    """The owner's newest choices, oldest first: the first answer of each is the chosen one."""
    preferences = device.feedback.preferences()[-MOST_CHOICES:]
    if not preferences:
        return Choices(np.zeros((0, feature_map.dimension)), np.zeros(0))
    pairs = [(one.prompt, answer) for one in preferences for answer in (one.chosen, one.rejected)]
    phi = (phi_of or device_features)(device, feature_map, pairs)
    return Choices(phi[::2] - phi[1::2], np.full(len(preferences), FIRST))


def device_features(device: Device, feature_map: FeatureMap, pairs: Sequence[Pair]) -> Array:
    """phi of each pair (n, k), from this device's model and embedder; raw features are kept in its vault.

    Raises PenchantError if the map was made for another model.
    """
    with _engine_lock:
        engine = _open_engine() if "hidden" in feature_map.sources else None
        embedder = device.embedder if "embedding" in feature_map.sources else None
        features = RewardFeatures(engine, embedder, feature_map.sources, vault=device.vault)
        features.check(feature_map)
        return feature_map.apply(features.of(pairs))


@lru_cache(maxsize=1)
def _open_engine() -> Engine:
    """The engine of this process, on the model that PENCHANT_MODEL names, else the bundled one."""
    chosen = os.environ.get("PENCHANT_MODEL")
    return Engine.open(find_model(chosen) if chosen else find_model(), context_tokens=CONTEXT_TOKENS)
