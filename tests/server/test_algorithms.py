from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Frame
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan, plan_task
from protocol.subspace_sketch import sketch_contribution
from server.aggregate import decode_sum
from server.algorithms import (
    PreferenceBases,
    PreferencePlan,
    first_rows,
    noise_deviation,
    orthonormal_rows,
    shrink,
)

PEOPLE, PLANTED, CLIP = 60, 3, 5.0
QUIET = {
    "fraction_not_clipped": 0.5,
    "mean_loss": 2.0,
    "mean_examples": 5.0,
    "effective_noise_multiplier": 1.0,
}


def small_frame() -> Frame:
    random = np.random.default_rng(0)
    left = tuple(np.linalg.qr(random.normal(size=(9, 4)))[0].astype(np.float32) for _ in range(4))
    right = tuple(u.T.copy() for u in left)
    return Frame("a" * 64, 4, 1.0, tuple(f"blk.{i}.attn_v" for i in range(4)), left, right)


def planted_people(seed: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(deltas (people, d), planted orthonormal rows (3, d)): strong in 3 directions, weak everywhere else."""
    random = np.random.default_rng(seed)
    dimension = small_frame().dimension
    rows = np.linalg.qr(random.normal(size=(dimension, PLANTED)))[0].T
    strength = random.normal(size=(PEOPLE, PLANTED)) * [1.0, 0.8, 0.6]
    return strength @ rows + 0.02 * random.normal(size=(PEOPLE, dimension)), rows


def sines(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sines of the principal angles between two row spaces (Bjorck and Golub 1973)."""
    cosines = np.linalg.svd(one @ other.T, compute_uv=False)
    return np.sqrt(np.maximum(0.0, 1.0 - cosines**2))


def task_from(chosen: Mapping[str, Any], number: int, **changes: Any) -> RoundTask:
    """The task that a fleet would make of the algorithm's choice."""
    digests = {role: hashlib.sha256(data).hexdigest() for role, data in chosen["artefacts"].items()}
    rest: dict[str, Any] = {
        "run_id": "test",
        "round": number,
        "noise_multiplier": 1.0,
        "minimum_survivors": PEOPLE,
        "cohort_size": PEOPLE,
        "scale": 100.0,
        "rotation_seed": 1,
        "graph_seed": 1,
        "graph_degree": PEOPLE - 1,
        "graph_threshold": PEOPLE // 2,
        "delta": 1e-5,
    }
    return RoundTask(**{**rest, **chosen, "artefacts": digests, **changes})


def rows_of(chosen: Mapping[str, Any], frame: Frame) -> NDArray[np.float64]:
    """The public rows that a sum is taken on, as a device reads them."""
    data = chosen["artefacts"]["bases"]
    return Coordinates.from_bytes(data, frame_sha256=frame.digest, dimension=frame.dimension).rows


def run_bases(
    rounds: int,
    deltas: NDArray[np.float64],
    *,
    basis_count: int = PLANTED,
    oversampling: int = 4,
    noise_multiplier: float = 0.0,
    seed: int = 7,
) -> PreferenceBases:
    """Only sums reach the algorithm. Returns the algorithm after the last one."""
    frame = small_frame()
    plan = PreferencePlan(
        shared_rounds=0, bases_rounds=rounds, basis_count=basis_count, oversampling=oversampling, bases_clip=CLIP
    )
    algorithm, random = PreferenceBases(frame, plan), np.random.default_rng(seed)
    history: list[Any] = []
    while (chosen := algorithm.next_task(history)) is not None:
        task = task_from(
            {**chosen, "noise_multiplier": noise_multiplier},
            len(history),
            minimum_survivors=len(deltas),
            cohort_size=len(deltas),
        )
        rows, noise = rows_of(chosen, frame), RoundPlan.of(task).update_noise_deviation
        total = sum(sketch_contribution(rows, delta, CLIP, noisy=noise_multiplier > 0) for delta in deltas)
        mean = (total + noise * random.normal(size=task.update_dimension)) / len(deltas)
        algorithm.absorb(task, mean, len(deltas), QUIET)
        history.append(mean)
    return algorithm


def captured(rows: NDArray[np.float64], deltas: NDArray[np.float64]) -> float:
    """The energy that the rows hold, over what as many principal directions hold."""
    best = np.square(np.linalg.svd(deltas, compute_uv=False))[: len(rows)].sum()
    return float(np.square(deltas @ rows.T).sum() / best)


def test_three_sums_without_noise_reach_the_oracles_captured_energy() -> None:
    deltas, planted = planted_people()
    after = [captured(run_bases(rounds, deltas).rows[:PLANTED], deltas) for rounds in (2, 3)]
    assert after == sorted(after) and after[0] > 0.98 and after[1] > 0.9999
    # Also where people have little in common and the spectrum hardly falls.
    lonely = np.random.default_rng(3).normal(size=(PEOPLE, small_frame().dimension)) * 0.3
    assert captured(run_bases(3, lonely, oversampling=8).rows[:PLANTED], lonely) > 0.96
    bank = run_bases(3, deltas).bank
    assert sines(bank.directions, planted).max() < 0.05
    np.testing.assert_allclose(bank.directions @ bank.directions.T, np.eye(PLANTED), atol=1e-9)


def test_a_few_rows_more_than_bases_bring_the_sums_nearer_to_the_oracle() -> None:
    lonely = np.random.default_rng(3).normal(size=(PEOPLE, small_frame().dimension))
    few, more = (captured(run_bases(3, lonely, oversampling=p).rows[:PLANTED], lonely) for p in (0, 8))
    assert few < more - 0.02


def test_it_finds_them_beneath_noise_on_the_sum() -> None:
    deltas, planted = planted_people()
    bank = run_bases(3, 4 * deltas, noise_multiplier=0.1).bank
    assert bank.count == PLANTED and sines(bank.directions, planted).max() < 0.15


def test_noisy_sums_are_readings_of_the_same_directions_and_are_used_together() -> None:
    deltas, planted = planted_people()
    errors = [
        np.mean([sines(run_bases(rounds, 4 * deltas, noise_multiplier=0.5, seed=s).rows[:1], planted)[0]
                 for s in range(4)])
        for rounds in (2, 6)
    ]  # fmt: skip
    # The last sum alone would be as uncertain after six sums as after two.
    assert errors[1] < 0.75 * errors[0]


@pytest.mark.parametrize(("noise_multiplier", "tolerance"), [(0.0, 0.02), (0.2, 0.25)])
def test_the_spread_of_the_bank_is_that_of_peoples_weights(noise_multiplier: float, tolerance: float) -> None:
    deltas = np.array([delta * min(1.0, CLIP / np.linalg.norm(delta)) for delta in 4 * planted_people()[0]])
    bank = run_bases(3, deltas, noise_multiplier=noise_multiplier).bank
    weights = deltas @ bank.directions.T
    assert bank.count == PLANTED
    np.testing.assert_allclose(bank.spread, np.sqrt(np.mean(weights**2, axis=0)), rtol=tolerance)


@pytest.mark.parametrize("known", [0, 1, 2, 4])
@pytest.mark.parametrize("noise_multiplier", [0.0, 0.3])
def test_the_number_of_bases_is_that_of_the_directions_people_differ_in(known: int, noise_multiplier: float) -> None:
    random, dimension = np.random.default_rng(known), small_frame().dimension
    rows = np.linalg.qr(random.normal(size=(dimension, max(known, 1))))[0].T[:known]
    deltas = 2.0 * random.normal(size=(300, known)) @ rows + 0.2 * random.normal(size=(300, dimension))
    bank = run_bases(3, deltas, basis_count=6, noise_multiplier=noise_multiplier).bank
    assert bank.count == known
    if known:
        assert sines(bank.directions, rows).max() < 0.2


def test_a_direction_below_the_edge_moves_nobody() -> None:
    deltas, _ = planted_people()
    found = run_bases(2, 4 * deltas, noise_multiplier=0.2)
    assert found.bank.count > 0 and found.spectrum[0] > found.noise_floor
    assert found.spectrum == tuple(sorted(found.spectrum, reverse=True))
    nothing = run_bases(2, 1e-9 * deltas, noise_multiplier=0.2)
    assert nothing.bank.count == 0 and nothing.spectrum[0] < nothing.noise_floor < 1.4 * nothing.spectrum[0]
    np.testing.assert_array_equal(nothing.bank.mix(np.zeros(0)), nothing.shared)


def test_the_bases_are_published_as_a_bank_in_the_frame() -> None:
    frame, deltas = small_frame(), planted_people()[0]
    plan = PreferencePlan(shared_rounds=0, bases_rounds=2, basis_count=PLANTED, bases_clip=CLIP)
    algorithm = PreferenceBases(frame, plan)
    chosen = algorithm.next_task([])
    assert chosen is not None
    total = sum(sketch_contribution(rows_of(chosen, frame), delta, CLIP, noisy=False) for delta in deltas)
    task = task_from({**chosen, "noise_multiplier": 0.0}, 0)
    released = algorithm.absorb(task, np.asarray(total) / PEOPLE, PEOPLE, QUIET)
    bank = Bank.from_bytes(released["bank"], space_sha256=frame.digest, dimension=frame.dimension)
    assert bank.space == "adapter" and bank.digest == algorithm.bank.digest and bank.count <= PLANTED


def test_the_first_rows_are_random_but_the_same_for_everybody() -> None:
    rows = first_rows(small_frame(), 6)
    np.testing.assert_allclose(rows @ rows.T, np.eye(6), atol=1e-12)
    np.testing.assert_array_equal(rows, first_rows(small_frame(), 6))
    assert len(first_rows(small_frame(), 10_000)) == small_frame().dimension


def test_the_noise_floor_is_that_of_the_real_mechanism() -> None:
    """People who offer nothing, through clipping, rounding, noise and decoding: what is left is the noise."""
    frame, random = small_frame(), np.random.default_rng(8)
    plan = PreferencePlan(shared_rounds=0, bases_rounds=2, basis_count=3, bases_clip=0.7)
    chosen = PreferenceBases(frame, plan).next_task([])
    assert chosen is not None
    task = plan_task(
        **{**chosen, "artefacts": {}},
        run_id="test",
        round=0,
        noise_multiplier=2.0,
        cohort_size=8,
        minimum_survivors=5,
        delta=1e-5,
        rotation_seed=1,
        graph_seed=1,
    )
    mechanism, nothing, squares = RoundPlan.of(task), np.zeros(task.update_dimension), []
    for _ in range(40):
        algorithm = PreferenceBases(frame, plan)
        shares = [mechanism.contribute(nothing, 0.0, 0, rounding_rng=random, noise_rng=random) for _ in range(7)]
        ring_sum = (np.sum(shares, axis=0) & ((1 << task.ring_bits) - 1)).astype(np.uint32)
        outcome = decode_sum(task, ring_sum, survivors=7)
        algorithm.absorb(task, outcome.mean_update, 7, outcome.metrics)
        squares.append(np.square(algorithm.spectrum).sum() / task.update_dimension)
        assert algorithm.bank.count == 0 and algorithm.spectrum[0] < algorithm.noise_floor
    expected = noise_deviation(task, 7)
    assert np.sqrt(np.mean(squares)) == pytest.approx(expected, rel=0.035)


def test_shared_rounds_are_the_mean_of_the_updates() -> None:
    frame, random = small_frame(), np.random.default_rng(2)
    algorithm = PreferenceBases(frame, PreferencePlan(shared_rounds=2, bases_rounds=0, server_rate=0.5))
    expected = np.zeros(frame.dimension)
    for number in range(2):
        chosen = algorithm.next_task([None] * number)  # type: ignore[list-item]
        assert chosen is not None and chosen["kind"] == "shared" and "bases" not in chosen["artefacts"]
        sent = Coordinates.from_bytes(
            chosen["artefacts"]["shared"], frame_sha256=frame.digest, dimension=frame.dimension
        )
        assert np.allclose(sent.rows[0], expected, atol=1e-6)
        updates = random.normal(size=(PEOPLE, frame.dimension))
        released = algorithm.absorb(task_from(chosen, number), updates.mean(0), PEOPLE, QUIET)
        noise = noise_deviation(task_from(chosen, number), PEOPLE)
        expected = expected + 0.5 * shrink(updates.mean(0), noise)
        rows = Coordinates.from_bytes(released["shared"], frame_sha256=frame.digest, dimension=frame.dimension).rows
        assert np.allclose(rows[0], expected, atol=1e-6)
    assert algorithm.bank.count == 0 and np.array_equal(algorithm.bank.mix(np.zeros(0)), algorithm.shared)
    assert algorithm.next_task([None] * 2) is None  # type: ignore[list-item]


@pytest.mark.parametrize(("fits", "grows"), [(0.9, False), (0.1, True), (7.0, False), (-3.0, True)])
def test_the_clip_norm_follows_the_quantile(fits: float, grows: bool) -> None:
    # If most people fit within it, it shrinks; noise may push the fraction out of its range.
    algorithm = PreferenceBases(small_frame(), PreferencePlan(shared_rounds=3, shared_clip=2.0))
    chosen = algorithm.next_task([])
    assert chosen is not None and chosen["clip_norm"] == 2.0
    update = np.zeros(small_frame().dimension)
    algorithm.absorb(task_from(chosen, 0), update, PEOPLE, {**QUIET, "fraction_not_clipped": fits})
    later = algorithm.next_task([None])  # type: ignore[list-item]
    assert later is not None and (later["clip_norm"] > 2.0) is grows
    assert 2.0 * np.exp(-0.1001) <= later["clip_norm"] <= 2.0 * np.exp(0.1001)


def test_the_clip_norm_settles_at_the_quantile() -> None:
    norms = np.random.default_rng(5).lognormal(size=PEOPLE)
    algorithm = PreferenceBases(small_frame(), PreferencePlan(shared_rounds=80, shared_clip=9.0, clip_quantile=0.7))
    clip = 9.0
    for number in range(80):
        chosen = algorithm.next_task([None] * number)  # type: ignore[list-item]
        assert chosen is not None
        clip = chosen["clip_norm"]
        metrics = {**QUIET, "fraction_not_clipped": float((norms <= clip).mean())}
        algorithm.absorb(task_from(chosen, number), np.zeros(small_frame().dimension), PEOPLE, metrics)
    assert clip == pytest.approx(np.quantile(norms, 0.7), rel=0.15)


def test_bases_rounds_come_after_the_shared_ones_on_the_final_shared_adapter() -> None:
    frame = small_frame()
    plan = PreferencePlan(
        shared_rounds=1,
        bases_rounds=2,
        basis_count=2,
        oversampling=3,
        shared_clip=1.0,
        bases_clip=0.5,
        training={"epochs": 2},
    )
    algorithm, kinds = PreferenceBases(frame, plan), []
    for number in range(plan.rounds):
        chosen = algorithm.next_task([None] * number)  # type: ignore[list-item]
        assert chosen is not None and chosen["settings"] == {"epochs": 2}
        task = task_from(chosen, number)
        kinds.append((task.kind, task.update_dimension, task.clip_norm, "bases" in task.artefacts))
        update = np.random.default_rng(number).normal(size=task.update_dimension)
        algorithm.absorb(task, update, PEOPLE, QUIET)
    d = frame.dimension
    assert kinds == [("shared", d, 1.0, False), ("bases", 5 * d, 0.5, True), ("bases", 5 * d, 0.5, True)]
    assert Frame.from_bytes(chosen["artefacts"]["frame"]).digest == frame.digest


def test_a_replay_of_the_same_sums_gives_the_same_bytes() -> None:
    def releases() -> list[bytes]:
        plan = PreferencePlan(shared_rounds=2, bases_rounds=2, basis_count=2)
        algorithm, out = PreferenceBases(small_frame(), plan), []
        for number in range(plan.rounds):
            chosen = algorithm.next_task([None] * number)  # type: ignore[list-item]
            assert chosen is not None
            task = task_from(chosen, number)
            mean = np.random.default_rng(number).normal(size=task.update_dimension)
            out.append(task.to_bytes())
            out.extend(algorithm.absorb(task, mean, PEOPLE, QUIET).values())
        return out

    assert releases() == releases()


def test_orthonormal_rows_have_one_sign_whatever_the_sketchs() -> None:
    sketch = np.random.default_rng(4).normal(size=(3, 11))
    rows, values = orthonormal_rows(sketch)
    assert np.allclose(rows @ rows.T, np.eye(3), atol=1e-12)
    assert np.allclose(values, np.linalg.svd(sketch, compute_uv=False))
    assert np.allclose(sketch - sketch @ rows.T @ rows, 0.0, atol=1e-12)  # they span it
    assert (rows[np.arange(3), np.abs(rows).argmax(1)] > 0).all()
    for other in (
        -sketch,
        sketch[::-1],
        np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0] @ sketch,
    ):
        assert np.allclose(orthonormal_rows(other)[0], rows, atol=1e-9)


def test_plans_without_a_round_or_a_basis_are_refused() -> None:
    for wrong in (
        {"shared_rounds": 0, "bases_rounds": 0},
        {"basis_count": 0},
        {"bases_rounds": -1},
        {"oversampling": -1},
        {"bases_rounds": 1},
    ):
        with pytest.raises(PenchantError, match="at least"):
            PreferencePlan(**wrong)  # type: ignore[arg-type]


def test_shrinking_a_noisy_mean_lowers_its_squared_error_and_leaves_an_exact_one_alone() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=48) * 0.1
    readings = truth + 0.2 * random.normal(size=(400, 48))
    raw = float(np.mean(np.sum((readings - truth) ** 2, axis=1)))
    shrunk = float(np.mean([np.sum((shrink(reading, 0.2) - truth) ** 2) for reading in readings]))
    assert shrunk < 0.5 * raw
    assert np.array_equal(shrink(truth, 0.0), truth)
    assert not shrink(truth, 10.0).any()
