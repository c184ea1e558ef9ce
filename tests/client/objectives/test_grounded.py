"""Replies behind the prompt that memory would have given them: earlier texts, never the text itself or a later one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.objectives.grounded import MAX_TOKENS, ROOM, grounded
from client.objectives.next_token import next_token
from client.served_prompts import served_choice, served_message
from edge_runtime.device import Device
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path, create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        for day, text in (("01", "kiln one"), ("02", "kiln two"), ("03", "kiln three")):
            opened.memory.remember(text, cue="Tell Ines about the kiln", said_at=f"2025-01-{day}")
        opened.feedback.add_preference("What is in the kiln?", "pots", "cats", said_at="2025-01-02")
        yield opened


def test_the_prompts_are_those_of_serving_and_the_replies_those_of_plain_training(
    tmp_path: Path, device: Device
) -> None:
    messages, choices = device.memory.items(), device.feedback.preferences()
    with open_tiny(tmp_path) as engine:
        made = grounded(engine, device.memory, messages, choices, weight=0.5)
        expected = [served_message(engine, device.memory, message, room=ROOM) for message in messages]
        assert list(made.examples) == [*expected, served_choice(engine, device.memory, choices[0], room=ROOM)]
        plain = next_token(engine, messages, choices).examples
        prompts = []
        for short, long in zip(plain, made.examples, strict=True):
            assert short.tokens[short.prompt_length :] == long.tokens[long.prompt_length :]
            prompts.append(engine.detokenise(long.tokens[: long.prompt_length]))
    held = [[word for word in ("one", "two", "three") if f"kiln {word}" in prompt] for prompt in prompts]
    assert held[:3] == [[], ["one"], ["one", "two"]]
    assert (made.weight, made.max_tokens) == (0.5, MAX_TOKENS) and ROOM < MAX_TOKENS


def test_a_message_takes_part_in_the_examples_of_later_ones(tmp_path: Path, device: Device) -> None:
    """Which is why it is refused in private training: one text would change many gradients."""
    messages = device.memory.items()
    with open_tiny(tmp_path) as engine:
        before = grounded(engine, device.memory, messages[2:], []).examples
        device.memory.edit(messages[0].id, "an old oven")
        assert grounded(engine, device.memory, messages[2:], []).examples != before
