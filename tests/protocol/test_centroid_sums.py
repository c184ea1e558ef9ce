from __future__ import annotations

import numpy as np
import pytest

from protocol.centroid_sums import CentroidLayout
from protocol.clipping import JointLayout
from protocol.errors import ProtocolError
from protocol.round_plan import RoundPlan, plan_task

LAYOUT = CentroidLayout(centroid_count=5, weight_count=3, radius=1.7)


def extremes(seed: int = 0) -> list[np.ndarray]:
    """Contributions of people who try: huge offsets, huge moments, not-a-number, and honest ones."""
    random = np.random.default_rng(seed)
    vectors = []
    for kind in range(LAYOUT.centroid_count):
        for size in (1e-3, 1.0, 1e6):
            vectors.append(
                LAYOUT.contribution(kind, size * random.normal(size=3), size * np.abs(random.normal(size=3)))
            )
        vectors.append(LAYOUT.contribution(kind, np.full(3, np.nan), np.full(3, np.inf)))
    return vectors


def test_nobody_adds_more_than_the_sensitivity_and_somebody_can_add_all_of_it() -> None:
    norms = [float(np.linalg.norm(vector)) for vector in extremes()]
    assert max(norms) <= LAYOUT.sensitivity * (1 + 1e-12)
    assert max(norms) == pytest.approx(LAYOUT.sensitivity)  # a smaller constant would be wrong


def test_the_rounds_clip_leaves_every_contribution_whole() -> None:
    """With C as the clip norm the joint vector's clip bit says "not clipped"; with a hair less it does not."""
    joint = JointLayout(LAYOUT.dimension)
    assert all(joint.pack(vector, 1.0, 1, LAYOUT.sensitivity * (1 + 1e-12))[1] for vector in extremes())
    assert not all(joint.pack(vector, 1.0, 1, LAYOUT.sensitivity * 0.999)[1] for vector in extremes())


def test_one_persons_change_moves_the_released_sum_by_at_most_the_sensitivity() -> None:
    """Through rounding and decoding, noise switched off: gone is at most C, another person instead at most 2 C."""
    task = plan_task(
        run_id="r", round=0, kind="shared", artefacts={}, base_sha256="a" * 64, dimension=LAYOUT.dimension,
        clip_norm=LAYOUT.sensitivity, noise_multiplier=0.0, cohort_size=8, minimum_survivors=5, delta=1e-5,
        ring_bits=24, rotation_seed=1, graph_seed=1,
    )  # fmt: skip
    plan, random = RoundPlan.of(task), np.random.default_rng(3)

    def released(vectors: list[np.ndarray]) -> np.ndarray:
        total = sum(plan.contribute(v, 1.0, 1, rounding_rng=random) for v in vectors)
        return plan.decode(np.asarray(total & ((1 << 24) - 1), dtype=np.uint32), len(vectors)).update * len(vectors)

    people = extremes()[:7]
    everybody = released(people)
    moves = [float(np.linalg.norm(everybody - released([*people[:6], other]))) for other in extremes(9)]
    gone = float(np.linalg.norm(everybody - released(people[:6])))
    assert 0.5 < gone <= LAYOUT.sensitivity * 1.001
    assert LAYOUT.sensitivity < max(moves) <= 2 * LAYOUT.sensitivity * 1.001


def test_the_sums_come_back() -> None:
    random = np.random.default_rng(1)
    offsets, moments = random.normal(size=(40, 3)) * 0.3, np.abs(random.normal(size=(40, 3))) * 0.3
    kinds = random.integers(0, 5, 40)
    total = sum(LAYOUT.contribution(int(m), u, s) for m, u, s in zip(kinds, offsets, moments, strict=True))
    sums = LAYOUT.read(np.asarray(total), 0.5)
    assert np.allclose(sums.counts, np.bincount(kinds, minlength=5))
    for kind in range(5):
        assert np.allclose(sums.offsets[kind], offsets[kinds == kind].sum(0))
        assert np.allclose(sums.squares[kind], moments[kinds == kind].sum(0))
    assert sums.deviation == 0.5 and sums.count_deviation == pytest.approx(0.5 / (0.5 * 1.7))


def test_a_person_far_from_every_centroid_still_counts_as_one() -> None:
    sums = LAYOUT.read(LAYOUT.contribution(2, np.full(3, 1e9), np.full(3, 1e9)), 0.0)
    assert np.allclose(sums.counts, [0, 0, 1, 0, 0])
    assert np.linalg.norm(sums.offsets) == pytest.approx(LAYOUT.radius)


def test_server_and_devices_read_the_same_layout_from_the_clip_norm() -> None:
    again = CentroidLayout.for_clip_norm(LAYOUT.sensitivity, 5, 3)
    assert again.radius == pytest.approx(LAYOUT.radius) and again.dimension == LAYOUT.dimension


@pytest.mark.parametrize("wrong", [(0, 3, 1.0), (2, 0, 1.0), (2, 3, 0.0), (2, 3, float("inf"))])
def test_impossible_layouts_are_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ProtocolError, match="centroid"):
        CentroidLayout(*wrong)


def test_a_sum_of_another_shape_and_an_unknown_kind_are_refused() -> None:
    with pytest.raises(ProtocolError, match="shape"):
        LAYOUT.read(np.zeros(LAYOUT.dimension + 1), 0.0)
    with pytest.raises(ProtocolError, match="kind 5"):
        LAYOUT.contribution(5, np.zeros(3), np.zeros(3))
