"""One model in llama.cpp: text and tokens, streaming generation, log-probabilities of given text, adapters
with scales.

Pitfalls this file is built around: the key-value cache depends on the adapters, so it is emptied whenever
their set changes; logits of 49,152 words take 196 kB per token, so they are asked for only where needed and
in chunks; adapters belong to a context. An `Engine` serves one thread at a time.

Continuations of a shared prefix are evaluated one after another behind it, not side by side in several
sequences, and without flash attention. With quantised weights llama.cpp also rounds the activations to 8
bits, and a difference in the last bit of a float (another order of summation in the attention) grows through
30 layers to 0.08 nats (root mean square; at most 0.5) per token on the Q8_0 default, which is also its
distance from float32 arithmetic on the same weights (0.003 on F16). As it is, the score of a text is the same
to the last bit however it is split into prefix and continuation and whatever else is scored
(`token_cache.py`). Measured price: 4 % more time for continuations of 50 tokens, 1.7 times for 15, 3 times
for 5.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine import adapter_loading, llama_bindings
from edge_runtime.engine.adapter_loading import Adapter
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.sampling import Sampling, new_sampler, stop_at, whole_characters
from edge_runtime.engine.token_cache import BATCH_TOKENS, TokenCache
from edge_runtime.engine.vocabulary import Vocabulary
from edge_runtime.models.catalogue import ModelFile
from protocol.errors import PenchantError

__all__ = ["Adapter", "ChatMessage", "Engine", "Sampling"]


class Engine:
    """A loaded model with one context. Open with `Engine.open`, use as a context manager."""

    def __init__(self, model: ModelFile, handle: Any, context: Any) -> None:
        self.model = model
        self._handle, self._context = handle, context
        self._vocabulary = Vocabulary(handle, model.name)
        self._cache = TokenCache(context, self._vocabulary.size)
        self._loaded: dict[str, Adapter] = {}
        self._active: tuple[tuple[Adapter, float], ...] = ()
        self._scored_prefix: tuple[list[int], NDArray[np.float32]] | None = None

    @classmethod
    def open(
        cls,
        model: ModelFile,
        *,
        context_tokens: int = 2048,
        threads: int | None = None,
    ) -> Engine:
        """Load `model`. `context_tokens` is the room for prompt plus answer, and for a prefix plus one
        continuation.

        `threads` defaults to one less than the machine's cores: llama.cpp collapses when it competes for its
        last core.
        """
        thread_count = max(1, (os.cpu_count() or 2) - 1) if threads is None else threads
        if context_tokens < 8 or thread_count < 1:
            raise PenchantError("an engine needs a context of at least 8 tokens and at least one thread")
        handle = llama_bindings.load_model(model.path)
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = context_tokens
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_seq_max = 1
        parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.n_threads = parameters.n_threads_batch = thread_count
        parameters.no_perf = True
        context = llama.llama_init_from_model(handle, parameters)
        if not context:
            llama.llama_model_free(handle)
            reason = llama_bindings.last_error()
            raise PenchantError(f"llama.cpp cannot make a context for {model.name}{reason}: try a smaller context")
        return cls(model, handle, context)

    def close(self) -> None:
        """Free everything. Adapters are unset before they are freed; calling it twice is harmless."""
        if self._context:
            llama.llama_set_adapters_lora(self._context, None, 0, None)
            llama.llama_free(self._context)
            for adapter in self._loaded.values():
                llama.llama_adapter_lora_free(adapter.pointer)
            llama.llama_model_free(self._handle)
        self._loaded, self._active, self._context, self._handle = {}, (), None, None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- text and tokens

    @property
    def context_tokens(self) -> int:
        return int(llama.llama_n_ctx(self._open_context()))

    @property
    def end_of_turn(self) -> tuple[int, ...]:
        """Tokens that end an answer; the first is the one that the model's template writes after a turn."""
        return self._vocabulary.end_of_turn

    def tokenise(self, text: str, *, special: bool = True, add_bos: bool = False) -> list[int]:
        """Token ids. `special` reads control tokens written in the text: needed for chat prompts, to be
        turned off for plain text.

        `add_bos` puts the beginning token in front if the model's file says that texts begin with it.
        """
        self._open_context()
        return self._vocabulary.tokenise(text, special=special, add_bos=add_bos)

    def detokenise(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of token ids; control tokens are left out unless `special`."""
        self._open_context()
        return self._vocabulary.detokenise(ids, special=special)

    def chat_prompt(self, messages: Sequence[ChatMessage], *, continue_assistant: bool = True) -> str:
        """`messages` in the model's own chat template, ending where the assistant is to speak if
        `continue_assistant`. Tokenise it with `special=True`."""
        self._open_context()
        return self._vocabulary.chat_prompt(messages, continue_assistant=continue_assistant)

    # ---- generation

    def generate(
        self,
        prompt_tokens: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Stream an answer as pieces of text, each whole in UTF-8, without the stop string that ended it.

        Ends at an end-of-turn token, a stop string, `max_tokens`, or a full context. What the prompt has in
        common with the last one is not evaluated again. Raises PenchantError (before the first piece) if the
        prompt does not fit.
        """
        self._vocabulary.check(prompt_tokens)
        if not prompt_tokens or len(prompt_tokens) >= self.context_tokens:
            raise PenchantError(
                f"the prompt has {len(prompt_tokens)} tokens and the context {self.context_tokens}: "
                "shorten the prompt or open the engine with a larger context"
            )
        if max_tokens < 0 or any(not text for text in stop):
            raise PenchantError("max_tokens must be at least 0 and stop strings must not be empty")
        pieces = self._answer_tokens(list(prompt_tokens), max_tokens, sampling or Sampling())
        return stop_at(whole_characters(pieces), tuple(stop))

    def _answer_tokens(self, prompt: list[int], max_tokens: int, sampling: Sampling) -> Iterator[bytes]:
        if max_tokens == 0:
            return
        self._scored_prefix = None
        self._cache.fill(prompt)
        epoch = self._cache.epoch
        sampler = new_sampler(sampling, self._vocabulary.size)
        try:
            for produced in range(1, max_tokens + 1):
                token = int(llama.llama_sampler_sample(sampler, self._open_context(), -1))
                if self._vocabulary.ends_answer(token):
                    return
                yield self._vocabulary.bytes_of(token)
                if produced == max_tokens or len(self._cache.tokens) >= self.context_tokens:
                    return
                if self._cache.epoch != epoch:
                    raise PenchantError("the engine was used for something else before this answer ended: ask again")
                self._cache.extend([token])
        finally:
            llama.llama_sampler_free(sampler)

    # ---- scoring

    def score(self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        """Natural-log probability of every token of every continuation, each after `prefix`, under the
        adapters in use.

        Returns one float64 array (len(continuation),) per continuation. The prefix is evaluated once, and not
        again in the next call if it is the same. It needs at least one token (a text's own first token has no
        probability). Raises PenchantError if prefix plus a continuation does not fit in the context.
        """
        self._vocabulary.check(prefix)
        if not prefix:
            raise PenchantError("scoring needs a prefix of at least one token: begin with the model's first token")
        room = self.context_tokens - len(prefix)
        for tokens in continuations:
            self._vocabulary.check(tokens)
            if len(tokens) > room:
                raise PenchantError(
                    f"a text of {len(prefix) + len(tokens)} tokens does not fit in the context of "
                    f"{self.context_tokens}: shorten it or open the engine with a larger context"
                )
        results = [np.empty(len(tokens), dtype=np.float64) for tokens in continuations]
        filled = [index for index, tokens in enumerate(continuations) if len(tokens)]
        if not filled:
            return results
        first_row = self._prefix_logits(list(prefix))
        for index in filled:
            text = continuations[index]
            results[index][0] = llama_bindings.log_probabilities_of(first_row[None, :], text[:1])[0]
            try:
                results[index][1:] = self._cache.extend_scoring(text)
            finally:
                self._cache.keep(len(prefix))
        return results

    def _prefix_logits(self, prefix: list[int]) -> NDArray[np.float32]:
        """Logits (vocabulary,) after the prefix, which the cache holds afterwards.

        Only an identical prefix is reused: of any other the last logits may not have been computed.
        """
        if self._scored_prefix is None or self._scored_prefix[0] != prefix:
            self._scored_prefix = None
            self._cache.fill(prefix, steady=True)
            self._scored_prefix = (prefix, self._cache.last_logits())
        return self._scored_prefix[1]

    def hidden(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The last hidden state (after the final norm) of the last token: (n_embd,) float32, under the
        adapters in use.
        """
        self._vocabulary.check(tokens)
        if not tokens or len(tokens) > self.context_tokens:
            raise PenchantError(f"a text must have 1 to {self.context_tokens} tokens to have a hidden state here")
        self._forget_cache()
        context = self._open_context()
        self._cache.extend(tokens[:-2], steady=True)
        # With embeddings on, llama.cpp outputs logits for every token of a batch: so they are on for the last
        # two only (two, because a token evaluated alone comes out a little different: `token_cache.py`).
        llama.llama_set_embeddings(context, True)
        try:
            self._cache.extend(tokens[-2:])
            pointer = llama.llama_get_embeddings_ith(context, -1)
            if not pointer:
                raise PenchantError("llama.cpp gave no hidden state for this model")
            return np.ctypeslib.as_array(pointer, shape=(int(llama.llama_model_n_embd(self._handle)),)).copy()
        finally:
            llama.llama_set_embeddings(context, False)
            self._forget_cache()

    # ---- adapters

    def load_adapter(self, data: bytes, *, sha256: str) -> Adapter:
        """Check an adapter file's bytes and load them from memory; nothing is written to disk where the
        system allows it.

        Raises PenchantError if the digest differs (checked before anything is parsed) or the adapter names
        another base model. Loading the same bytes again returns the same adapter.
        """
        self._open_context()
        adapter_loading.check_digest(data, sha256)
        if sha256 not in self._loaded:
            self._loaded[sha256] = adapter_loading.load(self._handle, data, sha256, self.model)
        return self._loaded[sha256]

    def use_adapters(self, pairs: Sequence[tuple[Adapter, float]]) -> None:
        """From now on add `scale * adapter` for each pair, and nothing else; an empty sequence gives the base
        model back.

        The same set again costs nothing; another set empties the cache.
        """
        context = self._open_context()
        wanted = tuple((adapter, float(scale)) for adapter, scale in pairs if scale != 0)
        for adapter, scale in wanted:
            if self._loaded.get(adapter.sha256) is not adapter:
                raise PenchantError("this adapter is not loaded in this engine: call load_adapter first")
            if not math.isfinite(scale):
                raise PenchantError("an adapter's scale must be a finite number")
        if len({adapter.sha256 for adapter, _ in wanted}) != len(wanted):
            raise PenchantError("an adapter is given twice: add its scales")
        if wanted == self._active:
            return
        pointers = (llama.llama_adapter_lora_p_ctypes * len(wanted))(*(adapter.pointer for adapter, _ in wanted))
        scales = (ctypes.c_float * len(wanted))(*(scale for _, scale in wanted))
        code = llama.llama_set_adapters_lora(context, pointers, len(wanted), scales)
        self._forget_cache()
        if code != 0:
            raise PenchantError(f"llama.cpp could not set the adapters{llama_bindings.last_error()}")
        self._active = wanted

    def unload_adapter(self, adapter: Adapter) -> None:
        """Free an adapter's memory; it must not be in use."""
        self._open_context()
        if any(active is adapter for active, _ in self._active):
            raise PenchantError("this adapter is in use: call use_adapters without it first")
        if self._loaded.pop(adapter.sha256, None) is not None:
            llama.llama_adapter_lora_free(adapter.pointer)

    # ---- inside

    def _forget_cache(self) -> None:
        self._scored_prefix = None
        self._cache.clear()

    def _open_context(self) -> Any:
        if not self._context:
            raise PenchantError("this engine is closed: open it again")
        return self._context
