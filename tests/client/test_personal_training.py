"""`penchant train`: the newest texts are kept out, and only a sure gain is installed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import client.personal_training as personal
from client.dp_sgd import PrivateResult
from client.examples import Example, choice_examples, device_examples, message_examples
from client.training import Trainer, open_trainer
from edge_runtime.adapters.adapter_file import read_adapter_metadata
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.tiny_model import write_tiny_model


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device on the tiny model with 12 messages and 4 choices, remembered in another order than written."""
    monkeypatch.setenv("PENCHANT_MODEL", str(write_tiny_model(tmp_path / "tiny.gguf", seed=0)))
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(personal, "public_text", lambda: [("Say it.", "here it is"), ("What is it?", "a thing")])
    open_trainer.cache_clear()
    with Device.open(tmp_path / "home", create=True, key_method="file") as opened:
        monkeypatch.setattr(Device, "memory", Memory(opened.vault, HashingEmbedder()))
        order = np.random.default_rng(0).permutation(12)
        opened.memory.remember_many(Statement(text_of(n), "Say it.", f"2025-01-{n + 1:02d}") for n in order)
        for n in (2, 0, 3, 1):
            opened.feedback.add_preference(f"Which {n}?", choice_of(n), "no", said_at=f"2025-02-{n + 1:02d}")
        yield opened
    open_trainer.cache_clear()


def text_of(number: int) -> str:
    return f"the {chr(97 + number) * 3} and the thing"


def choice_of(number: int) -> str:
    return f"you and {chr(112 + number) * 3}"


def replies(trainer: Trainer, examples: list[Example]) -> list[str]:
    texts = [trainer.engine.detokenise(list(example.tokens[example.prompt_length : -1])) for example in examples]
    return [text.strip() for text in texts]


def test_the_newest_quarter_of_each_kind_is_kept_out(device: Device) -> None:
    trainer = open_trainer(2)
    messages, choices = message_examples(trainer.engine, device, 99), choice_examples(trainer.engine, device, 99)
    older, newest = personal.split_newest(messages)
    assert replies(trainer, older + newest) == [text_of(n) for n in range(12)]
    assert replies(trainer, newest) == [text_of(n) for n in (9, 10, 11)]
    assert replies(trainer, personal.split_newest(choices)[1]) == [choice_of(3)]
    assert device_examples(trainer.engine, device, messages=2, choices=1) == messages[-2:] + choices[-1:]
    assert [len(personal.split_newest(messages[:n])[1]) for n in (0, 1, 2, 4, 5, 8, 9)] == [0, 0, 1, 1, 2, 2, 3]


def test_the_gain_is_paired_and_one_sided() -> None:
    before, after = [3.0, 5.0, 4.0, 6.0], [2.9, 4.8, 4.05, 5.7]
    mean, low = personal.paired_gain(before, after)
    assert mean == pytest.approx(0.1375)
    # by hand: s = 0.1493, t(0.9, 3 degrees of freedom) = 1.6377 from the tables
    assert low == pytest.approx(0.1375 - 1.6377 * 0.14930 / 2, abs=1e-4)
    worse = personal.paired_gain(after, before)
    assert worse[0] == pytest.approx(-mean) and worse[1] < worse[0] < 0
    # One lucky text among many that do not change is no sure gain, though the mean is positive.
    assert personal.paired_gain([1.0] * 8, [0.0] + [1.0] * 7)[1] < 0 < personal.paired_gain([1.0] * 8, [0.9] * 8)[1]
    assert personal.paired_gain([1.0], [0.5]) == (0.5, -math.inf)


def test_fewer_texts_than_needed_are_refused(device: Device) -> None:
    device.memory.forget_all()
    device.feedback.forget_all()
    with pytest.raises(PenchantError, match="0 texts"):
        personal.train_device(device, epsilon=None, created="2025-03-01", on_progress=lambda stage, fraction: None)


def train_with(
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    effect: Callable[[int], float],
    epsilon: float | None = None,
) -> tuple[personal.TrainingOutcome, list[Example]]:
    """Train on the tiny model; text i's loss under the new adapter is its loss without, minus `effect(i)`."""
    trained: list[Example] = []
    original = personal._held_out_losses

    def losses(engine: Engine, examples: list[Example], adapter: bytes | None) -> list[float]:
        plain = original(engine, examples, None)
        if adapter is None or adapter in known:
            return plain
        return [loss - effect(number) for number, loss in enumerate(plain)]

    def noted(examples: list[Example]) -> list[tuple[tuple[int, ...], int]]:
        trained.extend(examples)
        return [(example.tokens, example.prompt_length) for example in examples]

    known = [data for version in [AdapterLog(device.vault).live()] if version for data in [version[1]]]
    monkeypatch.setattr(personal, "_held_out_losses", losses)
    monkeypatch.setattr(personal, "prepare_input", noted)
    frame = personal.own_frame(open_trainer(2), lambda fraction: None)
    trained.clear()
    monkeypatch.setattr(personal, "own_frame", lambda trainer, on_progress: frame)
    outcome = personal.train_device(
        device, epsilon=epsilon, created="2025-03-01", on_progress=lambda stage, fraction: None
    )
    return outcome, trained


def test_a_sure_gain_is_installed_and_claims_no_privacy_without_noise(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, trained = train_with(device, monkeypatch, lambda number: 0.1 + 0.01 * number)
    assert (outcome.texts, outcome.held_out) == (12, 4)
    assert 5 < outcome.loss_before < 12  # log(280) is 5.6: the tiny model knows nothing
    held_out = [text_of(n) for n in (9, 10, 11)] + [choice_of(3)]
    assert not set(replies(open_trainer(2), trained)) & set(held_out) and len(trained) == 12
    assert outcome.gain == pytest.approx(outcome.loss_before - outcome.loss_after) == pytest.approx(0.115)
    assert 0 < outcome.gain_low < outcome.gain
    live = AdapterLog(device.vault).live()
    assert live is not None and outcome.installed == live[0]
    assert live[0].epsilon is None and read_adapter_metadata(live[1]).epsilon is None


def test_a_gain_of_one_text_is_not_installed(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, _ = train_with(device, monkeypatch, lambda number: 1.0 if number == 0 else 0.0)
    assert outcome.gain > 0 > outcome.gain_low
    assert outcome.installed is None and AdapterLog(device.vault).versions() == []


def test_with_noise_the_adapter_states_its_epsilon(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def private(
        model: object, frame: object, texts: object, start: np.ndarray, *rest: object, **named: object
    ) -> object:
        return PrivateResult(start + 0.01, 3.5, 1.0, 1)

    monkeypatch.setattr(personal, "train_privately", private)
    outcome, _ = train_with(device, monkeypatch, lambda number: 0.2, epsilon=4.0)
    assert outcome.installed is not None and outcome.installed.epsilon == 3.5 and outcome.epsilon == 3.5
