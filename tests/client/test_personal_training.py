"""`penchant train`: the newest texts are kept out, and only a sure gain is installed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import client.personal_training as personal
from client.examples import Example, choice_examples, device_examples, message_examples
from client.training import Trainer, open_trainer
from client.training_ledger import TrainingLedger
from client.training_run import TrainingPaused, kept_state
from edge_runtime.adapters.adapter_file import read_adapter_metadata
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.adapters.versions import compare
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.forgetting import forget
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from edge_runtime.store.vault import LEARNT_PREFIX
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
    original = personal.text_losses

    def losses(engine: Engine, examples: list[Example], adapter: bytes | None) -> list[float]:
        plain = original(engine, examples, None)
        if adapter is None or adapter in known:
            return plain
        return [loss - effect(number) for number, loss in enumerate(plain)]

    def noted(examples: list[Example]) -> list[tuple[tuple[int, ...], int]]:
        trained.extend(examples)
        return [(example.tokens, example.prompt_length) for example in examples]

    known = [data for version in [AdapterLog(device.vault).live()] if version for data in [version[1]]]
    monkeypatch.setattr(personal, "text_losses", losses)
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
    outcome, trained = train_with(device, monkeypatch, lambda number: 0.2, epsilon=4.0)
    assert outcome.installed is not None and outcome.installed.epsilon == outcome.epsilon
    assert 3.9 < outcome.epsilon <= 4.0 and len(trained) == 12 and outcome.stop_texts == 0
    (entry,) = TrainingLedger(device.vault).entries()
    assert entry.steps == entry.planned == outcome.steps == 12
    assert outcome.epsilon_so_far == pytest.approx(outcome.epsilon)
    again, _ = train_with(device, monkeypatch, lambda number: -0.2, epsilon=4.0)
    assert again.installed is None and again.epsilon == outcome.epsilon < again.epsilon_so_far  # refused, yet counted


def test_what_a_version_was_judged_by_is_kept_for_comparison(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = train_with(device, monkeypatch, lambda number: 0.1)
    assert first.installed is not None and kept_state(device.vault) is None
    against_none = compare(device.vault, None, first.installed.id)
    assert against_none.texts == 4 and against_none.gain == pytest.approx(0.1)
    assert read_adapter_metadata(AdapterLog(device.vault).live()[1]).parent_sha256 == ""  # type: ignore[index]
    refused, _ = train_with(device, monkeypatch, lambda number: 0.0)
    assert refused.installed is None
    forget(device, [1])
    with pytest.raises(PenchantError, match="never judged"):
        compare(device.vault, None, first.installed.id)


def test_with_enough_texts_some_decide_when_to_stop(device: Device) -> None:
    device.memory.remember_many(Statement(f"{text_of(n)} again", "Say it.", f"2025-03-{n + 1:02d}") for n in range(20))
    trainer = open_trainer(2)
    training, stop, held_out = personal._split_texts(trainer, device, private=False)
    assert (len(training), len(stop), len(held_out)) == (22, 5, 9)  # 24 and 3 of 32 and 4, then 20 and 2
    messages = message_examples(trainer.engine, device, 99)
    order = [messages.index(example) for example in training + stop + held_out if example in messages]
    assert sorted(order) == list(range(32)) and max(order[:20]) < min(order[20:24]) < 24 <= min(order[-8:])
    assert personal._split_texts(trainer, device, private=True)[1] == []


def test_a_pause_outside_the_steps_and_a_resumed_gate(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused while judging: the steps are not done again, and the next call judges."""
    with pytest.raises(TrainingPaused, match="goes on where it stopped"):
        train(device, wants_pause=lambda: "Dinner")
    assert kept_state(device.vault) is None

    reached = list[str]()
    with pytest.raises(TrainingPaused):
        train(device, stages=reached, wants_pause=lambda: "Dinner" if "judging on held-out texts" in reached else None)
    state, lines = kept_state(device.vault), list[str]()
    assert state is not None and state.step == 3
    outcome = train(device, lines=lines)
    assert "after step 3 of at most 3" in lines[0] and kept_state(device.vault) is None
    assert outcome.seconds == state.seconds and [e.steps for e in TrainingLedger(device.vault).entries()] == [3]


def test_what_was_forgotten_while_it_trained_is_in_no_adapter(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetting(engine: Engine, examples: list[Example], adapter: bytes | None) -> list[float]:
        if adapter is None:
            forget(device, [1])
            return [3.0] * len(examples)
        return [2.0] * len(examples)

    monkeypatch.setattr(personal, "text_losses", forgetting)
    with pytest.raises(PenchantError, match="forgotten while"):
        train(device)
    assert AdapterLog(device.vault).versions() == [] and device.vault.blob_names(LEARNT_PREFIX) == []


def test_memory_that_does_not_suffice_is_one_line(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(top_layers: int) -> Trainer:
        raise MemoryError

    monkeypatch.setattr(personal, "open_trainer", starved)
    with pytest.raises(PenchantError, match="raise --memory"):
        train(device)


def train(
    device: Device,
    *,
    stages: list[str] | None = None,
    lines: list[str] | None = None,
    wants_pause: Callable[[], str | None] = lambda: None,
) -> personal.TrainingOutcome:
    return personal.train_device(
        device,
        epsilon=None,
        created="2025-03-01",
        on_progress=lambda stage, fraction: (stages if stages is not None else []).append(stage),
        on_notice=(lines if lines is not None else []).append,
        wants_pause=wants_pause,
    )


_CHILD = """
import sys, time
from pathlib import Path
from client.personal_training import train_device
from edge_runtime.device import Device

def show(stage, fraction):
    print(stage, fraction, flush=True)
    if stage == "training":
        time.sleep(0.05)

with Device.open(Path(sys.argv[1])) as device:
    train_device(device, epsilon=None, created="2025-03-01", on_progress=show)
"""


def test_a_killed_training_ends_in_the_same_bytes(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another process, killed (SIGKILL) between two checkpoints; what goes on from there makes the file that a
    training without interruption makes."""
    device.memory.remember_many(Statement(f"{text_of(n)} again", "Say it.", f"2025-03-{n + 1:02d}") for n in range(28))
    personal.own_frame(open_trainer(personal.TOP_LAYERS), lambda fraction: None)  # on disk, where the child finds it
    made = list[bytes]()
    written = personal._adapter_bytes
    monkeypatch.setattr(personal, "_adapter_bytes", lambda *rest: made.append(written(*rest)) or made[-1])
    plain = train(device)
    assert plain.steps >= 15 and plain.stop_texts > 0
    AdapterLog(device.vault).use(None)

    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path / "home")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("training") and float(line.split()[-1]) * 24 > 12.5:
            break
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    state, lines = kept_state(device.vault), list[str]()
    assert state is not None and state.step == 10  # three steps were taken since, and are done again
    assert TrainingLedger(device.vault).entries()[-1].steps >= 13
    resumed = train(device, lines=lines)
    assert "after step 10" in lines[0] and resumed.steps == plain.steps
    assert made[0] == made[1] and len(made) == 2
    assert TrainingLedger(device.vault).entries()[-1].steps == plain.steps
