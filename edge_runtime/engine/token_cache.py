"""What one llama.cpp context has evaluated so far: a sequence of tokens with its key-value cache.

`tokens` is what Python believes the cache holds and is never longer than what it does hold: an interrupted
evaluation leaves surplus cells, which the next call removes. Whatever changes the model (adapters) must call
`clear`.

Steady evaluation: llama.cpp multiplies a single token by other code than a batch, which sums in another
order; with 8-bit activations that ends in other log-probabilities (0.08 nats root mean square). Batches of
any size from 2 on agree to the last bit. So scoring never evaluates a token alone, and reuses only what was
not evaluated alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine import llama_bindings

# Tokens per decode. More are hardly faster on a processor, and each costs 2 x 196 kB of logits (49,152
# words).
BATCH_TOKENS = 256


class TokenCache:
    """The evaluated tokens of a context with one sequence. `epoch` changes whenever it is not merely
    extended.
    """

    def __init__(self, context: Any, vocabulary_size: int) -> None:
        self.tokens: list[int] = []
        self.epoch = 0
        self._steady_count = 0  # so many of the first tokens were evaluated in batches
        self._last_row = 0  # the output row of the last token held
        self._context, self._vocabulary_size = context, vocabulary_size
        self._memory = llama.llama_get_memory(context)
        self._batch = llama_bindings.TokenBatch(BATCH_TOKENS)

    def clear(self) -> None:
        """Forget everything."""
        self.epoch += 1
        self.tokens, self._steady_count = [], 0
        llama.llama_memory_clear(self._memory, False)

    def fill(self, tokens: Sequence[int], *, steady: bool = False) -> None:
        """Hold exactly `tokens` (at least one), reusing what they have in common with what is held.

        The last one is always evaluated now, so that its logits are there. `steady`: as scoring needs it.
        """
        common = 0
        for held, wanted in zip(self.tokens, tokens[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        self.keep(min(common, self._steady_count) if steady else common)
        self.extend(tokens[len(self.tokens) :], steady=steady)

    def keep(self, count: int) -> None:
        """Hold the first `count` tokens only."""
        self.epoch += 1
        self.tokens, self._steady_count = self.tokens[:count], min(self._steady_count, count)
        if not llama.llama_memory_seq_rm(self._memory, 0, count, -1):
            self.clear()

    def extend(self, tokens: Sequence[int], *, steady: bool = False) -> None:
        """Evaluate `tokens` after those held; only the last one gives logits (the last two if `steady`)."""
        for start, stop in _batches(len(tokens)):
            wanted = np.arange(start, stop) >= len(tokens) - (2 if steady else 1)
            self._evaluate(np.asarray(tokens[start:stop], dtype=np.int32), wanted, steady)

    def extend_scoring(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """Evaluate tokens[:-1] after those held; gives the natural-log probability of each of tokens[1:],
        (len - 1,).
        """
        text = np.asarray(tokens, dtype=np.int32)
        values = np.empty(len(text) - 1, dtype=np.float64)
        for start, stop in _batches(len(values)):
            self._evaluate(text[start:stop], np.ones(stop - start, dtype=np.bool_), True)
            rows = llama_bindings.logits_rows(self._context, stop - start, self._vocabulary_size)
            values[start:stop] = llama_bindings.log_probabilities_of(rows, text[start + 1 : stop + 1])
        return values

    def last_logits(self) -> NDArray[np.float32]:
        """A copy of the logits (vocabulary,) of the token that the last `fill` or `extend` ended with."""
        rows = llama_bindings.logits_rows(self._context, self._last_row + 1, self._vocabulary_size)
        row: NDArray[np.float32] = rows[self._last_row]
        return row.copy()

    def _evaluate(self, chunk: NDArray[np.int32], wanted: NDArray[np.bool_], steady: bool) -> None:
        count = len(chunk)
        if steady and count == 1:  # evaluated with a copy of itself behind it, which is dropped at once
            chunk, wanted = np.repeat(chunk, 2), np.append(wanted, True)
        positions = len(self.tokens) + np.arange(len(chunk), dtype=np.int32)
        self._batch.fill(chunk, positions, 0, wanted)
        llama_bindings.decode(self._context, self._batch)
        self._last_row = int(np.count_nonzero(wanted[:count])) - 1
        if len(chunk) > 1 and self._steady_count == len(self.tokens):
            self._steady_count += count
        self.tokens.extend(chunk[:count].tolist())
        if len(chunk) > count:
            llama.llama_memory_seq_rm(self._memory, 0, len(self.tokens), -1)


def _batches(count: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive batches; none holds a single token unless `count` is 1."""
    start = 0
    while start < count:
        stop = min(start + BATCH_TOKENS, count)
        if count - stop == 1:
            stop -= 1
        yield start, stop
        start = stop
