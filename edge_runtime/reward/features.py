"""What rewards are made from: raw features of (prompt, answer), one block per source.

The blocks stand in the order of ``protocol.feature_map.SOURCES``: the base model's pooled hidden state
(``engine/hidden_states.py``), the retrieval embedder's vector of the answer, and style (``style.py``). A
``FeatureMap`` turns them into phi. Adapters never touch them: a reward learnt today means the same under tomorrow's.

Features are derived from the owner's words. With a vault they are kept there for the next time, in one blob below
``LEARNT_PREFIX``: every forget drops it with all else that was learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.embedder_file import EMBEDDER_SHA256
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.hidden_states import HiddenStates
from edge_runtime.memory.memory import TextEmbedder
from edge_runtime.reward.style import STYLE_NAMES, style_features
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.errors import PenchantError
from protocol.feature_map import FEATURES_VERSION, SOURCES, FeatureMap, Source

Pair = tuple[str, str]  # prompt, answer

_BLOB: Final = f"{LEARNT_PREFIX}reward-features"
_KEPT_PAIRS: Final = 1024  # 4 MB with all sources; the ones computed longest ago make room
_KEY_BYTES: Final = 32


class RewardFeatures:
    """The raw features of one engine and embedder. Give `None` for what `sources` does not use.

    `sources` may come in any order; the blocks have the order of `SOURCES`. With `vault`, what was computed is kept
    in it; leave it out for answers that nobody has seen, such as candidates that are still to be ranked.
    """

    def __init__(
        self,
        engine: Engine | None,
        embedder: TextEmbedder | None,
        sources: Sequence[Source] = SOURCES,
        *,
        vault: Vault | None = None,
    ) -> None:
        self.sources: tuple[Source, ...] = tuple(source for source in SOURCES if source in sources)
        if not self.sources or set(sources) != set(self.sources):
            raise PenchantError(f"reward features come from one or more of: {', '.join(SOURCES)}")
        self.widths: dict[Source, int] = {}
        self.base_sha256 = self.embedder_sha256 = ""
        self._hidden: HiddenStates | None = None
        self._embedder = embedder
        self._vault = vault
        if "hidden" in self.sources:
            if engine is None:
                raise PenchantError("hidden states need an open engine")
            self._hidden = HiddenStates(engine)
            self.widths["hidden"] = self._hidden.dimension
            self.base_sha256 = engine.model.sha256
        if "embedding" in self.sources:
            if embedder is None:
                raise PenchantError("embeddings need an open embedder")
            self.widths["embedding"] = embedder.dimension
            self.embedder_sha256 = EMBEDDER_SHA256
        if "style" in self.sources:
            self.widths["style"] = len(STYLE_NAMES)

    @property
    def dimension(self) -> int:
        """D, the numbers per pair."""
        return sum(self.widths.values())

    def check(self, feature_map: FeatureMap) -> None:
        """Raises PenchantError unless `feature_map` was made for these sources and models."""
        wanted = (feature_map.sources, feature_map.base_sha256, feature_map.embedder_sha256, feature_map.raw_dimension)
        if wanted != (self.sources, self.base_sha256, self.embedder_sha256, self.dimension):
            raise PenchantError(
                "the fleet's rewards were made for another model or other features: fetch its current release, "
                "or use the model that it names"
            )

    def of(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """(n, D) float32, a row per (prompt, answer)."""
        keys = [self._key(pair) for pair in pairs]
        kept = self._kept()
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in kept}
        if missing:
            computed = dict(zip(missing, self._compute(list(missing.values())), strict=True))
            self._keep(computed)
            kept |= computed
        rows = np.empty((len(pairs), self.dimension), dtype=np.float32)
        for row, key in zip(rows, keys, strict=True):
            row[:] = kept[key]
        return rows

    def _compute(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        blocks: list[NDArray[np.float32]] = []
        if self._hidden is not None:
            blocks.append(self._hidden.of(pairs))
        if "embedding" in self.sources and self._embedder is not None:
            blocks.append(self._embedder.embed([answer for _, answer in pairs]))
        if "style" in self.sources:
            blocks.append(np.stack([style_features(prompt, answer) for prompt, answer in pairs]))
        return np.concatenate(blocks, axis=1)

    # ---- what a device keeps: rows of key (32 bytes) and features, oldest first

    def _key(self, pair: Pair) -> bytes:
        digest = hashlib.sha256(
            f"{FEATURES_VERSION};{self.sources};{self.base_sha256};{self.embedder_sha256};".encode()
        )
        for text in pair:
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        return digest.digest()

    def _kept(self) -> dict[bytes, NDArray[np.float32]]:
        data = self._vault.get_blob(_BLOB) if self._vault is not None else None
        size = _KEY_BYTES + 4 * self.dimension
        if not data or len(data) % size:  # nothing yet, or of other sources
            return {}
        rows = (data[start : start + size] for start in range(0, len(data), size))
        return {row[:_KEY_BYTES]: np.frombuffer(row[_KEY_BYTES:], "<f4") for row in rows}

    def _keep(self, computed: dict[bytes, NDArray[np.float32]]) -> None:
        if self._vault is None:
            return
        with self._vault.transaction():  # another program may have written since
            rows = list((self._kept() | computed).items())[-_KEPT_PAIRS:]
            self._vault.put_blob(_BLOB, b"".join(key + row.astype("<f4").tobytes() for key, row in rows))
