"""The base model's view of an answer: its last hidden state (after the final norm), pooled over the answer's tokens.

A pair is read as one turn of chat: the prompt in the model's own template up to the assistant's header, then the
answer. Only the answer's tokens are pooled; what they say in view of the prompt is in them. Their mean predicts which
of two arguments convinces better than the last token's state does (0.544 against 0.564 nats at 64 dimensions). Long
texts are cut: of the prompt its last PROMPT_TOKENS tokens count, of the answer its first ANSWER_TOKENS.

The states come from a context of their own over the engine's weights (no second copy) that never sees an adapter or a
control vector, so they are those of the base whatever is in use. What consecutive prompts have in common is read once,
and several answers go through one decode as sequences that share it. Nothing stays held between two calls.

How answers are grouped moves a state by rounding only: llama.cpp rounds activations to 8 bits under quantised weights,
and the last bit of a float depends on the batch (`scoring.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.contexts import BATCH_TOKENS, Context, common_length, whole_cells
from edge_runtime.engine.engine import Engine
from protocol.errors import PenchantError

PROMPT_TOKENS: Final = 96
ANSWER_TOKENS: Final = 128
# Each pooled token costs 196 kB of logits (49,152 words) that llama.cpp computes with it.
_POOLED_AT_ONCE: Final = 128
_ANSWERS_AT_ONCE: Final = 15
_TEMPLATE_TOKENS: Final = 128  # room for the template and its system prompt around the longest prompt


class HiddenStates:
    """Pooled hidden states of an engine's base model, one thread at a time like the engine; it closes with it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.dimension = engine.embeddings_width
        self._context: _PoolingContext | None = None  # made when the first text comes

    def of(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(n, dimension) float32: one row per (prompt, answer). Pairs of one prompt are fastest side by side.

        Raises PenchantError if the engine is closed or the model cannot do it, and Aborted after `Engine.abort`.
        """
        self._engine._begin()
        rows = np.empty((len(pairs), self.dimension), dtype=np.float32)
        if not pairs:
            return rows
        context = self._open_context()
        try:
            held: list[int] = []
            for start, stop in _runs([prompt for prompt, _ in pairs]):
                held = context.read_prompt(self._prompt_tokens(pairs[start][0]), held)
                answers = [self._answer_tokens(answer) for _, answer in pairs[start:stop]]
                for first, last in _batches([len(tokens) for tokens in answers]):
                    rows[start + first : start + last] = context.pool(answers[first:last], len(held), self.dimension)
        finally:
            context.clear()
        return rows

    def _prompt_tokens(self, prompt: str) -> list[int]:
        engine = self._engine
        tokens = engine.tokenise(prompt, special=False)
        if len(tokens) > PROMPT_TOKENS:
            prompt = engine.detokenise(tokens[-PROMPT_TOKENS:])
        tokens = engine.tokenise(engine.chat_prompt([ChatMessage("user", prompt)]), special=True)
        if len(tokens) > PROMPT_TOKENS + _TEMPLATE_TOKENS:
            raise PenchantError("this model's chat template is too long for hidden states: use another model")
        return tokens

    def _answer_tokens(self, answer: str) -> list[int]:
        """At least one: an empty answer is the token that ends a turn."""
        return self._engine.tokenise(answer, special=False)[:ANSWER_TOKENS] or [self._engine.end_of_turn[0]]

    def _open_context(self) -> _PoolingContext:
        if self._context is None:
            engine = self._engine
            held = next((one for one in engine._contexts if isinstance(one, _PoolingContext)), None)
            if held is not None:  # another reader of this engine opened it
                self._context = held
                return held
            self._context = _PoolingContext(
                engine._open_model(),
                cells=whole_cells(PROMPT_TOKENS + _TEMPLATE_TOKENS + _POOLED_AT_ONCE),
                sequences=1 + _ANSWERS_AT_ONCE,
                threads=engine._threads,
                flag=engine._flag,
                flash=True,
            )
            engine._contexts.append(self._context)
        return self._context


class _PoolingContext(Context):
    """Sequence 0 holds a prompt; the others branch off it, an answer each."""

    def read_prompt(self, tokens: list[int], held: list[int]) -> list[int]:
        """Hold `tokens` in sequence 0, of which `held` is there; returns them."""
        common = common_length(held, tokens)
        if not self.keep(0, common):
            self.clear()
            common = 0
        for start in range(common, len(tokens), BATCH_TOKENS):
            part = np.asarray(tokens[start : start + BATCH_TOKENS], dtype=np.int32)
            self._batch.fill(part, np.arange(start, start + len(part), dtype=np.int32), 0, False)
            self._decode(self._batch.structure)
        return tokens

    def pool(self, answers: Sequence[Sequence[int]], prompt_length: int, width: int) -> NDArray[np.float32]:
        """The mean state of each answer (n, width), read behind the prompt that sequence 0 holds."""
        lengths = [len(tokens) for tokens in answers]
        sequences = range(1, len(answers) + 1)
        for sequence in sequences:
            llama.llama_memory_seq_cp(self.memory, 0, sequence, 0, -1)
        self._batch.fill(
            np.concatenate([np.asarray(tokens, dtype=np.int32) for tokens in answers]),
            np.concatenate([np.arange(prompt_length, prompt_length + length, dtype=np.int32) for length in lengths]),
            np.repeat(np.asarray(sequences, dtype=np.int32), lengths),
            True,
        )
        # On for the answers only: with embeddings llama.cpp outputs every token of a batch, a prompt's too.
        llama.llama_set_embeddings(self.pointer, True)
        try:
            self._decode(self._batch.structure)
            pointer = llama.llama_get_embeddings(self.pointer)
            if not pointer:
                raise PenchantError("llama.cpp gave no hidden states for this model")
            states = np.ctypeslib.as_array(pointer, shape=(sum(lengths), width))
            starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            sums = np.add.reduceat(states, starts, axis=0, dtype=np.float64)
        finally:
            llama.llama_set_embeddings(self.pointer, False)
            for sequence in sequences:
                self.keep(sequence, 0)
        means: NDArray[np.float32] = (sums / np.asarray(lengths)[:, None]).astype(np.float32)
        return means

    def clear(self) -> None:
        """Overwrite what is held."""
        llama.llama_memory_clear(self.memory, True)


def _runs(prompts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive equal prompts."""
    start = 0
    for stop in range(1, len(prompts) + 1):
        if stop == len(prompts) or prompts[stop] != prompts[start]:
            yield start, stop
            start = stop


def _batches(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive answers that fit in one decode."""
    start = total = 0
    for index, length in enumerate(lengths):
        if index > start and (total + length > _POOLED_AT_ONCE or index - start == _ANSWERS_AT_ONCE):
            yield start, index
            start, total = index, 0
        total += length
    if lengths:
        yield start, len(lengths)
