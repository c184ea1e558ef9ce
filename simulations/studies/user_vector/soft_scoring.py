"""Log-likelihood of texts behind soft tokens, by llama.cpp.

``edge_runtime.engine.scoring`` scores tokens; here rows stand before them. The row is evaluated alone and first, so
that everything behind it goes through the same arithmetic whatever the row is, and texts behind the same row are
comparable to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine import llama_bindings
from edge_runtime.engine.aborting import AbortFlag
from edge_runtime.engine.contexts import Context, Segment, Weights
from edge_runtime.engine.scoring import Scorer
from edge_runtime.models.catalogue import ModelFile


class SoftScorer:
    """One model and one context of its own, one thread. Use as a context manager."""

    def __init__(self, model: ModelFile, *, context_tokens: int = 512) -> None:
        self._handle = llama_bindings.load_model(model.path)
        self._weights = Weights(model.sha256)
        self._context = Context(
            self._handle, cells=context_tokens, sequences=1, threads=1, flag=AbortFlag(), flash=False
        )
        self._scorer = Scorer(self._context)

    def score(
        self, soft: NDArray[np.float32] | None, prompt: Sequence[int], reply: Sequence[int]
    ) -> NDArray[np.float64]:
        """Natural-log probability of every token of ``reply`` after ``soft`` (1, n) and ``prompt``: (tokens,)."""
        prefix = [Segment(self._weights, np.asarray(prompt, dtype=np.int32))]
        if soft is not None:
            row = Segment(self._weights, np.zeros(len(soft), dtype=np.int32), np.ascontiguousarray(soft))
            if self._scorer.entries[: len(soft)] != row.entries:
                self._scorer.clear()
                self._context.run(row, 0, 0, False)
                self._scorer.entries.extend(row.entries)
            prefix.insert(0, row)
        return self._scorer.score(prefix, [Segment(self._weights, np.asarray(reply, dtype=np.int32))])

    def __enter__(self) -> SoftScorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._context.close()
        llama.llama_model_free(self._handle)
