"""One answer on the worker: options, events, and what happens when its reader goes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.answering.pipeline import AnswerOptions
from edge_runtime.api.answers import Asked, Ended, answer, check_conversation
from edge_runtime.api.errors import NotFoundError
from edge_runtime.api.session import Session
from edge_runtime.device import Device
from edge_runtime.engine.sampling import Sampling
from tests.edge_runtime.api.api_helpers import CountingHashingEmbedder, ScriptedEngine, make_device, new_session


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(make_device(tmp_path / "home"), embedder=CountingHashingEmbedder()) as opened:
        yield opened


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Session]:
    """A session that only lends its rules about adapters."""
    session = new_session(tmp_path / "home")
    yield session
    session.close()


def events(session: Session, device: Device, engine: ScriptedEngine, asked: Asked) -> list[Any]:
    engine_: Any = engine
    return list(answer(session, asked, device, engine_))


def test_pieces_come_before_the_end_which_names_the_sources(
    closed: Session, device: Device, engine: ScriptedEngine
) -> None:
    device.memory.remember("My dog is called Bruno")
    *pieces, ended = events(closed, device, engine, Asked("What is my dog called?"))
    assert "".join(pieces) == "Your dog is called Bruno." and isinstance(ended, Ended)
    assert ended.finish_reason == "stop" and ended.completion_tokens == 5 and ended.turn is None
    assert [(one["id"], one["cited"]) for one in ended.sources] == [("memory:1", True)]


def test_wishes_become_options_and_the_assistants_own_choice_is_kept(
    closed: Session, device: Device, engine: ScriptedEngine
) -> None:
    events(closed, device, engine, Asked("Hello there, what is new?"))
    assert engine.max_tokens == AnswerOptions().max_tokens and engine.sampling == AnswerOptions().sampling
    wishes = Asked("Hello there, what is new?", max_tokens=10**9, sampling=Sampling(temperature=0.5))
    events(closed, device, engine, wishes)
    assert engine.max_tokens == engine.context_tokens // 2 and engine.sampling == Sampling(temperature=0.5)


def test_what_was_said_is_kept_when_the_reader_goes_away(
    closed: Session, device: Device, engine: ScriptedEngine
) -> None:
    conversation = device.conversations.new()
    engine_: Any = engine
    running: Any = answer(closed, Asked("What is my dog called?", conversation=conversation), device, engine_)
    assert next(running) == "Your dog"
    running.close()
    question, said = device.conversations.turns(conversation)
    assert (question.role, said.role, said.text) == ("user", "assistant", "Your dog")
    assert said.audit is not None and said.audit["stopped"] is True


def test_an_unknown_conversation_is_not_found(device: Device) -> None:
    with pytest.raises(NotFoundError):
        check_conversation(device, "nothing")
    check_conversation(device, device.conversations.new())
