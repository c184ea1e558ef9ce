"""What a device trains on: its owner's own words, in the forms of the prompts that serve.

Two kinds of example, both "request -> reply": a remembered message with the request it answered (``cue``), and a
preferred answer. What a model said is never among them (the memory refuses it), nor what other people wrote in chats
and mails that the owner brought in. Files that the owner brought in may be anybody's writing: they are no replies
(``client/objectives/unlabelled.py`` reads them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.torch_model import Text
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import DEFAULT_CUE, plain_draft
from edge_runtime.device import Device
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.statements import MemoryItem


@dataclass(frozen=True)
class Example:
    """Token ids of prompt and reply; the first ``prompt_length`` are not trained on. ``weights`` multiply the losses of
    the tokens after the prompt, one each; empty: all 1."""

    tokens: tuple[int, ...]
    prompt_length: int
    weights: tuple[float, ...] = ()

    @property
    def text(self) -> Text:
        """The form that ``TorchModel.prepare`` takes."""
        if self.weights:
            return self.tokens, self.prompt_length, self.weights
        return self.tokens, self.prompt_length

    def has_targets(self, max_tokens: int) -> bool:
        """Whether there is anything to train on once the text is cut to ``max_tokens``."""
        return min(len(self.tokens), max_tokens) > self.prompt_length


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
    written = own_messages(device)
    return [message_example(engine, item) for item in written[max(0, len(written) - newest) :]]


def choice_examples(engine: Engine, device: Device, newest: int) -> list[Example]:
    """The ``newest`` preferred answers, in the order of their dates (within a day, of being stored)."""
    preferred = own_choices(device)
    return [choice_example(engine, choice) for choice in preferred[max(0, len(preferred) - newest) :]]


def own_messages(device: Device) -> list[MemoryItem]:
    """What the owner told the device or wrote in chats and mails, in the order of their dates."""
    items = [item for item in device.memory.items() if not item.speaker]
    return sorted(
        (item for item in items if item.kind == "statement" or item.source != "file"),
        key=lambda item: (item.said_at, item.id),
    )


def own_choices(device: Device) -> list[Preference]:
    """The owner's choices, edits among them, in the order of their dates."""
    return sorted(device.feedback.preferences(), key=lambda choice: (choice.said_at, choice.id))


def message_example(engine: Engine, item: MemoryItem) -> Example:
    """A remembered message after the request it answered, without notes."""
    return make_example(engine, plain_draft(item.cue or DEFAULT_CUE), item.text)


def choice_example(engine: Engine, choice: Preference) -> Example:
    """A preferred answer after its question, without notes."""
    return make_example(engine, build_messages(choice.prompt, []), choice.chosen)


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


def prepare_input(examples: Sequence[Example]) -> list[Text]:
    """The form that ``TorchModel.prepare`` takes."""
    return [example.text for example in examples]
