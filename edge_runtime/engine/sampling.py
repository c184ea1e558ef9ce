"""From logits to text: how the next token is chosen, whole characters out of token bytes, and where an answer
stops.
"""

from __future__ import annotations

import codecs
import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from protocol.errors import PenchantError

_PENALTY_WINDOW = 64
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 takes the most probable one and ignores top_k, top_p, min_p
    and seed.

    `repeat_penalty` looks at the last 64 generated tokens only: penalising the prompt would punish repeating
    remembered facts.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf and 0 < self.repeat_penalty < math.inf):
            raise PenchantError("temperature must be at least 0 and repeat_penalty above 0")
        if not (0 < self.top_p <= 1 and 0 <= self.min_p < 1 and self.top_k >= 0 and 0 <= self.seed < 1 << 32):
            raise PenchantError("sampling needs 0 < top_p <= 1, 0 <= min_p < 1, top_k >= 0 and a 32-bit seed")


class Sampler:
    """Chooses tokens from the outputs of a llama.cpp context. Use as a context manager.

    Greedy choice without a penalty is numpy's arg-max: llama.cpp would first copy all candidates, 49,152 on the
    default model.
    """

    def __init__(self, sampling: Sampling, context: Any, vocabulary_size: int) -> None:
        self._context, self._size = context, vocabulary_size
        plain = sampling.temperature == 0 and sampling.repeat_penalty == 1.0
        self._chain = None if plain else _new_chain(sampling, vocabulary_size)

    def choose(self, row: int) -> int:
        """The next token after the token of the last batch at index `row` (-1: its last output); rows in order."""
        if self._chain is not None:
            return int(llama.llama_sampler_sample(self._chain, self._context, row))
        logits = llama.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._size,)).argmax())

    def choose_from(self, logits: NDArray[np.float32]) -> int:
        """The next token by `logits` (vocabulary,) that llama.cpp did not compute itself."""
        if self._chain is None:
            return int(logits.argmax())
        candidates = np.zeros(len(logits), dtype=_CANDIDATE)
        candidates["id"], candidates["logit"] = np.arange(len(logits)), logits
        pointer = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama.llama_token_data))
        array = llama.llama_token_data_array(data=pointer, size=len(logits), selected=-1, sorted=False)
        llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        llama.llama_sampler_accept(self._chain, token)
        return token

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
        self._chain = None


def penalise(logits: NDArray[np.float32], said: Sequence[int], repeat_penalty: float) -> None:
    """Make the last 64 tokens of `said` less probable, in place, as llama.cpp does."""
    repeated = np.unique(np.asarray(said[-_PENALTY_WINDOW:], dtype=np.int64))
    values = logits[repeated]
    logits[repeated] = np.where(values > 0, values / repeat_penalty, values * repeat_penalty)


def _new_chain(sampling: Sampling, vocabulary_size: int) -> Any:
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    if sampling.repeat_penalty != 1.0:
        penalties = llama.llama_sampler_init_penalties(
            vocabulary_size, _PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0
        )
        llama.llama_sampler_chain_add(chain, penalties)
    if sampling.temperature == 0:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_greedy())
        return chain
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_k(sampling.top_k))
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_p(sampling.top_p, 1))
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_min_p(sampling.min_p, 1))
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_temp(sampling.temperature))
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(sampling.seed))
    return chain


def whole_characters(pieces: Iterator[bytes]) -> Iterator[str]:
    """Decode a stream of bytes, holding back the bytes of a character that is not complete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def stop_at(pieces: Iterator[str], stop: tuple[str, ...]) -> Iterator[str]:
    """Pass text on until one of `stop` appears, holding back what could still become one."""
    held = ""
    for piece in pieces:
        held += piece
        found = [at for at in (held.find(text) for text in stop) if at >= 0]
        if found:
            if min(found):
                yield held[: min(found)]
            return
        keep = max(
            (size for text in stop for size in range(1, min(len(text), len(held) + 1)) if held.endswith(text[:size])),
            default=0,
        )
        if len(held) > keep:
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if held:
        yield held
