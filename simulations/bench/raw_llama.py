"""The peer of the engine benchmarks: llama.cpp itself, through the low-level binding, with nothing of ours in between.

One context, one sequence, the greedy sampler of llama.cpp; a prompt is read in batches as large as llama.cpp likes.
What a program gets that calls the C library in a loop, and so the ceiling of what a runtime around it can reach.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import llama_cpp.llama_cpp as llama

from edge_runtime.engine.llama_bindings import start_backend
from protocol.errors import PenchantError


class RawLlama:
    """A model and a context in plain llama.cpp. Use as a context manager."""

    def __init__(self, path: Path, *, context_tokens: int, threads: int) -> None:
        start_backend()
        self._model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        if not self._model:
            raise PenchantError(f"llama.cpp cannot load {path.name}: choose another model")
        parameters = llama.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch = context_tokens, 2048
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama.llama_init_from_model(self._model, parameters)
        self._sampler = llama.llama_sampler_init_greedy()
        self._adapters: list[Any] = []

    def __enter__(self) -> RawLlama:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        llama.llama_set_adapters_lora(self._context, None, 0, None)
        llama.llama_free(self._context)
        for adapter in self._adapters:
            llama.llama_adapter_lora_free(adapter)
        llama.llama_sampler_free(self._sampler)
        llama.llama_model_free(self._model)

    def load_adapter(self, path: Path) -> Any:
        """An adapter from a plain file."""
        adapter = llama.llama_adapter_lora_init(self._model, str(path).encode())
        if not adapter:
            raise PenchantError(f"llama.cpp cannot load {path.name}")
        self._adapters.append(adapter)
        return adapter

    def set_adapters(self, pairs: Sequence[tuple[Any, float]]) -> None:
        """Use exactly these adapters with these scales. The key-value cache stays as it is."""
        pointers = (llama.llama_adapter_lora_p_ctypes * len(pairs))(*(adapter for adapter, _ in pairs))
        scales = (ctypes.c_float * len(pairs))(*(scale for _, scale in pairs))
        llama.llama_set_adapters_lora(self._context, pointers, len(pairs), scales)

    def read(self, tokens: Sequence[int]) -> None:
        """Forget everything, then evaluate `tokens`."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        self._decode(tokens)

    def first_token(self, tokens: Sequence[int]) -> int:
        """Read `tokens` from the start and give the most likely next token."""
        self.read(tokens)
        return self.next_token()

    def next_token(self) -> int:
        """The most likely token after what was read."""
        return int(llama.llama_sampler_sample(self._sampler, self._context, -1))

    def generate(self, count: int) -> int:
        """Go on greedily for `count` tokens after what was read; how many bytes of text they are."""
        vocabulary = llama.llama_model_get_vocab(self._model)
        buffer, length = ctypes.create_string_buffer(64), 0
        for _ in range(count):
            token = self.next_token()
            length += max(0, llama.llama_token_to_piece(vocabulary, token, buffer, 64, 0, False))
            self._decode([token])
        return length

    def _decode(self, tokens: Sequence[int]) -> None:
        array = (llama.llama_token * len(tokens))(*tokens)
        if llama.llama_decode(self._context, llama.llama_batch_get_one(array, len(tokens))) != 0:
            raise PenchantError("llama.cpp could not evaluate the text: the context is too small")
