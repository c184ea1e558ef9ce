"""Log-probabilities of given text, and hidden states, in a context with one sequence of its own.

Continuations of a shared prefix are evaluated one after another behind it, not side by side in several
sequences, without flash attention, and never in cells that other texts surround. With quantised weights llama.cpp
also rounds the activations to 8 bits, and a difference in the last bit of a float (another order of summation in
the attention) grows through 30 layers to 0.08 nats (root mean square; at most 0.5) per token on the Q8_0 default,
which is also its distance from float32 arithmetic on the same weights (0.003 on F16). As it is, the score of a text
is the same to the last bit however it is split into prefix and continuation and whatever else is scored. Measured
price: 4 % more time for continuations of 50 tokens, 1.7 times for 15, 3 times for 5.

Steady evaluation: llama.cpp multiplies a single token by other code than a batch, which sums in another order.
Batches of any size from 2 on agree to the last bit. So no token is ever evaluated alone here: a copy of it goes
behind it, and is dropped at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine import llama_bindings
from edge_runtime.engine.contexts import BATCH_TOKENS, Context, Segment, after, common_length
from protocol.errors import PenchantError


class Scorer:
    """The one text that a scoring context holds. `entries` is never longer than what llama.cpp holds."""

    def __init__(self, context: Context) -> None:
        self.entries: list[int] = []
        self._context = context
        self._prefix: tuple[list[int], NDArray[np.float32]] | None = None  # entries, and the logits after them
        self._last_row = 0  # the output row of the last token held

    def score(self, prefix: Sequence[Segment], continuation: Sequence[Segment]) -> NDArray[np.float64]:
        """Natural-log probability of every token of `continuation` after `prefix`: (tokens,).

        Only an identical prefix is reused as a whole: of any other the last logits may not have been computed.
        """
        text = np.concatenate([segment.tokens for segment in continuation])
        values = np.empty(len(text), dtype=np.float64)
        entries = [entry for segment in prefix for entry in segment.entries]
        if self._prefix is None or self._prefix[0] != entries:
            self._prefix = None
            self.fill(prefix)
            self._prefix = (entries, self.last_logits())
        values[0] = llama_bindings.log_probabilities_of(self._prefix[1][None, :], text[:1])[0]
        try:
            values[1:] = self.extend_scoring(continuation, text)
        finally:
            self.keep(len(entries))
        return values

    def hidden(self, segments: Sequence[Segment], width: int) -> NDArray[np.float32]:
        """The last hidden state (after the final norm) of the last token of `segments`: (width,)."""
        self.clear()
        # With embeddings on, llama.cpp outputs logits for every token of a batch: so they are on for the last two
        # tokens only.
        count = sum(len(segment.tokens) for segment in segments)
        head = count - min(2, len(segments[-1].tokens))
        pointer = self._context.pointer
        for part in before(segments, head):
            self._extend(part)
        llama.llama_set_embeddings(pointer, True)
        try:
            for part in after(segments, head):
                self._extend(part)
            row = llama.llama_get_embeddings_ith(pointer, count - head - 1)
            if not row:
                raise PenchantError("llama.cpp gave no hidden state for this model")
            return np.ctypeslib.as_array(row, shape=(width,)).copy()
        finally:
            llama.llama_set_embeddings(pointer, False)
            self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.entries, self._prefix = [], None
        llama.llama_memory_clear(self._context.memory, True)

    def fill(self, segments: Sequence[Segment]) -> None:
        """Hold exactly `segments` (at least one token), reusing what they have in common with what is held.

        The last token is always evaluated now, so that its logits are there.
        """
        wanted = [entry for segment in segments for entry in segment.entries]
        self.keep(min(common_length(self.entries, wanted), len(wanted) - 1))
        for part in after(segments, len(self.entries)):
            self._extend(part)

    def keep(self, count: int) -> None:
        """Hold the first `count` tokens only."""
        del self.entries[count:]
        if not self._context.keep(0, count):
            self.clear()

    def extend_scoring(self, segments: Sequence[Segment], text: NDArray[np.int32]) -> NDArray[np.float64]:
        """Evaluate all tokens of `segments` but the last, behind those held; `text` are all their tokens. Gives the
        natural-log probability of each of text[1:], (len - 1,).
        """
        values = np.empty(len(text) - 1, dtype=np.float64)
        done = 0
        for segment in before(segments, len(values)):
            for start, stop in batches(len(segment.tokens)):
                count = stop - start
                self._evaluate(Segment(segment.weights, segment.tokens[start:stop]), np.ones(count, dtype=np.bool_))
                rows = self._context.logits(count)
                targets = text[done + 1 : done + count + 1]
                values[done : done + count] = llama_bindings.log_probabilities_of(rows, targets)
                done += count
        return values

    def last_logits(self) -> NDArray[np.float32]:
        """A copy of the logits (vocabulary,) of the token that the last `fill` ended with."""
        row: NDArray[np.float32] = self._context.logits(self._last_row + 1)[self._last_row]
        return row.copy()

    def _extend(self, segment: Segment) -> None:
        """Evaluate `segment` behind what is held; the last two tokens give logits."""
        for start, stop in batches(len(segment.tokens)):
            wanted = np.arange(start, stop) >= len(segment.tokens) - 2
            self._evaluate(Segment(segment.weights, segment.tokens[start:stop]), wanted)

    def _evaluate(self, chunk: Segment, wanted: NDArray[np.bool_]) -> None:
        held, count = len(self.entries), len(chunk.tokens)
        run = chunk
        if count == 1:
            run, wanted = Segment(chunk.weights, np.repeat(chunk.tokens, 2)), np.repeat(wanted, 2)
        try:
            self._context.run(run, held, 0, wanted)
        except BaseException:
            self.keep(held)
            raise
        self._last_row = int(np.count_nonzero(wanted[:count])) - 1
        self.entries.extend(chunk.entries)
        if count == 1:
            self._context.keep(0, held + 1)


def before(segments: Sequence[Segment], count: int) -> Iterator[Segment]:
    """The first `count` tokens of `segments` (which hold tokens, not rows)."""
    for segment in segments:
        if count <= 0:
            return
        yield segment if count >= len(segment.tokens) else Segment(segment.weights, segment.tokens[:count])
        count -= len(segment.tokens)


def batches(count: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive batches; none holds a single token unless `count` is 1."""
    start = 0
    while start < count:
        stop = min(start + BATCH_TOKENS, count)
        if count - stop == 1:
            stop -= 1
        yield start, stop
        start = stop
