"""Held-out texts behind the prompts that serve: with notes, and never with themselves or with what came later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.examples import Example, make_example
from client.served_prompts import recalled_before, served_choice, served_message
from edge_runtime.answering.drafting import build_draft, plain_draft
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.statements import Statement
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny

WIDE = 10_000
CUE = "Tell Ines about the kiln"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("served")) as opened:
        yield opened


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path, create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        opened.memory.remember_many(
            Statement(text, CUE, day)
            for text, day in (
                ("kiln one", "2025-01-01"),
                ("kiln two", "2025-01-02"),
                ("kiln three", "2025-01-02"),
                ("kiln four", "2025-01-02"),
                ("kiln five", "2025-01-03"),
            )
        )
        yield opened


def prompt_of(engine: Engine, example: Example) -> str:
    return engine.detokenise(example.tokens[: example.prompt_length], special=True)


def test_notes_are_older_than_the_text_also_within_a_day(engine: Engine, device: Device) -> None:
    third = device.memory.items()[2]
    shown = prompt_of(engine, served_message(engine, device.memory, third, room=WIDE))
    assert "kiln one" in shown and "kiln two" in shown
    assert not any(word in shown for word in ("kiln three", "kiln four", "kiln five"))


def test_the_prompt_is_the_one_that_drafting_builds(engine: Engine, device: Device) -> None:
    """The newest text of all: what `penchant draft` would have recalled is all that is left besides it."""
    last = device.memory.items()[-1]
    made = served_message(engine, device.memory, last, room=WIDE)
    device.memory.forget_traces([last.id], lambda text: False)
    notes = device.memory.recall(CUE, k=2, as_of=last.said_at)
    assert len(notes) == 2 and made == make_example(engine, build_draft(CUE, notes), last.text)


def test_the_same_words_said_earlier_are_no_note(engine: Engine, device: Device) -> None:
    again = device.memory.remember("Kiln  ONE", cue="Tell Ines about the kiln again", said_at="2025-02-01")
    found = recalled_before(
        device.memory, again.cue, said_at=again.said_at, text=again.text, item_id=again.id, k=9, floor=0.0
    )
    assert {one.item.text for one in found} == {"kiln two", "kiln three", "kiln four", "kiln five"}


def test_the_first_text_has_no_note_and_the_form_of_a_draft(engine: Engine, device: Device) -> None:
    first = device.memory.items()[0]
    shown = prompt_of(engine, served_message(engine, device.memory, first, room=WIDE))
    assert "kiln one" not in shown and shown == engine.chat_prompt(build_draft(CUE))
    assert shown != engine.chat_prompt(plain_draft(CUE))


def test_notes_that_do_not_fit_are_left_out_weakest_first(engine: Engine, device: Device) -> None:
    device.memory.forget_all()  # the worked turns that stand in for short notes are longer than these
    device.memory.remember_many(
        Statement(" ".join([word] * 60), CUE, day) for word, day in (("clay", "2025-01-01"), ("kiln", "2025-01-02"))
    )
    last = device.memory.remember("kiln", cue=CUE, said_at="2025-01-03")
    best = device.memory.recall(CUE, k=2, as_of="2025-01-02")[0].item.text.split()[0]
    other = "clay" if best == "kiln" else "kiln"
    whole = served_message(engine, device.memory, last, room=WIDE)
    tighter = served_message(engine, device.memory, last, room=whole.prompt_length - 1)
    none = served_message(engine, device.memory, last, room=1)
    assert f"{best} {best}" in prompt_of(engine, tighter) and f"{other} {other}" not in prompt_of(engine, tighter)
    assert prompt_of(engine, none) == engine.chat_prompt(build_draft(CUE)) and none.tokens[-4:] == whole.tokens[-4:]


def test_a_choice_is_answered_from_notes_of_its_time(engine: Engine, device: Device) -> None:
    device.memory.remember("My cat is called Minou.", said_at="2025-01-01")
    device.memory.remember("My cat is called Felix.", said_at="2025-03-01")
    device.feedback.add_preference("What is my cat called?", "Minou, your cat.", "no", said_at="2025-02-01")
    device.feedback.add_preference("What is two and two?", "Four.", "Five.", said_at="2025-02-01")
    about, general = device.feedback.preferences()
    shown = prompt_of(engine, served_choice(engine, device.memory, about, room=WIDE))
    assert "- My cat is called Minou." in shown and "Felix" not in shown and "Key words" in shown
    assert "Notes" not in prompt_of(engine, served_choice(engine, device.memory, general, room=WIDE))
