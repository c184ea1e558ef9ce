"""Many conversations in one context: llama.cpp's sequences, each a cached text, sharing their cells.

What is asked for (segments, see `contexts.py`) goes on behind the sequence that shares the longest beginning with
it, *under the same weights*. What a sequence holds beyond that is cut off if it was evaluated with the weights now
wanted and the shared part is at least half of it (the same conversation, changed near its end). Otherwise the
beginning is copied into the sequence that was used longest ago (llama.cpp shares the cells: nothing is moved), and
the other stays for whoever comes back: so a change of adapters costs nobody a cache, and what the base model alone
has read serves every adapter. Fewer stale texts are not only room: attention runs over all cells up to the highest
one in use, whoever uses it.

Where no cell is free, the sequences used longest ago are emptied. `Sequence.entries` is never longer than what
llama.cpp holds: an interrupted evaluation leaves surplus cells, which are removed at once.

*Branches* are sequences beside these for texts that grow side by side for the time of one answer (several candidates,
or one answer under several prompts): each begins as a copy of a conversation's beginning, and `step` evaluates one
token of each in a single batch. They are never emptied to make room.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from dataclasses import dataclass, field

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.contexts import (
    BATCH_TOKENS,
    CellsFull,
    Context,
    Segment,
    Weights,
    after,
    common_length,
    same_weights,
)
from protocol.errors import PenchantError


@dataclass(eq=False)
class Sequence:
    """One cached text: `entries` say which tokens with which weights; `used` orders by last use."""

    number: int
    entries: list[int] = field(default_factory=list)
    used: int = 0


class Sequences:
    """All sequences of a context: `count` conversations and room for `branches` beside them. `evaluated` counts the
    tokens evaluated so far."""

    def __init__(self, context: Context, count: int, branches: int = 0) -> None:
        self.evaluated = 0
        self.context = context
        self._all = [Sequence(number) for number in range(count)]
        self._free = [Sequence(number) for number in range(count, count + branches)]
        self._clock = 0

    def fill(self, segments: Items[Segment]) -> Sequence:
        """The sequence that now holds exactly `segments` (at least one token); the last token was evaluated now, so
        that its logits are there.
        """
        wanted = [entry for segment in segments for entry in segment.entries]
        sequence = self._prepare(wanted, len(wanted) - 1)
        for part in after(segments, len(sequence.entries)):
            self.extend(sequence, part)
        return sequence

    def extend(self, sequence: Sequence, segment: Segment) -> None:
        """Evaluate `segment` behind `sequence`; only its last token gives logits."""
        for part in _batches(segment):
            wanted = np.zeros(len(part.tokens), dtype=np.bool_)
            wanted[-1] = True
            self._run(sequence, part, wanted)

    def extend_all(self, sequence: Sequence, segment: Segment) -> None:
        """Evaluate a `segment` of one batch at most behind `sequence`; every token gives logits."""
        self._run(sequence, segment, np.ones(len(segment.tokens), dtype=np.bool_))

    def keep(self, sequence: Sequence, count: int) -> None:
        """Hold the first `count` tokens of `sequence` only."""
        if count < len(sequence.entries):
            del sequence.entries[count:]
            if not self.context.keep(sequence.number, count):
                self._empty(sequence)

    def clear(self) -> None:
        """Forget everything."""
        for sequence in self._all:
            sequence.entries.clear()
        llama.llama_memory_clear(self.context.memory, True)

    # ---- branches

    @contextmanager
    def branches(self, source: Sequence, counts: Items[int]) -> Iterator[list[Sequence]]:
        """One branch per count, each holding the first `count` tokens of `source`, whose cells they share; emptied at
        the end. PenchantError if fewer are free.
        """
        if len(counts) > len(self._free):
            raise PenchantError(f"at most {len(self._free)} texts can grow side by side here: ask for fewer")
        taken = [self._free.pop() for _ in counts]
        try:
            for branch, count in zip(taken, counts, strict=True):
                llama.llama_memory_seq_cp(self.context.memory, source.number, branch.number, 0, count)
                branch.entries.extend(source.entries[:count])
            yield taken
        finally:
            for branch in taken:
                self._empty(branch)
            self._free.extend(taken)

    def step(self, sequences: Items[Sequence], weights: Weights, tokens: Items[int]) -> NDArray[np.float32]:
        """Evaluate one token behind each of `sequences`, in one batch: their logits (len(sequences), vocabulary), a
        view that the next evaluation overwrites.
        """
        held = [len(sequence.entries) for sequence in sequences]
        segment = Segment(weights, np.array(tokens, dtype=np.int32))
        numbers = np.array([sequence.number for sequence in sequences], dtype=np.int32)
        while True:
            try:
                self.context.run_abreast(segment, np.array(held, dtype=np.int32), numbers)
                break
            except BaseException as error:
                for sequence, count in zip(sequences, held, strict=True):
                    if not self.context.keep(sequence.number, count):
                        self._empty(sequence)
                if not isinstance(error, CellsFull) or not self._evict_for(*sequences):
                    raise
        for sequence, entry in zip(sequences, segment.entries, strict=True):
            sequence.entries.append(entry)
        self.evaluated += len(tokens)
        return self.context.logits(len(tokens))

    def step_with_states(
        self, sequences: Items[Sequence], weights: Weights, tokens: Items[int], width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `step`, with the last hidden states (after the final norm) of the tokens: (len(sequences), width)."""
        pointer = self.context.pointer
        llama.llama_set_embeddings(pointer, True)
        try:
            logits = self.step(sequences, weights, tokens)
            states = llama.llama_get_embeddings(pointer)
            if not states:
                raise PenchantError("llama.cpp gave no hidden states for this model")
            return logits, np.ctypeslib.as_array(states, shape=(len(tokens), width))
        finally:
            llama.llama_set_embeddings(pointer, False)

    def follow(self, branches: Items[Sequence], chosen: Sequence) -> None:
        """All `branches`, which differ from `chosen` by their last token, hold what it holds."""
        last = len(chosen.entries) - 1
        for branch in branches:
            if branch is not chosen:
                self.keep(branch, last)
                llama.llama_memory_seq_cp(self.context.memory, chosen.number, branch.number, last, last + 1)
                branch.entries.append(chosen.entries[last])

    # ---- states

    def state(self, segments: Items[Segment]) -> bytes:
        """What llama.cpp holds of exactly `segments`, evaluated if need be."""
        sequence = self.fill(segments)
        pointer = self.context.pointer
        size = int(llama.llama_state_seq_get_size(pointer, sequence.number))
        buffer = (ctypes.c_uint8 * size)()
        written = int(llama.llama_state_seq_get_data(pointer, buffer, size, sequence.number))
        return bytes(memoryview(buffer)[:written])

    def common_with(self, segments: Items[Segment]) -> int:
        """How many first tokens of `segments` are held."""
        wanted = [entry for segment in segments for entry in segment.entries]
        return max(common_length(sequence.entries, wanted) for sequence in self._all)

    def restore(self, segments: Items[Segment], state: bytes) -> bool:
        """Put back what `state` gave for the same segments; False, and nothing is held, if it does not fit."""
        sequence = min(self._all, key=lambda one: one.used)
        self._empty(sequence)
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        while not llama.llama_state_seq_set_data(self.context.pointer, buffer, len(state), sequence.number):
            self._empty(sequence)
            if not self._evict_for(sequence):
                return False
        sequence.entries.extend(entry for segment in segments for entry in segment.entries)
        self._touch(sequence)
        return True

    # ---- inside

    def _prepare(self, wanted: list[int], longest: int) -> Sequence:
        """A sequence that holds as much of wanted[:longest] as any does, and nothing else."""
        shared = [min(common_length(sequence.entries, wanted), longest) for sequence in self._all]
        best = max(self._all, key=lambda one: (shared[one.number], one.used))
        common, held = shared[best.number], len(best.entries)
        if common == 0:
            best = min(self._all, key=lambda one: (bool(one.entries), one.used))
        elif common < held and not self._may_cut(best, common, wanted) and len(self._all) > 1:
            source = best
            best = min((one for one in self._all if one is not source), key=lambda one: (bool(one.entries), one.used))
            self._empty(best)
            llama.llama_memory_seq_cp(self.context.memory, source.number, best.number, 0, common)
            best.entries.extend(source.entries[:common])
        self.keep(best, common)
        self._touch(best)
        return best

    def _may_cut(self, sequence: Sequence, common: int, wanted: list[int]) -> bool:
        return same_weights(sequence.entries[-1], wanted[-1]) and 2 * common >= len(sequence.entries)

    def _run(self, sequence: Sequence, segment: Segment, wanted: NDArray[np.bool_]) -> None:
        held = len(sequence.entries)
        while True:
            try:
                self.context.run(segment, held, sequence.number, wanted)
                break
            except CellsFull:
                if not self._evict_for(sequence):
                    raise
            except BaseException:
                if not self.context.keep(sequence.number, held):
                    self._empty(sequence)
                raise
        sequence.entries.extend(segment.entries)
        self.evaluated += len(segment.tokens)

    def _evict_for(self, *sequences: Sequence) -> bool:
        """Empty the conversation used longest ago that holds anything, other than these; whether there was one."""
        others = [one for one in self._all if one not in sequences and one.entries]
        if others:
            self._empty(min(others, key=lambda one: one.used))
        return bool(others)

    def _empty(self, sequence: Sequence) -> None:
        sequence.entries.clear()
        self.context.keep(sequence.number, 0)

    def _touch(self, sequence: Sequence) -> None:
        self._clock += 1
        sequence.used = self._clock


def _batches(segment: Segment) -> Iterator[Segment]:
    """Consecutive parts of at most BATCH_TOKENS tokens."""
    for start in range(0, len(segment.tokens), BATCH_TOKENS):
        part = slice(start, start + BATCH_TOKENS)
        rows = None if segment.rows is None else segment.rows[part]
        yield Segment(segment.weights, segment.tokens[part], rows)
