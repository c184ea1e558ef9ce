"""What a device trains on: its owner's own words, in the short form of the prompts that serve.

Two kinds of example, both "request -> reply": a remembered message with the request it answered (``cue``), and a
preferred answer. What a model said is never among them (the memory refuses it). Without notes in the prompt: the
adapter learns the voice, the notes carry the facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import DEFAULT_CUE, plain_draft
from edge_runtime.device import Device
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine


@dataclass(frozen=True)
class Example:
    """Token ids of prompt and reply; the first ``prompt_length`` are not trained on."""

    tokens: tuple[int, ...]
    prompt_length: int


def make_example(engine: Engine, prompt: Sequence[ChatMessage], reply: str) -> Example:
    """Tokenise one prompt and the reply that its owner gave or chose, up to the end of the turn."""
    before = engine.tokenise(engine.chat_prompt(prompt))
    answer = [*engine.tokenise(reply, special=False), engine.end_of_turn[0]]
    return Example(tuple(before + answer), len(before))


def device_examples(engine: Engine, device: Device, *, messages: int, choices: int) -> list[Example]:
    """The newest ``messages`` remembered messages and ``choices`` preferred answers of a device."""
    return message_examples(engine, device, messages) + choice_examples(engine, device, choices)


def message_examples(engine: Engine, device: Device, newest: int) -> list[Example]:
    """The ``newest`` remembered messages, in the order of their dates (within a day, of being remembered)."""
    written = sorted(device.memory.items(), key=lambda item: (item.said_at, item.id))
    return [
        make_example(engine, plain_draft(item.cue or DEFAULT_CUE), item.text)
        for item in written[max(0, len(written) - newest) :]
    ]


def choice_examples(engine: Engine, device: Device, newest: int) -> list[Example]:
    """The ``newest`` preferred answers, in the order of their dates (within a day, of being stored)."""
    preferred = sorted(device.feedback.preferences(), key=lambda choice: (choice.said_at, choice.id))
    return [
        make_example(engine, build_messages(choice.prompt, []), choice.chosen)
        for choice in preferred[max(0, len(preferred) - newest) :]
    ]


def public_examples(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[Example]:
    """Public pairs (request, reply): questions in the prompt of answering, the others in that of drafting."""
    return [
        make_example(
            engine,
            build_messages(request, []) if request.endswith("?") else plain_draft(request),
            reply,
        )
        for request, reply in pairs
    ]


def prepare_input(examples: Sequence[Example]) -> list[tuple[Sequence[int], int]]:
    """The form that ``TorchModel.prepare`` takes."""
    return [(example.tokens, example.prompt_length) for example in examples]
