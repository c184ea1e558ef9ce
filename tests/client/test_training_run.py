"""A training that is paused or killed ends with the same bits; no private step is counted twice or lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.dp_sgd import PrivateSettings
from client.training_ledger import TrainingLedger
from client.training_run import (
    CHECKPOINT,
    RunPlan,
    TrainingDivergedError,
    TrainingPaused,
    TrainingState,
    Work,
    advance,
    drop_state,
    is_finished,
    keep,
    kept_state,
    new_state,
    open_run,
    result_of,
    run_training,
)
from client.training_work import PrivateWork, TextSettings, TextWork
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.client.framed_help import some_texts, tiny_frame, tiny_model

KEY = bytes(range(32))


class Valley:
    """A toy: the gradient of |theta - 3|^2 / 2 with noise of (seed, step), and losses as they are given."""

    learning_rate, patience, steps = 0.1, 2, 25

    def __init__(self, losses: tuple[float, ...] = (), most_rows: int = 99) -> None:
        self.losses, self.most_rows, self.asked = losses, most_rows, list[int]()

    def gradient(self, theta: np.ndarray, seed: int, step: int, rows: int) -> np.ndarray:
        self.asked.append(rows)
        if rows > self.most_rows:
            raise MemoryError
        return theta - 3.0 + np.random.default_rng((seed, step)).normal(size=len(theta))

    def check(self, theta: np.ndarray, step: int) -> float | None:
        return self.losses[step // 2 - 1] if self.losses and step % 2 == 0 else None


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path, KEY) as opened:
        yield opened


def plan_of(work: Work, texts: str = "t", settings: str = "s", noise: float = 1.0, rows: int = 8) -> RunPlan:
    return RunPlan(work, texts, settings, rows, noise, 0.5)


def started(work: Work, size: int = 4, rows: int = 8) -> TrainingState:
    return new_state(plan_of(work, rows=rows), np.zeros(size), run=1, seed=7)


def opened(vault: Vault, plan: RunPlan, fresh: bool = False) -> tuple[TrainingState, list[str]]:
    lines: list[str] = []
    return open_run(vault, plan, np.zeros(4), fresh=fresh, on_notice=lines.append), lines


def run(vault: Vault, state: TrainingState, work: Work, pause_at: int | None = None) -> TrainingState:
    taken = iter(range(state.step, 10**6))
    return run_training(
        state,
        work,
        vault,
        on_progress=lambda fraction: None,
        wants_pause=lambda: "Enough" if next(taken) == pause_at else None,
    )


def same(first: TrainingState, second: TrainingState) -> bool:
    return dict(replace(first, seconds=0.0, run=0).blobs()) == dict(replace(second, seconds=0.0, run=0).blobs())


def text_work() -> TextWork:
    texts = some_texts()
    return TextWork(tiny_model(), tiny_frame(), texts[:5], texts[5:], TextSettings(4, batch_size=2), max_tokens=160)


def private_work() -> PrivateWork:
    settings = PrivateSettings(8.0, 1e-3, 3.0, 0.5, 0.5, 0.05)
    return PrivateWork(tiny_model(), tiny_frame(), some_texts(), settings, 1.1, max_tokens=160)


def test_a_step_is_adams() -> None:
    work, state = Valley(), started(Valley())
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([theta], lr=work.learning_rate)
    for step in range(20):
        theta.grad = torch.from_numpy(work.gradient(theta.detach().numpy(), 7, step, 1))
        adam.step()
        state = advance(state, work)
        assert np.allclose(state.theta, theta.detach().numpy(), rtol=0, atol=1e-12)
    assert state.step == 20 and abs(state.theta - 3).max() < 2.5


@pytest.mark.parametrize("make", [text_work, private_work])
def test_from_the_bytes_of_any_step_the_run_ends_in_the_same_bits(make: type) -> None:
    work = make()
    state = started(work, tiny_frame().dimension)
    kept = []
    while not is_finished(state, work):
        kept.append(dict(state.blobs()))
        state = advance(state, work)
    assert state.step >= 6 and np.abs(state.theta).min() > 0  # every weight moved
    for data in (kept[1], kept[3], kept[-1]):
        again, other_work = TrainingState.of_blobs(data.get), make()
        while not is_finished(again, other_work):
            again = advance(again, other_work)
        assert same(again, state)
    other = replace(TrainingState.of_blobs(kept[1].get), seed=8)
    assert not np.array_equal(advance(other, work).theta, TrainingState.of_blobs(kept[2].get).theta)


@pytest.mark.parametrize("pauses", [(1,), (3, 4, 17), (10, 20)])
def test_a_paused_run_goes_on_to_the_same_state(vault: Vault, pauses: tuple[int, ...]) -> None:
    whole, lines = opened(vault, plan_of(Valley()))
    assert lines == []
    whole = run(vault, whole, Valley())
    drop_state(vault)
    state, _ = opened(vault, plan_of(Valley()))
    state = replace(state, seed=whole.seed)
    keep(vault, state)
    for number in pauses:
        with pytest.raises(TrainingPaused, match="Enough") as paused:
            run(vault, state, Valley(), pause_at=number)
        assert (paused.value.step, paused.value.steps) == (number, 25)
        state, lines = opened(vault, plan_of(Valley()))
        assert lines == [f"Going on with the last training after step {number} of at most 25."]
    assert same(run(vault, state, Valley()), whole)
    assert [(entry.steps, entry.planned) for entry in TrainingLedger(vault).entries()] == [(25, 25), (25, 25)]


def test_a_step_is_written_down_before_it_is_taken_and_once(vault: Vault) -> None:
    class Failing(Valley):
        def gradient(self, theta: np.ndarray, seed: int, step: int, rows: int) -> np.ndarray:
            if step == 13 and failing:
                counted.append(TrainingLedger(vault).entries()[0].steps)
                raise KeyboardInterrupt
            return super().gradient(theta, seed, step, rows)

    failing, counted = True, list[int]()
    state, _ = opened(vault, plan_of(Failing()))
    with pytest.raises(KeyboardInterrupt):
        run(vault, state, Failing())
    assert counted == [14]  # the fourteenth step counts, though nothing came of it
    failing = False
    resumed, lines = opened(vault, plan_of(Failing()))
    assert resumed.step == 10 and "after step 10 " in lines[0]
    assert same(run(vault, resumed, Failing()), run(vault, replace(state, run=resumed.run), Failing()))
    assert TrainingLedger(vault).entries()[0].steps == 25  # steps 11 to 13 were done twice and count once


def test_an_abandoned_run_stays_in_the_account(vault: Vault) -> None:
    state, _ = opened(vault, plan_of(Valley()))
    with pytest.raises(TrainingPaused):
        run(vault, state, Valley(), pause_at=6)
    for plan, why in (
        (plan_of(Valley(), texts="other"), "Your texts have changed since the last training stopped at step 6."),
        (plan_of(Valley(), texts="other", settings="other"), "Settings or model have changed"),
    ):
        anew, lines = opened(vault, plan)
        assert anew.step == 0 and len(lines) == 1 and why in lines[0] and "Starting over" in lines[0]
        assert anew.seed != state.seed
    anew, lines = opened(vault, plan_of(Valley(), texts="other", settings="other"), fresh=True)
    assert anew.step == 0 and "as you asked" in lines[0]
    assert [entry.steps for entry in TrainingLedger(vault).entries()] == [6, 0, 0, 0]
    run(vault, anew, Valley())
    assert [entry.steps for entry in TrainingLedger(vault).entries()] == [6, 0, 0, 25]


def test_a_state_that_cannot_be_read_is_said_and_replaced(vault: Vault) -> None:
    state, _ = opened(vault, plan_of(Valley()))
    good = dict(state.blobs())
    head = good["state"]
    for bad in (b"", head[:-9], b"\xa0", head.replace(b"gversion\x02", b"gversion\x01")):
        with pytest.raises(PenchantError, match="cannot be read"):
            TrainingState.of_blobs({**good, "state": bad}.get)
    for cut in (b"", good["theta"][:-8], good["theta"][:-3]):
        with pytest.raises(PenchantError, match="cannot be read"):
            TrainingState.of_blobs({**good, "theta": cut}.get)
    vault.put_blob(f"{CHECKPOINT}state", b"garbage")
    anew, lines = opened(vault, plan_of(Valley()))
    assert anew.step == 0 and "cannot be read" in lines[0] and same(TrainingState.of_blobs(good.get), state)
    kept = kept_state(vault)
    assert kept is not None and same(kept, anew)


@pytest.mark.parametrize("step", [4, 12, 24])
def test_a_forget_meanwhile_ends_the_run_and_nothing_is_kept(vault: Vault, step: int) -> None:
    class Forgetting(Valley):
        def gradient(self, theta: np.ndarray, seed: int, number: int, rows: int) -> np.ndarray:
            if number == step:
                assert drop_state(vault)  # as `edge_runtime.forgetting` does, perhaps in another program
            return super().gradient(theta, seed, number, rows)

    state, _ = opened(vault, plan_of(Forgetting()))
    with pytest.raises(PenchantError, match="forgotten"):
        run(vault, state, Forgetting())
    assert kept_state(vault) is None


def test_it_stops_when_the_texts_kept_out_get_no_better_and_gives_the_best() -> None:
    work = Valley(losses=(5.0, 4.0, 4.0, 3.9, 4.2, 3.9, 1.0))
    state, seen = started(work), []
    while not is_finished(state, work):
        state = advance(state, work)
        seen.append(state.theta)
    assert state.step == 12 and (state.best_loss, state.worse) == (3.9, 2)  # an equal loss is no new best
    assert np.array_equal(result_of(state), seen[7]) and not np.array_equal(seen[7], seen[11])
    endless = started(Valley())
    for _ in range(25):
        endless = advance(endless, Valley())
    assert is_finished(endless, Valley()) and np.array_equal(result_of(endless), endless.theta)


def test_with_little_memory_it_takes_fewer_texts_at_a_time_from_then_on() -> None:
    work = Valley(most_rows=2)
    state = advance(advance(started(work, rows=12), work), work)
    assert work.asked == [12, 6, 3, 1, 1] and state.rows == 1 and state.step == 2
    assert np.array_equal(state.theta, advance(advance(started(Valley()), Valley()), Valley()).theta)
    with pytest.raises(PenchantError, match="raise --memory"):
        advance(started(work), Valley(most_rows=0))


def test_torchs_way_to_say_it_counts_and_other_errors_do_not() -> None:
    class Torch(Valley):
        def gradient(self, theta: np.ndarray, seed: int, step: int, rows: int) -> np.ndarray:
            if rows > 4:
                torch.empty(1 << 55, dtype=torch.int8)
            if self.most_rows == 0:
                raise RuntimeError("shapes do not match")
            return super().gradient(theta, seed, step, rows)

    assert advance(started(Torch()), Torch()).rows == 4
    with pytest.raises(RuntimeError, match="shapes"):
        advance(started(Torch()), Torch(most_rows=0))


def test_a_run_that_diverges_says_so_and_is_not_resumed(vault: Vault) -> None:
    class Steep(Valley):
        learning_rate = float("inf")

    state, _ = opened(vault, plan_of(Steep()))
    with pytest.raises(TrainingDivergedError, match="learning rate"):
        run(vault, state, Steep())
    assert kept_state(vault) is None
