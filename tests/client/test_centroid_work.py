from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import client.app
from client.centroid_work import CentroidWork, kind_statistics
from client.reward_training import device_choices
from edge_runtime.device import Device
from protocol.errors import ProtocolError
from protocol.feature_map import FeatureMap
from protocol.messages import RoundTask
from protocol.reward_model import ChoiceBatch, Choices, WeightFit, fit_weights_batch
from server.centroids import CentroidPlan, CentroidRounds
from server.planning import task_from_plan
from simulations.choices.reward_fleet import identity_map
from simulations.studies.placement.fleet import draw_centroids
from tests.fleet_help import grid_of, make_fleet, number_of, run_fleet, settings_of
from tests.protocol.clustered_people import DIRECTIONS, FEATURES, KINDS, clustered_people

FLEET = clustered_people(300, 60, seed=4)
FIT = fit_weights_batch(FLEET.people, FLEET.bank)


def test_people_are_counted_to_their_own_kind() -> None:
    assert (kind_statistics(FIT, FLEET.bank, FLEET.prior).kinds == FLEET.kinds).mean() > 0.97


def test_the_closed_form_is_bayes_rule_for_a_gaussian() -> None:
    """A likelihood that is Gaussian: posterior of the offset against the textbook's product of two Gaussians."""
    bank, prior = replace(FLEET.bank, spread=np.full(DIRECTIONS, 2.0)), FLEET.prior
    random = np.random.default_rng(0)
    seen, noise = prior.centroids[1] + 0.3 * random.normal(size=DIRECTIONS), 0.5
    precision = np.eye(DIRECTIONS) * (noise**-2 + 2.0**-2)
    fit = WeightFit((seen * noise**-2 / np.diag(precision))[None], np.linalg.inv(precision).astype(np.float64)[None])
    found = kind_statistics(fit, bank, prior)
    assert found.kinds[0] == 1
    offset = (seen - prior.centroids[1]) * noise**-2 / (noise**-2 + 2.0**-2)
    assert np.allclose(found.offsets[0], offset / 2.0)
    tight = noise**-2 + prior.within**-2
    mean = (seen - prior.centroids[1]) * noise**-2 / tight
    assert np.allclose(found.second_moments[0], (mean**2 + 1 / tight) / 4.0)


def test_the_mean_offset_is_zero_where_the_centroid_is_right_and_points_there_where_it_is_not() -> None:
    moved = replace(FLEET.prior, centroids=FLEET.prior.centroids + 0.5)
    for prior, true in ((FLEET.prior, 0.0), (moved, -0.5)):
        found = kind_statistics(FIT, FLEET.bank, prior)
        mean = (found.offsets * FLEET.bank.spread).mean(0)[:KINDS]  # the fourth direction hardly moves anybody
        assert np.allclose(mean, true, atol=0.2)


def test_the_second_moments_give_the_width_of_a_kind() -> None:
    prior = replace(FLEET.prior, within=np.full(DIRECTIONS, 1.0))  # starts too wide
    for _ in range(12):
        found = kind_statistics(FIT, FLEET.bank, prior)
        prior = replace(prior, within=np.sqrt((found.second_moments * FLEET.bank.spread**2).mean(0)))
    assert np.allclose(prior.within, 0.4, atol=0.15)


def test_a_direction_that_moves_nobody_stays_still() -> None:
    bank = replace(FLEET.bank, spread=FLEET.bank.spread * [1, 1, 0, 1])
    found = kind_statistics(fit_weights_batch(FLEET.people, bank), bank, FLEET.prior)
    assert not found.offsets[:, 2].any() and not found.second_moments[:, 2].any()
    assert found.offsets[:, 0].any()


# ----- on devices -----

MAP = identity_map(FEATURES)
BANK = replace(FLEET.bank, space_sha256=MAP.digest)
PLAN = CentroidPlan(centroid_count=2, rounds=2, minimum_people=2)


def phi_of(device: Device, feature_map: FeatureMap, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Features that a text determines."""
    return np.array([np.random.default_rng(zlib.crc32(text.encode())).normal(size=FEATURES) for _, text in pairs])


def choose(device: Device, kind: int, count: int) -> None:
    """Choices of somebody of this kind between invented answers."""
    taste = BANK.mix(FLEET.prior.centroids[kind])
    for number in range(count):
        texts = [f"answer {number_of(device)} {number} {side}" for side in "ab"]
        better = np.argsort(phi_of(device, MAP, [("", text) for text in texts]) @ taste)[::-1]
        device.feedback.add_preference("Say something", texts[better[0]], texts[better[1]])


@contextmanager
def chosen_fleet(folder: Path, people: int) -> Iterator[list[Path]]:
    """Devices whose owners are of two kinds; the last has not chosen anything."""
    homes = make_fleet(folder / "devices", people)
    for number, home in enumerate(homes[:-1]):
        with Device.open(home) as device:
            choose(device, number % 2, 15)
    factory = client.app.work_factory
    client.app.work_factory = lambda device: CentroidWork(device, phi_of)
    try:
        yield homes
    finally:
        client.app.work_factory = factory
        client.app.close_devices()


def task_of(algorithm: CentroidRounds, **changes: Any) -> tuple[RoundTask, Mapping[str, bytes]]:
    wanted = algorithm.next_task([])
    assert wanted is not None
    task = task_from_plan(
        {**wanted, **changes}, run_id="r", round=0, attempt=0, cohort_size=9, minimum_survivors=6,
        dropout_fraction=1 / 3, noise_multiplier=1.0, delta=1e-5, ring_bits=16, artefacts={},
    )  # fmt: skip
    return task, wanted["artefacts"]


def test_a_device_offers_one_block_within_the_bound_and_nothing_without_choices(tmp_path: Path) -> None:
    algorithm = CentroidRounds(BANK, MAP, "a" * 64, PLAN)
    task, artefacts = task_of(algorithm)
    with chosen_fleet(tmp_path, 3) as homes:
        with Device.open(homes[0]) as device:
            update = CentroidWork(device, phi_of).compute(task, artefacts)
        with Device.open(homes[2]) as device:
            nothing = CentroidWork(device, phi_of).compute(task, artefacts)
    blocks = update.update.reshape(2, 2 * DIRECTIONS + 1)
    assert sorted(np.any(blocks != 0.0, axis=1)) == [False, True]
    assert 0.0 < np.linalg.norm(update.update) <= task.clip_norm * (1 + 1e-12)
    assert update.example_count == 15 and 0.0 < update.loss_sum < 15 * np.log(2)
    assert not nothing.update.any() and nothing.example_count == 0


def test_a_task_that_does_not_fit_its_centroids_is_refused(tmp_path: Path) -> None:
    algorithm = CentroidRounds(BANK, MAP, "a" * 64, PLAN)
    task, artefacts = task_of(algorithm, dimension=31)
    other = replace(algorithm.prior, bank_sha256="c" * 64).to_bytes()
    with Device.open(make_fleet(tmp_path, 1)[0]) as device:
        with pytest.raises(ProtocolError, match="does not fit"):
            CentroidWork(device, phi_of).compute(task, artefacts)
        with pytest.raises(ProtocolError, match="another bank"):
            CentroidWork(device, phi_of).compute(task, {**artefacts, "prior": other})


def test_a_fleet_of_devices_with_real_crypto_finds_what_the_simulation_finds(tmp_path: Path) -> None:
    """And nobody's weights, offset or statistics stand in any message: the masked vector is all that leaves."""
    with chosen_fleet(tmp_path, 9) as homes:
        grid = grid_of(homes, record_payloads=True)
        algorithm = CentroidRounds(BANK, MAP, "a" * 64, PLAN)
        result = run_fleet(grid, settings_of(rounds=9, minimum_survivors=9), tmp_path / "out", algorithm)
        people = []
        for home in homes:
            with Device.open(home) as device:
                people.append(device_choices(device, MAP, phi_of))
    assert len(result.outcomes) == PLAN.rounds and {r.name for r in result.releases} == {"taste", "mixture_prior"}
    drawn = draw_centroids(ChoiceBatch.of(people), BANK, MAP, PLAN)
    assert len(drawn.prior.centroids) == 2
    assert np.allclose(drawn.prior.centroids, algorithm.prior.centroids, atol=0.02)
    assert np.allclose(drawn.prior.shares, algorithm.prior.shares, atol=0.01)
    fits = fit_weights_batch(ChoiceBatch.of(people), algorithm.bank)
    sent = b"".join(one.payload or b"" for one in grid.transfers if one.direction == "up")
    for person in range(8):
        for kind in (np.float32, np.float64):
            assert fits.weights[person].astype(kind).tobytes()[:8] not in sent


def test_who_has_not_chosen_changes_no_centroid() -> None:
    nobody = Choices(np.zeros((0, FEATURES)), np.zeros(0))
    some = [Choices(FLEET.people.differences[n], FLEET.people.outcomes[n]) for n in range(40)]
    alone = draw_centroids(ChoiceBatch.of(some), BANK, MAP, PLAN)
    together = draw_centroids(ChoiceBatch.of([*some, nobody, nobody]), BANK, MAP, PLAN)
    assert np.allclose(alone.prior.centroids, together.prior.centroids, atol=0.02)
    assert np.allclose(alone.prior.shares, together.prior.shares, atol=0.01)
