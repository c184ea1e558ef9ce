"""The tiny model's maps, a few people with texts of noise, and products of adapters, for the tests of strategies."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from edge_runtime.adapters.adapter_file import Factors
from simulations.strategies.lora_training import TorchTexts
from simulations.strategies.strategy import AdaptedMaps, Upload
from tests.client.framed_help import some_texts, tiny_frame, tiny_model

RANK = 3


def tiny_maps(rank: int = RANK) -> AdaptedMaps:
    """The maps of the tiny frame."""
    frame = tiny_frame()
    shapes = tuple((u.shape[0], v.shape[1]) for u, v in zip(frame.left, frame.right, strict=True))
    return AdaptedMaps(frame.modules, shapes, rank)


@cache
def person_texts(person: int) -> TorchTexts:
    """Person number ``person``'s own six texts."""
    return TorchTexts(tiny_model(), tiny_model().prepare(some_texts(6, seed=100 + person)), epochs=2, batch_size=3)


def products(adapter: Factors) -> dict[str, NDArray[np.float64]]:
    """delta W = B A of every map."""
    return {name: b.astype(np.float64) @ a.astype(np.float64) for name, (a, b) in adapter.items()}


def mean_product(adapters: list[Factors]) -> dict[str, NDArray[np.float64]]:
    """The mean of people's products."""
    all_products = [products(adapter) for adapter in adapters]
    return {name: np.mean([one[name] for one in all_products], axis=0) for name in all_products[0]}


def distance(one: dict[str, NDArray[np.float64]], other: dict[str, NDArray[np.float64]]) -> float:
    """Frobenius distance over all maps, relative to ``other``."""
    apart = sum(float(np.square(one[name] - other[name]).sum()) for name in other)
    return float(np.sqrt(apart / sum(float(np.square(value).sum()) for value in other.values())))


def mean_of(uploads: list[Upload]) -> NDArray[np.float64]:
    """The noiseless mean of the vectors."""
    return np.asarray(np.mean([upload.vector for upload in uploads], axis=0))
