"""phi for the items of a choice table: a feature map fitted on public texts, applied to all of them.

Public are the arguments of ukpconvarg, with nobody's judgement of them. The taste population's map sees the training
texts only, never a held-out one; the village's map sees arguments, none of the village's texts. Where items bring
features of their own (films), those are phi and no model is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.embedder_file import EMBEDDER_SHA256
from edge_runtime.models.catalogue import find_model
from protocol.feature_map import SOURCES, FeatureMap, Source, fit_feature_map
from simulations.choices.data import ChoiceSet, Item, argument_items
from simulations.choices.feature_cache import cached_features

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """`phi` (items, k), `space_sha256` that names the space, `sources` for a reader and the map, if there is one."""

    phi: Array
    sources: str
    feature_map: FeatureMap | None


def item_features(choice_set: ChoiceSet, folder: Path, sources: Sequence[Source], dimension: int) -> ItemFeatures:
    """The features of every item; `dimension` k counts the style numbers. Reads the models only for what is not yet
    in the cache.
    """
    if choice_set.item_features is not None:
        return ItemFeatures(choice_set.item_features, "genre, year, title, tags", None)
    ordered = tuple(source for source in SOURCES if source in sources)
    raw = _raw(choice_set.name, choice_set.items, ordered)
    if choice_set.name == "village":
        items = argument_items(folder)
        public, groups = _raw("ukpconvarg", items, ordered), [debate for debate, _ in items]
    else:
        shown = np.arange(len(choice_set.items))
        if choice_set.truth is not None:
            shown = np.unique(np.concatenate([person.pairs.ravel() for person in choice_set.people]))
        public = {source: block[shown] for source, block in raw.items()}
        groups = [choice_set.groups[number] for number in shown]
    feature_map = fit_feature_map(
        np.concatenate(list(public.values()), axis=1),
        {source: block.shape[1] for source, block in public.items()},
        dimension,
        base_sha256=find_model().sha256 if "hidden" in ordered else "",
        embedder_sha256=EMBEDDER_SHA256 if "embedding" in ordered else "",
        groups=groups,
    )
    phi = feature_map.apply(np.concatenate(list(raw.values()), axis=1))
    return ItemFeatures(phi, ", ".join(ordered), feature_map)


def _raw(name: str, items: Sequence[Item], sources: Sequence[Source]) -> dict[Source, NDArray[np.float32]]:
    """Raw features by source. The taste population's texts are the arguments, so both share one cache."""
    return {source: cached_features("ukpconvarg" if name == "taste" else name, items, [source]) for source in sources}


def best_linear_tastes(phi: Array, scores: Array, shown: NDArray[np.int64], groups: Sequence[str]) -> Array:
    """(k, s): for each of s scorers the linear function of phi nearest to it on the `shown` items within their groups
    (ridge, chosen by five-fold cross-validation): as much of a taste as any reward linear in phi could hold.
    """
    named = np.asarray(groups)[shown]
    features, targets = phi[shown].copy(), scores[shown].copy()
    for name in set(named.tolist()):
        own = named == name
        features[own] -= features[own].mean(axis=0)
        targets[own] -= targets[own].mean(axis=0)
    fold = np.random.default_rng(0).integers(5, size=len(shown))

    def solve(rows: NDArray[np.bool_], ridge: float) -> Array:
        gram = features[rows].T @ features[rows] + ridge * np.eye(phi.shape[1])
        return np.asarray(np.linalg.solve(gram, features[rows].T @ targets[rows]), dtype=np.float64)

    def loss(ridge: float) -> float:
        return sum(
            float(np.square(targets[fold == part] - features[fold == part] @ solve(fold != part, ridge)).sum())
            for part in range(5)
        )

    return solve(np.ones(len(shown), dtype=bool), min((0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), key=loss))
