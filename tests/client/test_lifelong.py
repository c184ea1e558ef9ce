"""Increments keep what was taught: their texts, their anchor, and what a forget leaves of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.lifelong import (
    Anchored,
    LifelongRecord,
    LifelongSettings,
    anchored,
    keep_record,
    long_window,
    name_of,
    next_increment,
    record_after,
    record_of,
)
from client.training_run import (
    RunPlan,
    TrainingPaused,
    advance,
    is_finished,
    kept_state,
    new_state,
    open_run,
    run_training,
)
from client.training_work import TextSettings, TextWork
from edge_runtime.device import Device
from edge_runtime.forgetting import forget
from edge_runtime.memory.memory import Memory
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.client.framed_help import some_texts, some_theta, tiny_frame, tiny_model
from tests.edge_runtime.memory_helpers import HashingEmbedder

KEY = bytes(range(32))
SETTINGS = LifelongSettings(recent=2, replayed=3, strength=0.5)


def days(count: int) -> list[str]:
    return [f"day {number:02d}" for number in range(count)]


def record(learnt: list[str], **changes: object) -> LifelongRecord:
    names = frozenset(map(name_of, learnt))
    return replace(LifelongRecord(tiny_frame().digest, some_theta(1), 3, names), **changes)  # type: ignore[arg-type]


def text_work() -> TextWork:
    return TextWork(tiny_model(), tiny_frame(), some_texts(), [], TextSettings(4, batch_size=2), max_tokens=160)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path, KEY) as opened:
        yield opened


def test_the_first_increment_takes_everything() -> None:
    first = next_increment(days(5), name_of, None, SETTINGS)
    assert (first.number, first.items, first.old) == (1, tuple(days(5)), ())
    assert first.names == frozenset(map(name_of, days(5)))


def test_an_increment_is_new_texts_the_recent_window_and_one_of_each_span_of_the_rest() -> None:
    increment = next_increment(days(15), name_of, record(days(11)), SETTINGS)
    assert increment.number == 4 and increment.new == tuple(days(15)[11:])
    assert increment.old[-2:] == tuple(days(11)[-2:])
    long = [days(15).index(day) for day in increment.old[:-2]]
    assert [span in range(3 * k, 3 * k + 3) for k, span in enumerate(long)] == [True] * 3
    assert increment.items == increment.old + increment.new and len(increment.names) == 9


def test_the_long_window_is_the_same_again_and_another_at_the_next_increment() -> None:
    older = list(range(40))
    assert long_window(older, 6, 4) == long_window(older, 6, 4)
    drawn = [long_window(older, 6, number) for number in range(1, 60)]
    assert all(sorted(set(one)) == one and len(one) == 6 for one in drawn)
    assert set().union(*drawn) == set(older)  # every old text comes back some day
    assert long_window(older, 50, 4) == older and long_window(older, 0, 4) == []


def test_what_is_no_longer_there_is_not_replayed() -> None:
    kept = [day for day in days(15) if day not in ("day 03", "day 10")]
    for number in range(20):
        increment = next_increment(kept, name_of, record(days(11), increments=number), SETTINGS)
        assert not {"day 03", "day 10"} & set(increment.items)


def test_a_private_increment_takes_new_texts_only() -> None:
    increment = next_increment(days(8), name_of, record(days(5)), SETTINGS, private=True)
    assert (increment.new, increment.old) == (tuple(days(8)[5:]), ())


def test_names_tell_texts_apart() -> None:
    assert name_of("a", "b") != name_of("ab") != name_of("a") == name_of("a")


def test_the_anchor_adds_the_gradient_of_its_penalty() -> None:
    work, theta, old = text_work(), some_theta(2), record([])
    held = anchored(work, old, SETTINGS)
    point = torch.from_numpy(theta).requires_grad_(True)
    penalty = 0.25 * ((point - torch.from_numpy(old.theta)) ** 2).sum()
    (expected,) = torch.autograd.grad(penalty, point)
    assert np.allclose(held.gradient(theta, 3, 1, 9) - work.gradient(theta, 3, 1, 9), expected.numpy())
    assert np.array_equal(held.gradient(old.theta, 3, 1, 9), work.gradient(old.theta, 3, 1, 9))
    assert (held.steps, held.learning_rate, held.check(theta, 3)) == (work.steps, work.learning_rate, None)


def test_without_a_past_or_strength_the_work_is_as_it_was() -> None:
    work = text_work()
    assert anchored(work, None, SETTINGS) is work and anchored(work, record([]), replace(SETTINGS, strength=0)) is work
    assert isinstance(anchored(work, record([]), SETTINGS), Anchored)


def test_a_stronger_anchor_ends_nearer_to_the_old_adapter() -> None:
    def distance(strength: float) -> float:
        old = record([])
        work = anchored(text_work(), old, replace(SETTINGS, strength=strength))
        state = new_state(RunPlan(work, "t", "s", 8), old.theta, run=1, seed=3)
        for _ in range(work.steps):
            state = advance(state, work)
        return float(np.linalg.norm(state.theta - old.theta))

    assert distance(0) > distance(0.5) > distance(50) > 0


def test_a_killed_increment_goes_on_to_the_same_bits(vault: Vault) -> None:
    old = record([])

    def finished(kill_at: int | None) -> np.ndarray:
        work = anchored(text_work(), old, SETTINGS)
        plan = RunPlan(work, "t", old.digest, 8)
        state = open_run(vault, plan, old.theta, fresh=kill_at is not None, on_notice=lambda line: None)
        asked = iter(range(99))
        state = run_training(
            state,
            work,
            vault,
            on_progress=lambda fraction: None,
            wants_pause=lambda: "enough" if next(asked) == kill_at else None,
        )
        assert is_finished(state, work)
        return state.theta

    whole = finished(None)
    with pytest.raises(TrainingPaused):
        finished(5)
    kept = kept_state(vault)
    assert kept is not None and kept.step == 5
    assert finished(None).tobytes() == whole.tobytes() != old.theta.tobytes()


def test_a_record_adds_up_what_was_learnt_and_survives_its_file() -> None:
    frame, first = tiny_frame(), record_after(None, 1, {"a", "b"}, tiny_frame(), some_theta(1), epsilon=2.0)
    second = record_after(first, 2, {"b", "c"}, frame, some_theta(2), epsilon=3.0, unit="text")
    assert (second.learnt, second.increments, second.epsilon, second.unit) == (frozenset("abc"), 2, 3.0, "text")
    assert record_after(second, 3, {"d"}, frame, some_theta(2)).epsilon is None
    again = LifelongRecord.from_bytes(second.to_bytes())
    assert again.digest == second.digest and again.unit == "text" and again.theta.tobytes() == second.theta.tobytes()
    with pytest.raises(PenchantError, match="--fresh"):
        LifelongRecord.from_bytes(b"\x00")


def test_a_record_belongs_to_its_adapter_frame_and_privacy(vault: Vault) -> None:
    frame = tiny_frame()
    keep_record(vault, "a" * 64, record(["x"], epsilon=4.0, unit="text"))
    keep_record(vault, "b" * 64, record(["x"]))
    assert record_of(vault, None, frame) is None and record_of(vault, "c" * 64, frame) is None
    assert record_of(vault, "b" * 64, frame, unit="text") is None
    assert record_of(vault, "a" * 64, frame, unit="conversation") is None  # text by text promises a conversation less
    found = record_of(vault, "a" * 64, frame, unit="text")
    assert found is not None and found.learnt == {name_of("x")}
    assert record_of(vault, "a" * 64, replace(frame, scale=2.0)) is None


def test_a_forget_takes_the_record_and_the_next_increment_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Device.open(tmp_path / "home", create=True, key_method="file") as device:
        monkeypatch.setattr(Device, "memory", Memory(device.vault, HashingEmbedder()))
        secret = device.memory.remember("the secret is in the well", said_at="2025-01-01")
        device.memory.remember("the garden is green", said_at="2025-01-02")
        keep_record(device.vault, "a" * 64, record([item.text for item in device.memory.items()]))
        forget(device, [secret.id])
        assert record_of(device.vault, "a" * 64, tiny_frame()) is None
        assert not any(b"lifelong" in str(row).encode() for row in device.vault.blob_names("personal/"))
        items = [item.text for item in device.memory.items()]
        assert next_increment(items, name_of, None, SETTINGS).items == ("the garden is green",)


def test_settings_are_checked() -> None:
    for wrong in ({"recent": -1}, {"replayed": -1}, {"strength": -0.1}, {"strength": float("nan")}):
        with pytest.raises(PenchantError, match="at least 0"):
            LifelongSettings(**wrong)
