"""A training run as a process: its state, one step, and the loop that can be paused, killed and resumed.

    state -> advance(state, work) -> state        until work.finished

Everything that a step does follows from the state and the work, bit by bit: which texts it takes and which noise it
draws come from ``(seed, step)``, not from a generator that has run. So a run that was killed and goes on from its last
checkpoint ends with the same weights as one that was never interrupted, and a private step that is done again draws the
same noise again: nothing new is learnt from it (as long as torch runs with as many threads as before: its sums are
floating point).

Optimiser: Adam (Kingma and Ba 2015, algorithm 1) on theta (d,), in the number format of its start (float64; float32
for the millions of ordinary LoRA):

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
    theta <- theta - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + e)

Early stopping (Prechelt 1998): after every pass the loss of texts that are kept out is measured; after ``patience``
checks without a new best the run ends, and the best theta counts. Private runs have none: their noise was
sized for all their steps, and the choice of a step by texts would have to be paid for.

The checkpoint lies in the device's encrypted file under ``LEARNT_PREFIX``: it was learnt from the owner's words, and a
forget drops it, also one by another program while this one trains: a run whose checkpoint is gone ends, and nothing of
it is kept. It holds digests of the texts and of the plan, and no text.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Final, Protocol

import cbor2
import numpy as np

from client.training_ledger import TrainingLedger
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.errors import PenchantError
from protocol.frames import Vector

CHECKPOINT: Final = f"{LEARNT_PREFIX}training/checkpoint/"
CHECKPOINT_STEPS: Final = 10
CHECKPOINT_SECONDS: Final = 15.0
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_VERSION = 2
_VECTORS = ("theta", "first_moment", "second_moment", "best_theta")


class TrainingPaused(PenchantError):  # noqa: N818 - it is no error
    """The run stands still for ``reason`` after ``step`` of at most ``steps`` (0 of 0: not in its steps); what was done
    is kept."""

    def __init__(self, reason: str, step: int = 0, steps: int = 0) -> None:
        super().__init__(f"{reason}: training is paused, and the same command goes on where it stopped")
        self.reason, self.step, self.steps = reason, step, steps


class TrainingDivergedError(PenchantError):
    """The numbers of the adapter are no longer finite."""


class Work(Protocol):
    """What a run repeats: ``steps`` at most, and no more once ``patience`` checks brought no new best."""

    steps: int
    learning_rate: float
    patience: int

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """The gradient (d,) that step number ``step`` (from 0) descends, ``rows`` texts at a time. A pure function."""
        ...

    def check(self, theta: Vector, step: int) -> float | None:
        """The loss of the texts that are kept out, if a check is due once ``step`` steps are taken."""
        ...


@dataclass(frozen=True)
class RunPlan:
    """A run before its state: its work, what the state is bound to, how many texts (``rows``) a step may differentiate
    at once, and its privacy (noise multiplier 0: none)."""

    work: Work
    texts_sha256: str
    plan_sha256: str
    rows: int
    noise_multiplier: float = 0.0
    sampling_rate: float = 1.0


@dataclass(frozen=True)
class TrainingState:
    """All that a run is: see the top of this file. ``run`` is its row in the ledger, ``rows`` how many texts fit into
    memory at once, ``worse`` the checks since the best one, ``seconds`` what it has taken so far.
    """

    texts_sha256: str
    plan_sha256: str
    run: int
    seed: int
    rows: int
    theta: Vector
    first_moment: Vector
    second_moment: Vector
    best_theta: Vector
    best_loss: float = float("inf")
    worse: int = 0
    step: int = 0
    seconds: float = 0.0

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of its parts, one in memory at a time: canonical CBOR, and each vector, little-endian."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _VECTORS}
        yield "state", cbor2.dumps({"version": _VERSION, "format": self.theta.dtype.str, **plain}, canonical=True)
        for name in _VECTORS:
            yield name, getattr(self, name).tobytes()

    @staticmethod
    def of_blobs(read: Callable[[str], bytes | None]) -> TrainingState:
        """The inverse of ``blobs``. Raises PenchantError on anything else."""
        try:
            body = cbor2.loads(read("state") or b"")
            if body.pop("version") != _VERSION or (form := body.pop("format")) not in ("<f4", "<f8"):
                raise ValueError
            body |= {name: np.frombuffer(read(name) or b"", dtype=form).copy() for name in _VECTORS}
            if len({body[name].shape for name in _VECTORS}) != 1:
                raise ValueError
            return TrainingState(**body)
        except (cbor2.CBORDecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise PenchantError("the kept state of the training cannot be read: start anew with --fresh") from error


def open_run(
    vault: Vault, plan: RunPlan, start: Vector, *, fresh: bool, on_notice: Callable[[str], None]
) -> TrainingState:
    """The kept state if it belongs to this plan, else a new one at ``start`` (d,), kept and entered in the ledger.

    ``on_notice`` gets a line that says what becomes of a state that is there; ``fresh`` drops it.
    """
    try:
        state = kept_state(vault)
    except PenchantError:
        state = None
        on_notice("The kept state of the last training cannot be read. Starting over.")
    if state is not None:
        if fresh:
            on_notice(f"Dropping {state.step} steps of the last training, as you asked.")
        elif state.texts_sha256 != plan.texts_sha256:
            on_notice(f"Your texts have changed since the last training stopped at step {state.step}. Starting over.")
        elif state.plan_sha256 != plan.plan_sha256:
            on_notice(
                f"Settings or model have changed since the last training stopped at step {state.step}. Starting over."
            )
        else:
            on_notice(f"Going on with the last training after step {state.step} of at most {plan.work.steps}.")
            return state
    # The seed of a private run is a secret: it lies in the encrypted file for as long as the run goes on.
    seed = int.from_bytes(os.urandom(32), "big") if plan.noise_multiplier else 0
    with vault.transaction():
        run = TrainingLedger(vault).open_run(plan.noise_multiplier, plan.sampling_rate, plan.work.steps)
        state = new_state(plan, start, run=run, seed=seed)
        keep(vault, state, new=True)
    return state


def new_state(plan: RunPlan, start: Vector, *, run: int, seed: int) -> TrainingState:
    """The state before the first step, at ``start`` (d,)."""
    zero, theta = np.zeros_like(start), np.array(start)
    return TrainingState(plan.texts_sha256, plan.plan_sha256, run, seed, plan.rows, theta, zero, zero, theta)


def generator_of(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step (or of one pass): a stream of its own."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(step,)))


def is_finished(state: TrainingState, work: Work) -> bool:
    """Whether all steps are taken, or the texts that are kept out got no better for ``patience`` checks."""
    return state.step >= work.steps or state.worse >= work.patience


def advance(state: TrainingState, work: Work) -> TrainingState:
    """One step. Where memory does not suffice, with half as many texts at a time; PenchantError if one is too many, or
    if numbers are no longer finite."""
    rows = state.rows
    while True:
        try:
            gradient = work.gradient(state.theta, state.seed, state.step, rows).astype(state.theta.dtype, copy=False)
            break
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                raise PenchantError(
                    "one text at a time needs more memory than training may take: raise --memory, or close programs"
                ) from error
            rows //= 2
    step = state.step + 1
    first = _BETA_1 * state.first_moment + (1 - _BETA_1) * gradient
    second = _BETA_2 * state.second_moment + (1 - _BETA_2) * gradient**2
    size = np.sqrt(second / (1 - _BETA_2**step)) + _EPSILON
    theta = state.theta - work.learning_rate * (first / (1 - _BETA_1**step)) / size
    if not np.isfinite(theta).all():
        raise TrainingDivergedError("training diverged; lower the learning rate")
    state = replace(state, theta=theta, first_moment=first, second_moment=second, step=step, rows=rows)
    loss = work.check(theta, step)
    if loss is not None and loss < state.best_loss:
        return replace(state, best_theta=theta, best_loss=loss, worse=0)
    if loss is not None:
        return replace(state, worse=state.worse + 1)
    return state


def result_of(state: TrainingState) -> Vector:
    """The theta (d,) that a finished run gives: the best one where texts are kept out, else the last."""
    return state.best_theta if np.isfinite(state.best_loss) else state.theta


def run_training(
    state: TrainingState,
    work: Work,
    vault: Vault,
    *,
    on_progress: Callable[[float], None],
    wants_pause: Callable[[], str | None],
) -> TrainingState:
    """Take the steps that are left, each written into the device's ledger first. The state must be kept already.

    ``wants_pause`` is asked before each step; a reason other than None keeps the state and raises TrainingPaused. On
    any other exception the last checkpoint stands, and what came after it is done again, bit by bit.
    """
    ledger = TrainingLedger(vault)
    kept_step, kept_at = state.step, time.monotonic()
    while not is_finished(state, work):
        if reason := wants_pause():
            keep(vault, state)
            raise TrainingPaused(reason, state.step, work.steps)
        started = time.monotonic()
        ledger.take(state.run, state.step)
        try:
            state = advance(state, work)
        except TrainingDivergedError:
            drop_state(vault)  # it would diverge again
            raise
        now = time.monotonic()
        state = replace(state, seconds=state.seconds + now - started)
        if state.step - kept_step >= CHECKPOINT_STEPS or now - kept_at >= CHECKPOINT_SECONDS:
            keep(vault, state)
            kept_step, kept_at = state.step, now
        on_progress(state.step / work.steps)
    keep(vault, state)
    return state


def keep(vault: Vault, state: TrainingState, *, new: bool = False) -> None:
    """Put the checkpoint on disk, in place of the one before; PenchantError if that is gone and this is not a new run's
    first."""
    with vault.transaction():
        if not new:
            check_kept(vault)
        for name, data in state.blobs():
            vault.put_blob(f"{CHECKPOINT}{name}", data)


def check_kept(vault: Vault) -> None:
    """PenchantError if the checkpoint of the run that goes on was removed: what it learnt from may be forgotten."""
    if not is_kept(vault):
        raise PenchantError(
            "something was forgotten while the training ran (or another training ended), so nothing of it is kept: "
            "run penchant train again"
        )


def kept_state(vault: Vault) -> TrainingState | None:
    """The checkpoint, if there is one; PenchantError if it cannot be read."""
    return TrainingState.of_blobs(lambda name: vault.get_blob(f"{CHECKPOINT}{name}")) if is_kept(vault) else None


def is_kept(vault: Vault) -> bool:
    """Whether there is a checkpoint."""
    return bool(vault.blob_names(f"{CHECKPOINT}state"))


def drop_state(vault: Vault) -> bool:
    """Remove the checkpoint (with its seed); whether there was one. The steps it took stay in the ledger."""
    kept = is_kept(vault)
    for name in vault.blob_names(CHECKPOINT):
        vault.delete_blob(name)
    return kept


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or oneDNN could not allocate (the last two raise a RuntimeError for it)."""
    words = ("allocate memory", "could not create a primitive")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
