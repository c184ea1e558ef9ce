"""The study's own arithmetic: its ways are those of server and devices, and its oracle is none of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from protocol.subspace_sketch import sketch_contribution
from simulations.studies.subspace.plot import draw
from simulations.studies.subspace.study import (
    alternating_gradient,
    blind_sums,
    captured,
    clipped,
    known_population,
    plain_frame,
    principal_angles,
    private_start,
    recover,
    residual_study,
)

CLIP = 0.9


def test_captured_energy_is_one_for_the_oracle_and_less_for_anything_else() -> None:
    deltas, _ = known_population(50, 20, 3, 0.6, 0)
    oracle = np.linalg.svd(deltas, full_matrices=False)[2]
    assert captured(oracle, deltas, 3) == pytest.approx(1.0)
    assert captured(oracle[1:], deltas, 3) < 0.95


def test_the_first_sum_is_what_the_devices_would_offer() -> None:
    deltas, _ = known_population(30, 16, 2, 0.5, 1)
    frame = plain_frame(16)
    after = blind_sums(deltas, frame, clip_norm=CLIP, basis_count=2, oversampling=2, sums=2)
    total = sum(sketch_contribution(after[0].rows, delta, CLIP, noisy=False) for delta in deltas)
    again = np.linalg.svd(np.reshape(total, (4, 16)), full_matrices=False)[2]
    assert max(principal_angles(after[1].rows, again)) < 1e-4


def test_three_sums_are_within_two_percent_of_the_oracle_and_ahead_of_the_other_ways() -> None:
    deltas, _ = known_population(200, 64, 3, 0.5, 2)
    cut = clipped(deltas, CLIP)
    blind = [captured(one.rows, cut, 2) for one in blind_sums(deltas, plain_frame(64), clip_norm=CLIP, basis_count=2)]
    assert blind[0] > 0.8 and blind[2] > 0.98
    for way in (
        private_start(deltas, clip_norm=CLIP, count=2, sums=3, deviation=0.0, seed=0),
        alternating_gradient(deltas, clip_norm=CLIP, count=2, sums=3, deviation=0.0, seed=0, rate=3.0),
    ):
        found = [captured(rows, cut, 2) for rows in way]
        assert found[0] < blind[0] - 0.1 and found[2] < blind[2]


def test_under_noise_the_public_start_finds_what_the_private_one_has_not_found_yet() -> None:
    deltas, _ = known_population(300, 64, 3, 0.5, 3)
    cut, z = clipped(deltas, CLIP), 1.5
    blind, private = [], []
    for seed in range(4):
        sums = blind_sums(
            deltas, plain_frame(64, seed), clip_norm=CLIP, basis_count=3, sums=2, noise_multiplier=z, seed=seed
        )
        blind.append(captured(sums[-1].rows, cut, 3))
        way = private_start(deltas, clip_norm=CLIP, count=3, sums=2, deviation=z * CLIP / 0.9**0.5, seed=seed)
        private.append(captured(way[-1], cut, 3))
    assert np.mean(blind) > np.mean(private) + 0.05


@pytest.mark.parametrize("epsilon", [np.inf, 8.0])
def test_k_is_chosen_right_on_a_known_population(epsilon: float) -> None:
    for rank in (0, 3):
        found = recover(300, 64, rank, epsilon, seeds=2)
        assert found["counts"] == [rank, rank]
    assert found["largest_angle_degrees"][0] < 20


def test_a_study_can_be_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.studies.subspace.study.SEEDS", 2)
    study = residual_study(known_population(20, 12, 2, 0.5, 4)[0], basis_counts=(2,))
    assert json.loads(json.dumps(study))["people"] == 20
    ways = study["ways"]["K=2"]["none"]
    assert 0.0 < ways["single_shared_direction"] < ways["blind"][-1][0] <= 1.0 + 1e-9
    draw({"residuals": {"twenty people": study}}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
