"""What the sums of the bases tell about one person: nothing that another population would not tell as well.

Three layers, each with the attack that works where it is missing:

- Without noise every sum is a function of ``M = sum_u delta_u delta_u^T`` alone, so all of them, however many, are the
  same for every rotation ``O Delta`` of the people among themselves: a family of dimension n (n - 1) / 2.
- With the weights of a noisy round (`protocol.subspace_sketch`) T sums of K rows are T K d equations for the n d
  numbers of the residuals: generically the populations with the same sums form a family of dimension at least
  (n - T K) d, and the test finds one. (Of one sum alone, seen as a sum of any n contributions: (n - 1) K d.) The
  noise comes on top.
- Those are statements about sums. A single upload is a rank-one matrix and gives its residual away up to its length, so
  everything rests on the masks: with them nothing is found, without them everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol import masks
from protocol.bank import Bank
from protocol.coordinates import Coordinates
from protocol.round_plan import RoundPlan
from protocol.subspace_sketch import sketch_contribution
from server.algorithms import PreferenceBases, PreferencePlan
from tests import fleet_help
from tests.server.test_algorithms import QUIET, small_frame, task_from
from tests.server.test_what_the_server_sees import SIZE, curious_server

CLIP = 1.0
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """All that the server knows of a run: the public rows of each sum, the sums, the published banks."""

    rows: list[Matrix]
    sums: list[Matrix]
    banks: list[Bank]


def view_of(deltas: Matrix, *, noisy: bool, rounds: int = 3, rows: int = 4) -> View:
    """A run over these people. Noise itself is left out: it would be the same in both worlds."""
    frame, view = small_frame(), View([], [], [])
    plan = PreferencePlan(shared_rounds=0, bases_rounds=rounds, basis_count=rows - 1, oversampling=1, bases_clip=CLIP)
    algorithm, people = PreferenceBases(frame, plan), len(deltas)
    while (chosen := algorithm.next_task(view.sums)) is not None:  # type: ignore[arg-type]
        data = chosen["artefacts"]["bases"]
        public = Coordinates.from_bytes(data, frame_sha256=frame.digest, dimension=frame.dimension).rows
        total = np.sum([sketch_contribution(public, delta, CLIP, noisy=noisy) for delta in deltas], axis=0)
        chosen = {**chosen, "noise_multiplier": 0.1 if noisy else 0.0}
        task = task_from(chosen, len(view.sums), minimum_survivors=people, cohort_size=60)
        bank = algorithm.absorb(task, total / people, people, QUIET)["bank"]
        view.rows.append(public)
        view.sums.append(total)
        view.banks.append(Bank.from_bytes(bank, space_sha256=frame.digest, dimension=frame.dimension))
    return view


def assert_same(one: View, other: View, tolerance: float) -> None:
    for name in ("rows", "sums"):
        for left, right in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_allclose(left, right, atol=tolerance)
    for first, second in zip(one.banks, other.banks, strict=True):
        np.testing.assert_allclose(first.directions, second.directions, atol=tolerance)
        np.testing.assert_allclose(first.spread, second.spread, atol=tolerance)


def population(people: int, seed: int = 0) -> Matrix:
    """Residuals well within the clip norm."""
    random = np.random.default_rng(seed)
    deltas = random.normal(size=(people, small_frame().dimension))
    return 0.5 * CLIP * deltas / np.linalg.norm(deltas, axis=1, keepdims=True)


def likeness(one: Matrix, other: Matrix) -> NDArray[np.float64]:
    """Absolute cosine between each person's residual in one world and in the other."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.abs(np.sum(one * other, axis=1)) / lengths


def test_without_noise_no_number_of_sums_tells_a_population_from_its_rotations() -> None:
    people = 20
    world = population(people)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(people, people)))[0]
    other = rotation @ world
    assert np.linalg.norm(other, axis=1).max() < CLIP and likeness(world, other).max() < 0.8
    view = view_of(world, noisy=False)
    assert_same(view, view_of(other, noisy=False), 1e-6)  # rows and banks travel as float32
    # The check can fail: one person who differs alone shows in the sums.
    other = world.copy()
    other[0] = other[0, ::-1]
    assert not np.allclose(view_of(other, noisy=False).sums[0], view.sums[0], atol=1e-3)


def test_with_the_weights_of_a_noisy_round_another_population_gives_the_same_sums() -> None:
    people = 8
    world = population(people)
    view = view_of(world, noisy=True, rounds=2, rows=2)
    other = same_sums(view.rows, view.sums, start=population(people, seed=9))
    assert np.linalg.norm(other, axis=1).max() < CLIP and likeness(world, other).max() < 0.8
    assert_same(view, view_of(other, noisy=True, rounds=2, rows=2), 1e-6)


def same_sums(public: Sequence[Matrix], wanted: Sequence[Matrix], start: Matrix) -> Matrix:
    """A population near ``start`` (n, d) whose sums are the wanted ones: Gauss-Newton steps of least length.

    Derivative of ``w (x) delta`` with ``w = Q delta / s``, ``s = ||Q delta||``, in the direction e:
    ``(Q e / s - w (w . Q e) / s) (x) delta + w (x) e``.
    """
    deltas, dimension = start.copy(), start.shape[1]
    for _ in range(60):
        missing, blocks = [], []
        for rows, target in zip(public, wanted, strict=True):
            total, block = np.zeros(target.shape), []
            for delta in deltas:
                projection = rows @ delta
                length = np.linalg.norm(projection)
                weights = projection / length
                turning = (rows - np.outer(weights, weights @ rows)) / length  # (K, d)
                derivative = turning[:, None, :] * delta[None, :, None] + weights[:, None, None] * np.eye(dimension)
                block.append(derivative.reshape(-1, dimension))
                total = total + np.outer(weights, delta).ravel()
            missing.append(target - total)
            blocks.append(np.hstack(block))
        gap = np.concatenate(missing)
        if np.abs(gap).max() < 1e-9:
            return deltas
        step = np.linalg.lstsq(np.vstack(blocks), gap, rcond=1e-10)[0].reshape(deltas.shape)
        deltas = deltas + step * min(1.0, 0.3 / np.abs(step).max())
    raise AssertionError("no other population was found")


def rank_one(person: int, dimension: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(the contribution, the residual in it) of a person in a fleet of four rows."""
    random = np.random.default_rng(2000 + person)
    residual = random.normal(size=dimension // 4)
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(dimension // 4, 4)))[0].T
    return sketch_contribution(rows, residual, 0.8, noisy=True), residual


def residual_found(upload: NDArray[np.uint32], task: Any, person: int) -> float:
    """The attack: the leading right singular vector of a decoded upload; its likeness to the person's residual."""
    guess = RoundPlan.of(task).codec.decode(upload)[: task.update_dimension]
    direction = np.linalg.svd(guess.reshape(4, -1), full_matrices=False)[2][0]
    residual = rank_one(person, task.update_dimension)[1]
    return float(abs(direction @ residual) / np.linalg.norm(residual))


def test_an_upload_without_its_masks_gives_the_residual_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_help, "vector_of", lambda person, dimension: rank_one(person, dimension)[0])
    monkeypatch.setattr(masks, "expand", lambda key, length, bits: np.zeros(length, dtype=np.uint32))
    task, uploads, _ = curious_server(tmp_path)
    assert min(residual_found(upload, task, person) for person, upload in uploads.items()) > 0.99


def test_with_masks_the_same_attack_finds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_help, "vector_of", lambda person, dimension: rank_one(person, dimension)[0])
    task, uploads, _ = curious_server(tmp_path)
    assert max(residual_found(upload, task, person) for person, upload in uploads.items()) < 6 / np.sqrt(SIZE / 4)
