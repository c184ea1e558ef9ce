"""Text to tokens and back for one model, and conversations in its own chat template."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama

from edge_runtime.engine import llama_bindings
from edge_runtime.engine.chat_template import ChatMessage, render_chat
from protocol.errors import PenchantError


class Vocabulary:
    """The vocabulary of a loaded model; valid as long as the model is."""

    def __init__(self, model_handle: Any, model_name: str) -> None:
        self._model, self._model_name = model_handle, model_name
        self._handle = llama.llama_model_get_vocab(model_handle)
        self.size = int(llama.llama_vocab_n_tokens(self._handle))

    @functools.cached_property
    def end_of_turn(self) -> tuple[int, ...]:
        """Tokens that end an answer; the first is the one that the model's template writes after a turn."""
        named = (llama.llama_vocab_eos(self._handle), llama.llama_vocab_eot(self._handle))
        return tuple(dict.fromkeys(int(token) for token in named if token >= 0))

    @functools.cached_property
    def answer_header(self) -> tuple[int, ...]:
        """The tokens that the model's template writes where the assistant is to speak."""
        turn = [ChatMessage("user", "x")]
        asked, opened = (
            self.tokenise(self.chat_prompt(turn, continue_assistant=go_on), special=True, add_bos=False)
            for go_on in (False, True)
        )
        if len(opened) <= len(asked) or opened[: len(asked)] != asked:
            raise PenchantError(
                f"the chat template of {self._model_name} has no header for answers: use adapters always"
            )
        return tuple(opened[len(asked) :])

    def ends_answer(self, token: int) -> bool:
        """Whether the model's file names `token` as one that ends generation."""
        return bool(llama.llama_vocab_is_eog(self._handle, token))

    def check(self, tokens: Sequence[int]) -> None:
        """Raises PenchantError if an id is not in the vocabulary (llama.cpp would read outside its tables)."""
        if len(tokens) and not (min(tokens) >= 0 and max(tokens) < self.size):
            raise PenchantError(f"a token id lies outside the model's vocabulary of {self.size}")

    def tokenise(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        """Token ids; `special` reads control tokens in the text, `add_bos` adds what begins every text."""
        return llama_bindings.tokenise(self._handle, text, add_special=add_bos, parse_special=special)

    def bytes_of(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; control tokens give b"" unless `special`."""
        return llama_bindings.token_bytes(self._handle, token, special=special)

    def detokenise(self, ids: Sequence[int], *, special: bool) -> str:
        """The text of `ids`; bytes that are no UTF-8 become replacement characters."""
        self.check(ids)
        return b"".join(self.bytes_of(int(token), special=special) for token in ids).decode("utf-8", "replace")

    def chat_prompt(self, messages: Sequence[ChatMessage], *, continue_assistant: bool) -> str:
        """`messages` in the model's template. Control tokens written inside a message are defused with a
        space: otherwise a remembered web page could open a turn of its own.
        """
        source = llama.llama_model_chat_template(self._model, None)
        if not source:
            raise PenchantError(f"{self._model_name} has no chat template: use an instruction-tuned model")
        safe = [ChatMessage(message.role, self._defuse(message.content)) for message in messages]
        begin, end = (
            self.bytes_of(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
            for token in (llama.llama_vocab_bos(self._handle), llama.llama_vocab_eos(self._handle))
        )
        return render_chat(source.decode("utf-8"), safe, begin, end, continue_assistant=continue_assistant)

    def _defuse(self, text: str) -> str:
        return self._control_pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    @functools.cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        """Matches the text of every control token of more than one character."""
        texts = (
            self.bytes_of(token, special=True).decode("utf-8", "replace")
            for token in range(self.size)
            if llama.llama_vocab_is_control(self._handle, token)
        )
        longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
