from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol.clipping import clip_to_norm
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Frame
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan, plan_task
from server.aggregate import decode_sum
from server.algorithms import (
    PreferenceBases,
    PreferencePlan,
    noise_deviation,
    orthonormal_rows,
    reliability,
    shrink,
)

PEOPLE, PLANTED = 60, 3
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


def task_from(chosen: Mapping[str, Any], number: int) -> RoundTask:
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
    return RoundTask(**{**rest, **chosen, "artefacts": digests})


def offered(
    chosen: Mapping[str, Any], frame: Frame, delta: NDArray[np.float64], sketch: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What one device adds to a sum of bases, by the definition in ``client/training.py``."""
    delta, _ = clip_to_norm(delta, chosen["clip_norm"])
    weights = sketch
    if "bases" in chosen["artefacts"]:
        data = chosen["artefacts"]["bases"]
        weights = Coordinates.from_bytes(data, frame_sha256=frame.digest, dimension=frame.dimension).rows @ delta
    return np.outer(weights / np.linalg.norm(weights), delta).ravel()


def run_bases(
    rounds: int, deltas: NDArray[np.float64], *, basis_count: int = PLANTED, noise_multiplier: float = 0.0
) -> PreferenceBases:
    """Only sums reach the algorithm. Returns the algorithm after the last one."""
    frame = small_frame()
    plan = PreferencePlan(shared_rounds=0, bases_rounds=rounds, basis_count=basis_count, bases_clip=5.0)
    algorithm = PreferenceBases(frame, plan)
    random = np.random.default_rng(7)
    sketches = random.normal(size=(len(deltas), basis_count))
    history: list[Any] = []
    while (chosen := algorithm.next_task(history)) is not None:
        task = task_from({**chosen, "noise_multiplier": noise_multiplier}, len(history))
        noise = RoundPlan.of(task).update_noise_deviation
        total = sum(offered(chosen, frame, delta, w) for delta, w in zip(deltas, sketches, strict=True))
        mean = (total + noise * random.normal(size=task.update_dimension)) / len(deltas)
        algorithm.absorb(task, mean, len(deltas), QUIET)
        history.append(mean)
    return algorithm


def test_blind_subspace_iteration_finds_the_planted_directions() -> None:
    deltas, planted = planted_people()
    after_one = run_bases(1, deltas).bases
    after_three = run_bases(3, deltas).bases
    assert after_one is not None and after_three is not None
    assert after_one.shape == (PLANTED, small_frame().dimension)
    assert np.allclose(after_three @ after_three.T, np.eye(PLANTED), atol=1e-9)
    principal = np.linalg.svd(deltas, full_matrices=False)[2][:PLANTED]
    assert sines(after_three, planted).max() < 0.05
    assert sines(after_three, principal).max() < sines(after_one, principal).max()


def test_it_finds_them_beneath_noise_on_the_sum() -> None:
    deltas, planted = planted_people()
    bases = run_bases(3, 4 * deltas, noise_multiplier=0.1).bases
    assert bases is not None and sines(bases, planted).max() < 0.15


def test_bases_of_people_without_anything_in_common_span_no_planted_directions() -> None:
    deltas, planted = planted_people()
    lonely = np.random.default_rng(3).normal(size=deltas.shape) * 0.3
    bases = run_bases(3, lonely).bases
    assert bases is not None and sines(bases, planted).max() > 0.8


def test_the_spectrum_stands_out_of_the_noise_floor_only_where_there_is_structure() -> None:
    deltas, _ = planted_people()
    found = run_bases(2, 4 * deltas, basis_count=6, noise_multiplier=0.2)
    assert found.spectrum == tuple(sorted(found.spectrum, reverse=True))
    assert found.spectrum[0] > 5 * found.noise_floor
    nothing = run_bases(2, 1e-9 * deltas, basis_count=6, noise_multiplier=0.2)
    assert 0.5 * nothing.noise_floor < nothing.spectrum[0] < 1.1 * nothing.noise_floor


def test_the_noise_floor_is_that_of_the_real_mechanism() -> None:
    """People who offer nothing, through clipping, rounding, noise and decoding: what is left is the noise."""
    frame, random = small_frame(), np.random.default_rng(8)
    plan = PreferencePlan(shared_rounds=0, bases_rounds=1, basis_count=3, bases_clip=0.7)
    algorithm = PreferenceBases(frame, plan)
    chosen = algorithm.next_task([])
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
        shares = [mechanism.contribute(nothing, 0.0, 0, rounding_rng=random, noise_rng=random) for _ in range(7)]
        ring_sum = (np.sum(shares, axis=0) & ((1 << task.ring_bits) - 1)).astype(np.uint32)
        outcome = decode_sum(task, ring_sum, survivors=7)
        algorithm.absorb(task, outcome.mean_update, 7, outcome.metrics)
        squares.append(np.square(algorithm.spectrum).sum() / task.update_dimension)
    expected = algorithm.noise_floor / (np.sqrt(frame.dimension) + np.sqrt(3))
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
    assert kinds == [("shared", d, 1.0, False), ("bases", 2 * d, 0.5, False), ("bases", 2 * d, 0.5, True)]
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
    for wrong in ({"shared_rounds": 0, "bases_rounds": 0}, {"basis_count": 0}, {"bases_rounds": -1}):
        with pytest.raises(PenchantError, match="at least one"):
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


def test_reliability_is_what_noise_does_not_explain() -> None:
    assert np.allclose(reliability((2.0, 1.0, 0.5), 1.0), [0.75, 0.0, 0.0])
    assert np.array_equal(reliability((2.0, 0.1), 0.0), [1.0, 1.0])
    assert np.array_equal(reliability((0.0,), 0.0), [0.0])
