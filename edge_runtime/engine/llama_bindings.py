"""The few low-level llama.cpp calls that the engine and the embedder share: quiet logs, loading, batches,
decoding, text.

Pointers from llama-cpp-python are ctypes objects: NULL is falsy but is not None, so every check here is `if
not pointer`.
"""

from __future__ import annotations

import ctypes
import functools
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from protocol.errors import PenchantError

_ERROR_LEVEL = 4
_recent_errors: deque[str] = deque(maxlen=8)


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_errors(level: int, text: bytes, _: Any) -> None:
    if level == _ERROR_LEVEL:
        _recent_errors.append(text.decode("utf-8", "replace").strip())


@functools.cache
def start_backend() -> None:
    """Initialise llama.cpp once in this process; its log goes nowhere but for the last error, which messages
    quote.
    """
    llama.llama_log_set(_keep_errors, ctypes.c_void_p(0))
    llama.llama_backend_init()


def last_error() -> str:
    """The first of the recent error lines of llama.cpp (the cause, not its consequences), in brackets; "" if
    none.
    """
    text = f" ({_recent_errors[0].splitlines()[0]})" if _recent_errors else ""
    _recent_errors.clear()
    return text


def load_model(path: Path, *, vocabulary_only: bool = False) -> Any:
    """Load a GGUF on the processor, memory-mapped, or its vocabulary alone. Raises PenchantError where llama.cpp
    refuses it."""
    start_backend()
    _recent_errors.clear()
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.vocab_only = vocabulary_only
    model = llama.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise PenchantError(
            f"llama.cpp cannot load {path.name}{last_error()}: get the file again or choose another model"
        )
    return model


class TokenBatch:
    """A llama_batch whose columns are numpy arrays; one sequence per token.

    `fill` writes columns, `structure` is what llama.cpp reads. The arrays live as long as this object.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._sequences = np.zeros(capacity, dtype=np.int32)
        self._sequence_counts = np.ones(capacity, dtype=np.int32)
        self._wanted = np.zeros(capacity, dtype=np.int8)
        # llama.cpp wants, per token, a pointer to its list of sequence ids: here lists of one, inside one
        # array.
        self._sequence_lists = self._sequences.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        as_ids = ctypes.POINTER(ctypes.c_int32)
        self.structure = llama.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(as_ids),
            embd=None,
            pos=self._positions.ctypes.data_as(as_ids),
            n_seq_id=self._sequence_counts.ctypes.data_as(as_ids),
            seq_id=self._sequence_lists.ctypes.data_as(ctypes.POINTER(as_ids)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        sequences: NDArray[np.int32] | int,
        wanted: NDArray[np.bool_] | bool,
    ) -> None:
        """Set the batch to `tokens` (n,) at `positions` (n,) of `sequences`; `wanted` marks the rows that
        give an output.
        """
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._sequences[:count] = sequences
        self._wanted[:count] = wanted
        self.structure.n_tokens = count

    def fill_embeddings(
        self, rows: NDArray[np.float32], positions: NDArray[np.int32], sequence: int, wanted: NDArray[np.bool_]
    ) -> llama.llama_batch:
        """A batch of input vectors `rows` (n, n_embd), C-contiguous, in place of tokens; valid until the next fill."""
        self.fill(np.zeros(len(rows), dtype=np.int32), positions, sequence, wanted)
        own = self.structure
        return llama.llama_batch(
            n_tokens=len(rows),
            token=None,
            embd=rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=own.pos,
            n_seq_id=own.n_seq_id,
            seq_id=own.seq_id,
            logits=own.logits,
        )


def encode(context: Any, batch: TokenBatch) -> None:
    """Run one batch through an encoder model, which keeps no cache. Raises PenchantError."""
    code = llama.llama_encode(context, batch.structure)
    if code != 0:
        raise PenchantError(f"llama.cpp could not embed the text (code {code}){last_error()}")


def logits_rows(context: Any, rows: int, vocabulary: int) -> NDArray[np.float32]:
    """The last decode's outputs, (rows, vocabulary) float32: a view into llama.cpp's memory, valid until the
    next decode.
    """
    return np.ctypeslib.as_array(llama.llama_get_logits(context), shape=(rows, vocabulary))


def tokenise(vocabulary: Any, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    """Token ids of `text`; `add_special` adds what the model's file says belongs around a text (BOS, [CLS]
    ...).
    """
    raw = text.encode("utf-8")
    size = len(raw) + 8
    for _ in range(2):
        ids = (llama.llama_token * size)()
        count = llama.llama_tokenize(vocabulary, raw, len(raw), ids, size, add_special, parse_special)
        if count >= 0:
            return list(ids[:count])
        size = -count
    raise PenchantError("llama.cpp could not split the text into tokens")


def token_bytes(vocabulary: Any, token: int, *, special: bool) -> bytes:
    """The bytes that a token stands for; control tokens give b"" unless `special`."""
    size = 64
    for _ in range(2):
        buffer = ctypes.create_string_buffer(size)
        count = llama.llama_token_to_piece(vocabulary, token, buffer, size, 0, special)
        if count >= 0:
            return buffer.raw[:count]
        size = -count
    raise PenchantError(f"token {token} is not in the model's vocabulary")


def log_probabilities_of(
    logits: NDArray[np.float32], targets: Sequence[int] | NDArray[np.int32], *, rows_at_once: int = 16
) -> NDArray[np.float64]:
    """Natural-log softmax of `logits` (rows, vocabulary) at one target per row: (rows,).

    A few rows at a time, so that the temporary (16 x 49,152 x 4 bytes = 3 MB) stays in the processor's cache.
    """
    chosen = np.asarray(targets, dtype=np.int64)
    result = np.empty(len(chosen), dtype=np.float64)
    for start in range(0, len(chosen), rows_at_once):
        rows = logits[start : start + rows_at_once]
        highest = rows.max(axis=1, keepdims=True)
        shifted = rows - highest
        picked = shifted[np.arange(len(rows)), chosen[start : start + len(rows)]]
        np.exp(shifted, out=shifted)
        result[start : start + len(rows)] = picked - np.log(shifted.sum(axis=1, dtype=np.float32))
    return result
