"""Sentence vectors by all-MiniLM-L6-v2 in llama.cpp: mean over the tokens, then unit length (Reimers and
Gurevych 2019).

The embedder has its own model and context and never sees an adapter: an adapter would move every vector, and
an index made before it would be stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine import llama_bindings
from edge_runtime.engine.embedder_file import find_embedder
from edge_runtime.models.catalogue import ModelFile
from protocol.errors import PenchantError

# The length the model was trained for, [CLS] and [SEP] included; longer texts are cut, as
# sentence-transformers does.
_LONGEST_TEXT = 256
_BATCH_TOKENS = 512
_BATCH_TEXTS = 32


class Embedder:
    """The loaded embedder. Open with `Embedder.open`; usable as a context manager, by one thread at a time."""

    def __init__(self, model: ModelFile, handle: Any, context: Any) -> None:
        self.model = model
        self._handle, self._context = handle, context
        self._vocabulary = llama.llama_model_get_vocab(handle)
        self._batch = llama_bindings.TokenBatch(_BATCH_TOKENS)
        self.dimension = int(llama.llama_model_n_embd(handle))

    @classmethod
    def open(cls, *, threads: int = 1) -> Embedder:
        """Load the embedder (the first call on a machine writes its file to the cache)."""
        if threads < 1:
            raise PenchantError("the embedder needs at least one thread")
        model = find_embedder()
        handle = llama_bindings.load_model(model.path)
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = _BATCH_TOKENS
        parameters.n_seq_max = _BATCH_TEXTS
        parameters.kv_unified = True  # otherwise the context is divided by the number of sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.embeddings = True
        parameters.no_perf = True
        context = llama.llama_init_from_model(handle, parameters)
        if not context:
            llama.llama_model_free(handle)
            raise PenchantError(f"llama.cpp cannot make a context for the embedder{llama_bindings.last_error()}")
        return cls(model, handle, context)

    def close(self) -> None:
        """Free everything; calling it twice is harmless."""
        if self._context:
            llama.llama_free(self._context)
            llama.llama_model_free(self._handle)
        self._context = self._handle = None

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of `texts`: (n, 384) float32; their dot products are cosines. Texts beyond 256 tokens
        are cut.
        """
        if not self._context:
            raise PenchantError("this embedder is closed: open it again")
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        tokens = [self.tokens(text) for text in texts]
        for group in _groups([len(ids) for ids in tokens]):
            self._run([tokens[index] for index in group])
            for sequence, index in enumerate(group):
                pointer = llama.llama_get_embeddings_seq(self._context, sequence)
                if not pointer:
                    raise PenchantError("llama.cpp gave no vector for a text")
                vectors[index] = np.ctypeslib.as_array(pointer, shape=(self.dimension,))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def tokens(self, text: str) -> list[int]:
        """Token ids of `text` with their frame, cut to the longest text that the model reads."""
        ids = llama_bindings.tokenise(self._vocabulary, text, add_special=True, parse_special=False)
        return ids if len(ids) <= _LONGEST_TEXT else [*ids[: _LONGEST_TEXT - 1], ids[-1]]

    def _run(self, texts: Sequence[Sequence[int]]) -> None:
        lengths = [len(ids) for ids in texts]
        self._batch.fill(
            np.concatenate([np.asarray(ids, dtype=np.int32) for ids in texts]),
            np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
            np.repeat(np.arange(len(texts), dtype=np.int32), lengths),
            True,
        )
        llama_bindings.encode(self._context, self._batch)


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive texts that fit in one batch."""
    group: list[int] = []
    total = 0
    for index, length in enumerate(lengths):
        if group and (total + length > _BATCH_TOKENS or len(group) == _BATCH_TEXTS):
            yield group
            group, total = [], 0
        group.append(index)
        total += length
    if group:
        yield group
