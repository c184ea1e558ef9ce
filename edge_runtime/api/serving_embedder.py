"""The embedding model of a serving device: one for its memories and for `/v1/embeddings`, loaded when a text is first
embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.memory.memory import TextEmbedder

if TYPE_CHECKING:
    from edge_runtime.engine.embedder import Embedder


class CountingEmbedder(TextEmbedder, Protocol):
    """An embedder that can say how many tokens it reads."""

    def token_counts(self, texts: Sequence[str]) -> list[int]: ...


class ServingEmbedder:
    """The default embedder, for one thread at a time."""

    @cached_property
    def _embedder(self) -> Embedder:
        from edge_runtime.engine.embedder import Embedder  # llama.cpp: not before it is needed

        return Embedder.open()

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors: (n, dimension) float32."""
        return self._embedder.embed(texts)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens read of each text, after the cut at the model's longest text."""
        return [len(self._embedder.tokens(text)) for text in texts]

    def close(self) -> None:
        """Frees the model if it was loaded."""
        if "_embedder" in self.__dict__:
            self.__dict__.pop("_embedder").close()
