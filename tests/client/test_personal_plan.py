"""What is trained on: parts in the order of time, increments, objectives that privacy allows, runs with one name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client import personal_plan
from client.examples import prepare_input, public_examples
from client.frame_builder import build_frame
from client.lifelong import LifelongRecord, LifelongSettings
from client.personal_plan import (
    HELD_OUT_TEXTS,
    OwnTexts,
    Privacy,
    objective_of,
    own_texts,
    plan_run,
    record_for,
    split_texts,
    units_for,
)
from client.tiers import Footing
from client.training import Trainer, open_trainer
from edge_runtime.adapters.adapter_file import Factors
from edge_runtime.device import Device
from edge_runtime.memory.statements import Statement
from protocol.frames import Frame
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_MODEL", str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", 7)))
        open_trainer.cache_clear()
        opened = open_trainer(2)
        yield opened
        opened.engine.close()
        open_trainer.cache_clear()


@pytest.fixture(scope="module")
def frame(trainer: Trainer) -> Frame:
    public = prepare_input(public_examples(trainer.engine, [("Say it.", "here it is"), ("What is it?", "a thing")]))
    return build_frame(trainer.torch_model, trainer.model.sha256, public, kinds=("ffn_down",), rank=2)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """32 messages, remembered in another order than written, and 4 choices."""
    with Device.open(tmp_path, create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        order = np.random.default_rng(0).permutation(32)
        opened.memory.remember_many(Statement(f"thing {n}", "Say it.", day(n)) for n in order)
        for n in (2, 0, 3, 1):
            opened.feedback.add_preference(f"Which {n}?", f"this {n}", "no", said_at=day(n))
        yield opened


def day(number: int) -> str:
    return f"2025-{number // 28 + 1:02d}-{number % 28 + 1:02d}"


def numbers(texts: OwnTexts) -> tuple[list[int], list[int]]:
    messages = [int(item.text.split()[1]) for item in texts.messages]
    return messages, [int(choice.chosen.split()[1]) for choice in texts.choices]


def stand(frame: Frame, beside: Factors | None = None) -> Footing:
    return Footing(np.zeros(frame.dimension), beside or {}, 1.0)


def test_every_part_is_newer_than_the_one_before(device: Device) -> None:
    parts = split_texts(own_texts(device), private=False)
    assert numbers(parts.training) == (list(range(20)), [0, 1])
    assert numbers(parts.stop) == (list(range(20, 24)), [2])
    assert numbers(parts.held_out) == (list(range(24, 32)), [3])
    assert (parts.new, parts.number, len(parts.names)) == (22, 1, 22)
    private = split_texts(own_texts(device), private=True)
    assert len(private.stop) == 0 and numbers(private.training) == (list(range(24)), [0, 1, 2])


def test_no_more_is_held_out_than_the_gate_reads(device: Device) -> None:
    device.memory.remember_many(Statement(f"more {n}", "Say it.", f"2026-01-{n % 28 + 1:02d}") for n in range(200))
    parts = split_texts(own_texts(device), private=False)
    assert len(parts.held_out.messages) == HELD_OUT_TEXTS and len(parts.training) + len(parts.stop) == 195


def test_what_others_said_is_neither_learnt_nor_judged(device: Device) -> None:
    device.memory.remember_many([Statement("thing 99", "Say it.", "2026-01-01", speaker="Ines")])
    assert numbers(own_texts(device))[0] == list(range(32))


def record_of(device: Device, count: int, frame: Frame, *, epsilon: float | None = None) -> LifelongRecord:
    """What is left of a training on the ``count`` oldest messages and the oldest choice."""
    texts = own_texts(device)
    names = split_texts(OwnTexts(texts.messages[:count] * 2, texts.choices[:2]), private=True).names
    return LifelongRecord(frame.digest, np.full(frame.dimension, 0.1), 1, names, epsilon)


def test_an_increment_takes_what_is_new_and_two_windows(device: Device, frame: Frame) -> None:
    record = record_of(device, 16, frame)
    windows = LifelongSettings(recent=4, replayed=4)
    parts = split_texts(own_texts(device), private=False, record=record, lifelong=windows)
    messages, choices = numbers(parts.training)
    assert messages[-8:] == list(range(16, 24)) and messages[-12:-8] == [12, 13, 14, 15] and len(messages) == 16
    assert choices == [0, 1, 2] and (parts.new, parts.number) == (10, 2) and len(parts.stop) == 0
    assert numbers(parts.held_out)[0] == list(range(24, 32))
    private = split_texts(own_texts(device), private=True, record=record)
    assert numbers(private.training) == (list(range(16, 24)), [1, 2])


def test_what_was_learnt_judges_nothing(device: Device, frame: Frame) -> None:
    """A text that is dated into the newest quarter after it was learnt."""
    record = record_of(device, 26, frame)
    assert numbers(split_texts(own_texts(device), private=False, record=record).held_out)[0] == list(range(26, 32))


def test_privacy_keeps_texts_apart(device: Device, trainer: Trainer) -> None:
    texts = own_texts(device)
    plain = objective_of(trainer.engine, texts, private=True, tellings=3)
    assert plain.name == "next_token" and len(plain) == 36 and len(plain.passes()) == 1
    told = objective_of(trainer.engine, texts, private=False, tellings=3)
    assert told.name == "turns" and len(told.passes()) == 3


def test_a_run_is_named_by_texts_settings_and_what_it_goes_on_from(
    device: Device, trainer: Trainer, frame: Frame
) -> None:
    parts, record = split_texts(own_texts(device), private=False), record_of(device, 16, frame)
    plan = plan_run(trainer, frame, parts, None, stand(frame))
    same = plan_run(trainer, frame, parts, None, stand(frame))
    names = [(one.run.texts_sha256, one.run.plan_sha256) for one in (plan, same)]
    assert names[0] == names[1] and not plan.start.any() and plan.epsilon == math.inf
    onwards = plan_run(trainer, frame, parts, None, stand(frame), record)
    assert onwards.run.texts_sha256 == plan.run.texts_sha256 and onwards.run.plan_sha256 != plan.run.plan_sha256
    assert np.array_equal(onwards.start, record.theta)
    device.memory.remember("thing 100", cue="Say it.", said_at="2024-01-01")  # a note of all others, or one more text
    changed = plan_run(trainer, frame, split_texts(own_texts(device), private=False), None, stand(frame))
    assert changed.run.texts_sha256 != plan.run.texts_sha256


def test_an_increment_is_held_back_by_its_anchor(
    device: Device, trainer: Trainer, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal_plan, "LIFELONG", LifelongSettings(strength=1.0))
    parts, record = split_texts(own_texts(device), private=False), record_of(device, 16, frame)
    free = plan_run(trainer, frame, parts, None, stand(frame)).run.work
    held = plan_run(trainer, frame, parts, None, stand(frame), record).run.work
    away = record.theta + 0.5
    pull = held.gradient(away, 0, 0, 16) - free.gradient(away, 0, 0, 16)
    assert np.allclose(pull, pull[0]) and pull[0] > 0
    assert np.allclose(held.gradient(record.theta, 0, 0, 16), free.gradient(record.theta, 0, 0, 16))


def test_conversations_are_larger_units(device: Device) -> None:
    device.memory.remember_many(Statement(f"page {n}", document="letter", position=n) for n in range(3))
    texts = own_texts(device)
    assert units_for(texts, "text").count == len(texts) == 39
    units = units_for(texts, "conversation")
    assert units.count == 37 and sorted(np.concatenate(units.members)) == list(range(39))


def test_what_a_unit_loses_over_increments(device: Device, trainer: Trainer, frame: Frame) -> None:
    """A text is in one increment, a conversation may be in each; noise claims nothing once some had none."""
    record = record_of(device, 16, frame, epsilon=6.0)
    theta = np.zeros(frame.dimension)
    for unit, expected in (("text", 6.0), ("conversation", 10.0)):
        privacy = Privacy(4.0, unit)  # type: ignore[arg-type]
        parts = split_texts(own_texts(device), private=True, record=record)
        plan = plan_run(trainer, frame, parts, privacy, stand(frame), record)
        assert 3.9 < plan.epsilon <= 4.0 and plan.run.noise_multiplier > 0
        after = record_for(plan, parts, privacy, record, frame, theta)
        assert after.epsilon == pytest.approx(expected, abs=0.1) and after.increments == 2
        assert after.learnt == record.learnt | parts.names
    parts = split_texts(own_texts(device), private=False, record=record)
    assert (
        record_for(
            plan_run(trainer, frame, parts, None, stand(frame), record), parts, None, record, frame, theta
        ).epsilon
        is None
    )
