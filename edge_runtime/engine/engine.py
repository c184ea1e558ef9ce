"""One model in llama.cpp: text and tokens, streaming generation, log-probabilities of given text, adapters
with scales.

Pitfalls this file is built around: a key-value cache depends on the adapters (`contexts.py` says how every cached
token carries the weights it was evaluated with); logits of 49,152 words take 196 kB per token, so they are asked for
only where needed; adapters belong to a context. Conversations share one context (`sequences.py`); scores come from
another, of one sequence, so that they do not depend on what else is held (`scoring.py`). Both are made when they are
first needed: a device that only chats has no scoring context.

An `Engine` serves one thread at a time; only `abort` may be called from another.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine import llama_bindings
from edge_runtime.engine.aborting import Aborted, AbortFlag
from edge_runtime.engine.adapter_loading import Adapter
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.contexts import Context, Segment, whole_cells
from edge_runtime.engine.generation import answer_tokens
from edge_runtime.engine.sampling import Sampling, stop_at, whole_characters
from edge_runtime.engine.scoring import Scorer
from edge_runtime.engine.sequences import Sequences
from edge_runtime.engine.state_store import StateStore
from edge_runtime.engine.vocabulary import Vocabulary
from edge_runtime.engine.weights_in_use import Activation, WeightsInUse
from edge_runtime.models.catalogue import ModelFile
from protocol.errors import PenchantError

# Texts that can grow side by side beside the conversations: candidates of one answer, or prompts that steer it.
BRANCHES = 16

__all__ = ["Aborted", "Activation", "Adapter", "ChatMessage", "Engine", "Sampling"]


class Engine:
    """A loaded model. Open with `Engine.open`, use as a context manager."""

    def __init__(
        self,
        model: ModelFile,
        handle: Any,
        *,
        context_tokens: int,
        threads: int,
        conversations: int,
        vocabulary_only: bool = False,
    ) -> None:
        self.model = model
        self._handle = handle
        self._context_tokens, self._threads, self._conversations = whole_cells(context_tokens), threads, conversations
        self._vocabulary = Vocabulary(handle, model.name)
        self._flag = AbortFlag()
        self._contexts: list[Context] = []
        self._generating: Sequences | None = None
        self._scoring: Scorer | None = None
        self._vocabulary_only = vocabulary_only
        self._turn = 0  # counts the pieces of work begun, so that an answer notices that another one came between
        self._in_use = WeightsInUse(model, handle, self._vocabulary)

    @classmethod
    def open(
        cls,
        model: ModelFile,
        *,
        context_tokens: int = 2048,
        threads: int | None = None,
        conversations: int = 4,
        vocabulary_only: bool = False,
    ) -> Engine:
        """Load `model`. `context_tokens` is the room for prompt plus answer, and for a prefix plus one continuation;
        the texts of `conversations` that stay evaluated share it, the ones used longest ago make room.

        `threads` defaults to one less than the machine's cores: llama.cpp collapses when it competes for its
        last core. With `vocabulary_only` it knows text and tokens and can evaluate nothing: the weights stay on disk.
        """
        thread_count = max(1, (os.cpu_count() or 2) - 1) if threads is None else threads
        most = int(llama.llama_max_parallel_sequences()) - BRANCHES
        if context_tokens < 8 or thread_count < 1 or not 1 <= conversations <= most:
            raise PenchantError("an engine needs a context of at least 8 tokens, a thread and room for a conversation")
        handle = llama_bindings.load_model(model.path, vocabulary_only=vocabulary_only)
        return cls(
            model,
            handle,
            context_tokens=context_tokens,
            threads=thread_count,
            conversations=conversations,
            vocabulary_only=vocabulary_only,
        )

    def close(self) -> None:
        """Free everything. Adapters are unset before they are freed; calling it twice is harmless."""
        if self._handle:
            for context in self._contexts:
                context.close()
            self._in_use.free()
            llama.llama_model_free(self._handle)
        self._turn += 1
        self._contexts, self._handle = [], None
        self._generating = self._scoring = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- text and tokens

    @property
    def context_tokens(self) -> int:
        """Room for prompt plus answer, in tokens."""
        return self._context_tokens

    @property
    def embeddings_width(self) -> int:
        """Numbers in a hidden state, and in a row of a soft prefix or of a control vector."""
        return int(llama.llama_model_n_embd(self._open_model()))

    @property
    def answer_header(self) -> tuple[int, ...]:
        """The tokens that open the assistant's turn: from here on adapters for answers act."""
        self._open_model()
        return self._vocabulary.answer_header

    @property
    def end_of_turn(self) -> tuple[int, ...]:
        """Tokens that end an answer; the first is the one that the model's template writes after a turn."""
        return self._vocabulary.end_of_turn

    def tokenise(self, text: str, *, special: bool = True, add_bos: bool = False) -> list[int]:
        """Token ids. `special` reads control tokens written in the text: needed for chat prompts, to be
        turned off for plain text.

        `add_bos` puts the beginning token in front if the model's file says that texts begin with it.
        """
        self._open_model()
        return self._vocabulary.tokenise(text, special=special, add_bos=add_bos)

    def detokenise(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of token ids; control tokens are left out unless `special`."""
        self._open_model()
        return self._vocabulary.detokenise(ids, special=special)

    def chat_prompt(self, messages: Sequence[ChatMessage], *, continue_assistant: bool = True) -> str:
        """`messages` in the model's own chat template, ending where the assistant is to speak if
        `continue_assistant`. Tokenise it with `special=True`."""
        self._open_model()
        return self._vocabulary.chat_prompt(messages, continue_assistant=continue_assistant)

    # ---- generation

    def generate(
        self,
        prompt_tokens: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        lookup: bool = False,
        soft_prefix: NDArray[np.float32] | None = None,
    ) -> Iterator[str]:
        """Stream an answer as pieces of text, each whole in UTF-8, without the stop string that ended it.

        Ends at an end-of-turn token, a stop string, `max_tokens`, or a full context. What the prompt has in common
        with an earlier one under the same weights is not evaluated again. `lookup` drafts from what the prompt says
        (`lookup.py`). `soft_prefix` (n, n_embd) are vectors that stand in front of the prompt in place of tokens.
        Raises PenchantError (before the first piece) if the prompt does not fit, and Aborted after `abort`.
        """
        rows = None if soft_prefix is None else self._checked_rows(soft_prefix)
        self._check_prompt(prompt_tokens, 0 if rows is None else len(rows))
        if max_tokens < 0 or any(not text for text in stop):
            raise PenchantError("max_tokens must be at least 0 and stop strings must not be empty")
        segments = self._in_use.segments(prompt_tokens)
        if rows is not None:
            segments.insert(0, Segment(segments[0].weights, np.zeros(len(rows), dtype=np.int32), rows))
        pieces = self._answer(segments, list(prompt_tokens), max_tokens, sampling or Sampling(), lookup)
        return stop_at(whole_characters(pieces), tuple(stop))

    def _answer(
        self, segments: list[Segment], prompt: list[int], max_tokens: int, sampling: Sampling, lookup: bool
    ) -> Iterator[bytes]:
        if max_tokens == 0:
            return
        turn = self._begin()
        self._in_use.check_loaded(segments[-1].weights)
        tokens = answer_tokens(
            self._generation_sequences(),
            segments,
            prompt if lookup else None,
            sampling=sampling,
            ends_answer=self._vocabulary.ends_answer,
            room=min(max_tokens, self.context_tokens + 1 - sum(len(segment.tokens) for segment in segments)),
        )
        for token in tokens:
            yield self._vocabulary.bytes_of(token)
            self._check_turn(turn)

    def abort(self) -> None:
        """Stop what is being evaluated now: it raises Aborted. Safe from any thread; does nothing if nothing runs."""
        self._flag.request()

    # ---- prefixes that stay

    def save_prefix(self, store: StateStore, tokens: Sequence[int]) -> bool:
        """Keep `tokens`, evaluated with the weights in use, on disk; False if there is no room for them."""
        segments = self._prefix_segments(tokens)
        self._begin()
        return store.put(_state_key(segments), self._generation_sequences().state(segments))

    def restore_prefix(self, store: StateStore, tokens: Sequence[int]) -> int:
        """Bring back what `save_prefix` kept for the same tokens and weights: how many of them need no evaluation now
        (all that are held, or 0).
        """
        segments = self._prefix_segments(tokens)
        self._begin()
        sequences = self._generation_sequences()
        if sequences.common_with(segments) == len(tokens):
            return len(tokens)
        state = store.get(_state_key(segments))
        if state is None:
            return 0
        if sequences.restore(segments, state):
            return len(tokens)
        store.drop(_state_key(segments))
        return 0

    def forget_texts(self) -> None:
        """Overwrite everything that is held evaluated in memory."""
        self._begin()
        if self._generating:
            self._generating.clear()
        if self._scoring:
            self._scoring.clear()

    def _prefix_segments(self, tokens: Sequence[int]) -> list[Segment]:
        self._vocabulary.check(tokens)
        if not tokens or len(tokens) >= self.context_tokens:
            raise PenchantError(f"a prefix to keep must have 1 to {self.context_tokens - 1} tokens")
        return self._in_use.prefix_segments(tokens)

    # ---- scoring

    def score(self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        """Natural-log probability of every token of every continuation, each after `prefix`, under the
        adapters in use.

        Returns one float64 array (len(continuation),) per continuation. The prefix is evaluated once, and not
        again in the next call if it is the same. It needs at least one token (a text's own first token has no
        probability). Adapters for answers act from `activation_start(prefix + continuation, header)` on. Raises
        PenchantError if prefix plus a continuation does not fit in the context.
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
        self._begin()
        scorer = self._scorer()
        results = []
        for tokens in continuations:
            if not len(tokens):
                results.append(np.empty(0, dtype=np.float64))
                continue
            results.append(scorer.score(*self._in_use.split_segments(prefix, tokens)))
        return results

    def hidden(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The last hidden state (after the final norm) of the last token: (n_embd,) float32, under the
        adapters in use.
        """
        self._vocabulary.check(tokens)
        if not tokens or len(tokens) > self.context_tokens:
            raise PenchantError(f"a text must have 1 to {self.context_tokens} tokens to have a hidden state here")
        self._begin()
        return self._scorer().hidden(self._in_use.segments(tokens), self.embeddings_width)

    # ---- adapters and control vectors

    def load_adapter(self, data: bytes, *, sha256: str) -> Adapter:
        """Check an adapter file's bytes and load them from memory; nothing is written to disk where the
        system allows it.

        Raises PenchantError if the digest differs (checked before anything is parsed) or the adapter names
        another base model. Loading the same bytes again returns the same adapter.
        """
        self._open_model()
        return self._in_use.load(data, sha256)

    def use_adapters(self, pairs: Sequence[tuple[Adapter, float]], *, activation: Activation = "always") -> None:
        """From now on add `scale * adapter` for each pair, and nothing else; an empty sequence gives the base
        model back. What other adapters have read stays cached under their names.

        With activation "answer" they act from the last assistant header on only (`activation.py`). Adapters that were
        trained so are always used so, from their own invocation tokens on; they cannot be mixed with others.
        """
        self._open_model()
        self._in_use.use_adapters(pairs, activation)

    @property
    def active_adapters(self) -> tuple[tuple[Adapter, float], ...]:
        """The adapters in use with their scales."""
        return self._in_use.active_adapters

    def use_control_vector(self, vector: NDArray[np.float32] | None) -> None:
        """From now on add row i of `vector` (layers - 1, n_embd) to the output of layer i + 1, for every token; None
        restores the model exactly.
        """
        self._open_model()
        self._in_use.use_control_vector(vector)

    def unload_adapter(self, adapter: Adapter) -> None:
        """Free an adapter's memory; it must not be in use."""
        self._begin()  # an answer under way may hold the adapter's weights
        self._in_use.unload(adapter, self._contexts)

    # ---- inside

    def _check_prompt(self, prompt: Sequence[int], before: int = 0) -> None:
        """Raises PenchantError unless `prompt`, behind `before` other tokens, fits with room for an answer."""
        self._vocabulary.check(prompt)
        if not prompt or before + len(prompt) >= self.context_tokens:
            raise PenchantError(
                f"the prompt has {before + len(prompt)} tokens and the context {self.context_tokens}: "
                "shorten the prompt or open the engine with a larger context"
            )

    def _check_turn(self, turn: int) -> None:
        if self._turn != turn:
            raise PenchantError("the engine was used for something else before this answer ended: ask again")

    def _checked_rows(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        checked = np.array(rows, dtype=np.float32, order="C")
        if checked.ndim != 2 or not len(checked) or checked.shape[1] != self.embeddings_width:
            raise PenchantError(f"a soft prefix must be at least one row of {self.embeddings_width} numbers")
        if not np.isfinite(checked).all():
            raise PenchantError("a soft prefix must be finite numbers")
        return checked

    def _begin(self) -> int:
        self._open_model()
        self._flag.clear()
        self._turn += 1
        return self._turn

    def _generation_sequences(self) -> Sequences:
        if self._generating is None:
            context = self._new_context(self._conversations + BRANCHES, flash=True)
            self._generating = Sequences(context, self._conversations, BRANCHES)
        return self._generating

    def _scorer(self) -> Scorer:
        if self._scoring is None:
            self._scoring = Scorer(self._new_context(1, flash=False))
        return self._scoring

    def _new_context(self, sequences: int, *, flash: bool) -> Context:
        if self._vocabulary_only:
            raise PenchantError("this engine was opened for its vocabulary alone: open it with its weights")
        context = Context(
            self._open_model(),
            cells=self._context_tokens,
            sequences=sequences,
            threads=self._threads,
            flag=self._flag,
            flash=flash,
        )
        self._contexts.append(context)
        return context

    def _open_model(self) -> Any:
        if not self._handle:
            raise PenchantError("this engine is closed: open it again")
        return self._handle


def _state_key(segments: Sequence[Segment]) -> bytes:
    """What a saved state depends on: llama.cpp's version, and every token with the weights that read it."""
    digest = hashlib.sha256(llama_cpp.__version__.encode())
    for segment in segments:
        digest.update(segment.weights.identity.to_bytes(16) + segment.tokens.tobytes())
    return digest.digest()
