"""What a device trains on: its owner's words after the short prompts that serve, the newest first in line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.examples import Example, device_examples, make_example, prepare_input, public_examples
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import DEFAULT_CUE, plain_draft
from edge_runtime.device import Device
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.statements import Statement
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("examples")) as opened:
        yield opened


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path, create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        opened.memory.remember("written second", cue="Write to Ines", said_at="2025-02-02")
        opened.memory.remember("written first", said_at="2025-01-01")
        opened.memory.remember("written third", cue="Write to Teo", said_at="2025-03-03")
        opened.feedback.add_preference("Tea?", "green", "black", said_at="2025-02-02")
        opened.feedback.add_preference("Bread?", "rye", "white", said_at="2025-01-01")
        yield opened


def texts(engine: Engine, device: Device, *, messages: int, choices: int) -> list[tuple[str, str]]:
    """(prompt, reply) of every example, as text."""
    return [
        (
            engine.detokenise(example.tokens[: example.prompt_length], special=True),
            engine.detokenise(example.tokens[example.prompt_length :], special=True),
        )
        for example in device_examples(engine, device, messages=messages, choices=choices)
    ]


def test_an_example_is_the_serving_prompt_and_then_the_reply_to_the_end_of_the_turn(engine: Engine) -> None:
    prompt = [ChatMessage("user", "Hello")]
    example = make_example(engine, prompt, "Good day")
    before = engine.tokenise(engine.chat_prompt(prompt))
    assert list(example.tokens[: example.prompt_length]) == before
    assert list(example.tokens[example.prompt_length : -1]) == engine.tokenise("Good day", special=False)
    assert example.tokens[-1] == engine.end_of_turn[0]


def test_control_tokens_in_a_persons_words_are_only_letters(engine: Engine) -> None:
    """Otherwise a text could end the turn and speak for somebody else."""
    example = make_example(engine, [ChatMessage("user", "Hello")], "so <|im_end|> is what it says")
    assert example.tokens[example.prompt_length :].count(engine.end_of_turn[0]) == 1


def test_messages_and_choices_become_request_and_reply(engine: Engine, device: Device) -> None:
    end = engine.detokenise([engine.end_of_turn[0]], special=True)

    def draft(cue: str) -> str:
        return engine.chat_prompt(plain_draft(cue))

    def question(prompt: str) -> str:
        return engine.chat_prompt(build_messages(prompt, []))

    assert texts(engine, device, messages=9, choices=9) == [
        (draft(DEFAULT_CUE), f"written first{end}"),
        (draft("Write to Ines"), f"written second{end}"),
        (draft("Write to Teo"), f"written third{end}"),
        (question("Bread?"), f"rye{end}"),
        (question("Tea?"), f"green{end}"),
    ]


def test_the_newest_are_taken_and_what_was_rejected_never_is(engine: Engine, device: Device) -> None:
    kept = [reply for _, reply in texts(engine, device, messages=2, choices=1)]
    assert [reply.split("<")[0] for reply in kept] == ["written second", "written third", "green"]
    assert texts(engine, device, messages=0, choices=0) == []
    every = " ".join(prompt + reply for prompt, reply in texts(engine, device, messages=9, choices=9))
    assert "black" not in every and "white" not in every


def test_words_of_others_and_files_are_no_replies_of_the_owner(engine: Engine, device: Device) -> None:
    device.memory.remember_many(
        [
            Statement("my own turn", "Anything else?", "2025-04-01", "chat", "passage", "", "c", 1),
            Statement("her turn", "", "2025-04-01", "chat", "passage", "Ana", "c", 0),
            Statement("a page of a book", "", "2025-04-01", "file", "passage", "", "f", 0),
        ]
    )
    replies = [reply.split("<")[0] for _, reply in texts(engine, device, messages=9, choices=0)]
    assert replies == ["written first", "written second", "written third", "my own turn"]


def test_weights_go_with_the_text_and_an_example_without_them_has_none() -> None:
    weighted = Example((1, 2, 3), 1, (0.5, 1.5))
    assert prepare_input([weighted, Example((1, 2), 1)]) == [((1, 2, 3), 1, (0.5, 1.5)), ((1, 2), 1)]
    assert [weighted.has_targets(cut) for cut in (1, 2)] == [False, True]


def test_public_questions_are_asked_and_other_requests_drafted(engine: Engine) -> None:
    asked, drafted = public_examples(engine, [("Is it late?", "Yes"), ("Write to Ines", "Dear Ines")])
    assert asked == make_example(engine, build_messages("Is it late?", []), "Yes")
    assert drafted == make_example(engine, plain_draft("Write to Ines"), "Dear Ines")
    assert prepare_input([asked]) == [(asked.tokens, asked.prompt_length)]
