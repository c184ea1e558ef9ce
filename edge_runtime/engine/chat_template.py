"""A conversation as one prompt, by the chat template that the model's own file carries.

The template comes from a downloaded file, so it runs in jinja2's immutable sandbox: it can shape text and
nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from protocol.errors import PenchantError


@dataclass(frozen=True)
class ChatMessage:
    """One turn; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


def render_chat(
    template: str,
    messages: Sequence[ChatMessage],
    begin_token: str,
    end_token: str,
    *,
    continue_assistant: bool,
) -> str:
    """`messages` rendered by a jinja2 chat template, as transformers' `apply_chat_template` does.

    `continue_assistant` ends the prompt with the header of the assistant's turn. No message is added here;
    some templates add a system prompt of their own when the first message is not one. Raises PenchantError
    where the template refuses.
    """
    if not messages:
        raise PenchantError("a conversation needs at least one message")
    try:
        return _compiled(template).render(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            add_generation_prompt=continue_assistant,
            bos_token=begin_token,
            eos_token=end_token,
        )
    except TemplateError as error:
        raise PenchantError(f"the model's chat template does not accept this conversation: {error}") from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
