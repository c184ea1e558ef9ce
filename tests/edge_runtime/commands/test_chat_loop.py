"""The chat: what it keeps, what a private one keeps, follow-ups, feedback and the audit, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.answering.pipeline import AnswerOptions
from edge_runtime.commands.chat_loop import Chat
from edge_runtime.device import Device
from tests.edge_runtime.answering.test_answering import RecordingEngine
from tests.edge_runtime.memory_helpers import HashingEmbedder


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path, create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        yield opened


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


def talk(
    device: Device,
    engine: RecordingEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *lines: str,
    private: bool = False,
) -> list[Any]:
    """What a chat in JSON prints for these lines."""
    typed = iter(lines)

    def read(_: str = "") -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    Chat(device, engine, AnswerOptions(), as_json=True, private=private).read_lines()  # type: ignore[arg-type]
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def say(
    device: Device, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    return lambda *lines, **how: talk(device, engine, monkeypatch, capsys, *lines, **how)


def test_a_chat_is_kept_and_a_new_one_is_another(device: Device, say: Any) -> None:
    device.memory.remember("My dog is called Bruno")
    first, _, third = say("What is my dog called?", "Is it old?", "/new", "What is my dog called?")
    assert first["turn"] == 2 and first["sources"][0]["id"] == "memory:1" and first["sources"][0]["cited"] is True
    assert third["turn"] == 6
    assert sorted(row.turns for row in device.conversations.listing()) == [2, 4]
    assert len(device.memory) == 1  # what the model said is no memory


def test_a_private_chat_keeps_nothing_but_knows_what_was_said(
    device: Device, engine: RecordingEngine, say: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answered = say("What is my dog called?", "And why?", "/up", private=True)
    assert [row["turn"] for row in answered] == [None, None]
    assert "<user> What is my dog called?" in engine.prompt and "<assistant> Your dog is Bruno." in engine.prompt
    assert device.conversations.listing() == [] and device.feedback.ratings() == []


def test_feedback_goes_to_the_last_answer(device: Device, say: Any) -> None:
    _, rated, edited, audit = say("What is my dog called?", "/up good", "/edit He is called Bruno.", "/why")
    assert rated == {"rated": 2, "up": True} and edited["edited"] == 2
    (rating,), (preference,) = device.feedback.ratings(), device.feedback.preferences()
    assert (rating.prompt, rating.note) == ("What is my dog called?", "good")
    assert (preference.chosen, preference.rejected) == ("He is called Bruno.", "Your dog is Bruno.")
    assert audit["model_sha256"] == "ab" * 32 and audit["prompt_tokens"]["total"] > 0


def test_a_bad_line_does_not_end_the_talk(
    device: Device, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["/down", "/nonsense", "remember that I like tea", "/quit", "remember that I like gin"])
    monkeypatch.setattr("builtins.input", lambda _="": next(typed))
    Chat(device, engine, AnswerOptions(), as_json=False, private=False).read_lines()  # type: ignore[arg-type]
    shown = capsys.readouterr()
    assert "nothing has been answered yet" in shown.err and "start over" in shown.out
    assert [item.text for item in device.memory.items()] == ["I like tea"]
