"""phi: from what a device computes about (prompt, answer) to the k numbers that rewards are linear in.

A device computes *raw* features of D numbers, one block per source: the serving model's last hidden state ("hidden"),
the retrieval embedder's vector ("embedding") and countable surface features ("style"); ``edge_runtime/reward`` says
how. The map is affine,

    phi(x) = (raw(x) - mean) @ projection ,        mean (D,), projection (D, k),

and is a release artefact with a digest: rewards, and banks of them, mean something in the space of one map only. It is
fitted on public texts, never on anybody's choices:

1. every raw number is standardised, so that no source and no outlying coordinate of a hidden state dominates. What
   is constant in the texts is left out; a style number counts as deviating by at least 0.1 (``style.py``), so that
   one that the texts happen not to show, such as lists, is not blown up where it does occur;
2. the dense sources share a PCA; each gets the same total variance, and a direction is divided by its own standard
   deviation, but by no less than ``floor`` times the largest: a direction in which public texts hardly differ is not
   blown up into noise. Style numbers stay themselves, standardised, beside it, so that a taste in them can be read off;
3. everything is scaled so that the mean of |phi|^2 over the fitting texts is 1.

Only differences between answers to one prompt enter a choice. So ``groups`` (a label per text, such as its topic)
takes the differences between groups out of steps 1 to 3, where they would fill the leading directions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, cast

import cbor2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError
from protocol.plain_cbor import read_plain

Source = Literal["hidden", "embedding", "style"]
SOURCES: Final[tuple[Source, ...]] = ("hidden", "embedding", "style")  # the order of their blocks in raw features

FEATURES_VERSION: Final = 1  # rises whenever edge_runtime/reward computes other raw numbers from the same text
_FORMAT: Final = f"penchant-feature-map-{FEATURES_VERSION}"
MAX_FEATURE_MAP_BYTES: Final = 16 * 1024 * 1024
_CONSTANT: Final = 1e-6  # a raw number that varies less than this (relative to its size) is left out
_LEAST_STYLE_DEVIATION: Final = 0.1


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """``mean`` (D,) and ``projection`` (D, k), float32; ``base_sha256`` and ``embedder_sha256`` name the models behind
    the sources ("" for one that no source uses).
    """

    sources: tuple[Source, ...]
    base_sha256: str
    embedder_sha256: str
    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    def __post_init__(self) -> None:
        if not self.sources or self.sources != tuple(source for source in SOURCES if source in self.sources):
            raise ProtocolError(f"a feature map takes each of its sources once, in the order {', '.join(SOURCES)}")
        if bool(self.base_sha256) != ("hidden" in self.sources):
            raise ProtocolError("a feature map names its base model if, and only if, it uses hidden states")
        if bool(self.embedder_sha256) != ("embedding" in self.sources):
            raise ProtocolError("a feature map names its embedder if, and only if, it uses embeddings")
        if self.mean.ndim != 1 or self.projection.ndim != 2 or len(self.mean) != len(self.projection):
            raise ProtocolError("a feature map needs a mean (D,) and a projection (D, k)")
        if not self.projection.size or not (np.isfinite(self.mean).all() and np.isfinite(self.projection).all()):
            raise ProtocolError("a feature map must hold finite numbers, at least one")

    @property
    def raw_dimension(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def dimension(self) -> int:
        """k, the length of phi."""
        return int(self.projection.shape[1])

    def apply(self, raw: NDArray[np.floating]) -> NDArray[np.float64]:
        """phi of each row of ``raw`` (n, D): (n, k) float64."""
        if raw.ndim != 2 or raw.shape[1] != self.raw_dimension:
            raise ProtocolError(f"this feature map takes rows of {self.raw_dimension} numbers, got {raw.shape}")
        return (raw.astype(np.float64) - self.mean) @ self.projection.astype(np.float64)

    def to_bytes(self) -> bytes:
        """Canonical bytes: the same map always gives the same digest."""
        body = {
            "format": _FORMAT,
            "sources": list(self.sources),
            "base": self.base_sha256,
            "embedder": self.embedder_sha256,
            "mean": self.mean.astype("<f4").tobytes(),
            "projection": self.projection.astype("<f4").tobytes(),
        }
        return cbor2.dumps(body, canonical=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of ``to_bytes``."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes) -> FeatureMap:
        """Parse and validate a map; the caller has checked the digest. Raises ProtocolError."""
        if len(data) > MAX_FEATURE_MAP_BYTES:
            raise ProtocolError(f"the feature map is larger than {MAX_FEATURE_MAP_BYTES} bytes")
        try:
            body = read_plain(data)
            if body["format"] != _FORMAT:
                raise ProtocolError("this feature map is not of a known format; update penchant or fetch it again")
            mean = np.frombuffer(body["mean"], "<f4").astype(np.float32)
            projection = np.frombuffer(body["projection"], "<f4").reshape(len(mean), -1).astype(np.float32)
            sources = cast(tuple[Source, ...], tuple(body["sources"]))
            return FeatureMap(sources, str(body["base"]), str(body["embedder"]), mean, projection)
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError("the feature map could not be read; fetch it again from the fleet") from error


def fit_feature_map(
    raw: NDArray[np.floating],
    sources: Mapping[Source, int],
    k: int,
    *,
    base_sha256: str = "",
    embedder_sha256: str = "",
    groups: Sequence[object] | None = None,
    floor: float = 0.1,
) -> FeatureMap:
    """The map to ``k`` numbers from the raw features (n, D) of public texts.

    ``sources`` gives each block's width, in order (``RewardFeatures.widths``); ``groups`` labels the n texts. ``k``
    counts the style numbers, which stay beside the PCA. Raises ProtocolError if widths, k or numbers do not fit.
    """
    data = np.asarray(raw, dtype=np.float64)
    if data.ndim != 2 or data.shape[1] != sum(sources.values()) or not np.isfinite(data).all():
        raise ProtocolError(f"the texts' raw features must be finite, {sum(sources.values())} numbers per text")
    if groups is not None and len(groups) != len(data):
        raise ProtocolError("every text needs a group")
    if not 0 <= floor <= 1:
        raise ProtocolError("the floor is a share of the largest deviation, 0 to 1")
    mean = data.mean(axis=0)
    deviations = data - (mean if groups is None else _group_means(data, groups))
    blocks = _blocks(sources)
    spread = deviations.std(axis=0)
    varies = spread > _CONSTANT * np.maximum(np.abs(mean), 1)
    scale = np.where(varies, 1 / np.where(varies, spread, 1), 0)
    dense = [block for source, block in blocks.items() if source != "style"]
    style = blocks.get("style", slice(0, 0))
    own = style.stop - style.start
    scale[style] = 1 / np.maximum(spread[style], _LEAST_STYLE_DEVIATION)
    columns = []
    if dense:
        weights = np.zeros(data.shape[1])
        for block in dense:
            weights[block] = scale[block] / np.sqrt(block.stop - block.start)
        columns.append(weights[:, None] * _whitening(deviations * weights, k - own, floor))
    elif k != own:
        raise ProtocolError(f"style alone has k = {own}, got {k}")
    if own:
        columns.append(np.diag(scale)[:, style])
    projection = np.concatenate(columns, axis=1)
    size = np.sqrt(np.mean(np.sum((deviations @ projection) ** 2, axis=1)))
    if not size > 0:
        raise ProtocolError("the texts do not differ in their features: fit the map on more of them")
    return FeatureMap(
        tuple(sources), base_sha256, embedder_sha256, mean.astype(np.float32), (projection / size).astype(np.float32)
    )


def _whitening(deviations: NDArray[np.float64], k: int, floor: float) -> NDArray[np.float64]:
    """(D, k): the leading principal directions of ``deviations`` (n, D), each over its floored deviation."""
    _, singular, directions = np.linalg.svd(deviations, full_matrices=False)
    rank = int(np.count_nonzero(singular > 1e-6 * singular[0])) if len(singular) else 0
    if not 1 <= k <= rank:
        raise ProtocolError(f"these texts span {rank} directions beside style; k asks for {k}: use more texts")
    leading = directions[:k].T
    # The sign of a singular vector is arbitrary: the same texts shall give the same map everywhere.
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(k)])
    sizes = singular[:k] / np.sqrt(len(deviations))
    return cast(NDArray[np.float64], leading / np.maximum(sizes, floor * sizes[0]))


def _group_means(data: NDArray[np.float64], groups: Sequence[object]) -> NDArray[np.float64]:
    """The mean of each row's group, (n, D)."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(groups))}
    index = np.array([numbers[label] for label in groups])
    sums = np.zeros((len(numbers), data.shape[1]))
    np.add.at(sums, index, data)
    return cast(NDArray[np.float64], (sums / np.bincount(index)[:, None])[index])


def _blocks(sources: Mapping[Source, int]) -> dict[Source, slice]:
    """Where each source's numbers lie in a row of raw features."""
    ends = np.cumsum(list(sources.values())).tolist()
    return {source: slice(end - width, end) for (source, width), end in zip(sources.items(), ends, strict=True)}
