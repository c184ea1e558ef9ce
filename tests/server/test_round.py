"""A whole round over LocalGrid with the real crypto: exactness, losses, aborts, refusals, wire size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import server.fleet
from client.enrol import enrol, pinned_fleet
from edge_runtime.device import Device
from protocol.errors import PenchantError
from server.credentials import ServerCredentials
from server.roll_call import RollCall
from server.store import Store
from simulations.experiments.local_grid import lose_nothing
from tests.fleet_help import (
    AUTHORITY,
    CERTIFICATE,
    DIMENSION,
    SERVER_KEY,
    MeanAlgorithm,
    grid_of,
    lost_at,
    make_fleet,
    recorded_contributions,
    run_fleet,
    settings_of,
    vector_of,
)


def sum_of(seen, outcome, people):
    digest = outcome.task.digest()
    return sum(seen[(digest, person)] for person in people)


def test_the_sum_is_exact_and_decodes_to_the_mean(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", 7)
    with recorded_contributions() as seen:
        result = run_fleet(grid_of(homes), settings_of(), tmp_path / "out", MeanAlgorithm())
    (outcome,) = result.outcomes
    assert outcome.survivors == 7
    assert np.array_equal(outcome.integer_sum, sum_of(seen, outcome, range(7)))
    mean = np.mean([vector_of(person, DIMENSION) for person in range(7)], axis=0)
    assert np.abs(outcome.mean_update - mean).max() < 1e-2
    assert outcome.fraction_not_clipped == pytest.approx(1.0, abs=0.02)
    assert outcome.mean_loss == pytest.approx(3.0, abs=0.2)
    assert outcome.mean_examples == pytest.approx(10.0, abs=10.0)
    assert [release.name for release in result.releases] == ["shared"]


@pytest.mark.parametrize("stage", ["advertise", "share", "collect", "confirm", "unmask"])
@pytest.mark.parametrize("how", ["dropped", "silenced"])
def test_a_third_may_vanish_at_any_one_stage(tmp_path: Path, stage: str, how: str) -> None:
    people, lost = 9, {1, 4, 8}
    homes = make_fleet(tmp_path / "devices", people)
    grid = grid_of(homes, **{how: lost_at({stage: lost})})
    with recorded_contributions() as seen:
        result = run_fleet(grid, settings_of(), tmp_path / "out", MeanAlgorithm())
    (outcome,) = result.outcomes
    left = set(range(people)) - (lost if stage not in ("confirm", "unmask") else set())
    assert outcome.survivors == len(left)
    assert np.array_equal(outcome.integer_sum, sum_of(seen, outcome, left))


def test_a_third_may_vanish_before_between_and_after_the_promises(tmp_path: Path) -> None:
    """27 -> 18 on the roster -> 16 share -> 14 survive -> 12 sign -> 8 answer the last question: exact over the 14."""
    people = 27
    homes = make_fleet(tmp_path / "devices", people)
    lost = {
        "advertise": set(range(0, 9)),
        "share": {9, 10},
        "collect": {11, 12},
        "confirm": {13, 14},
        "unmask": set(range(13, 19)),
    }
    grid = grid_of(homes, silenced=lost_at(lost))
    with recorded_contributions() as seen:
        result = run_fleet(grid, settings_of(minimum_survivors=8), tmp_path / "out", MeanAlgorithm())
    (outcome,) = result.outcomes
    assert outcome.survivors == 14
    assert np.array_equal(outcome.integer_sum, sum_of(seen, outcome, range(13, 27)))


def test_without_a_quorum_that_signs_the_survivors_nothing_is_asked_or_spent(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", 9)
    grid = grid_of(homes, silenced=lost_at({"confirm": set(range(5))}))
    with recorded_contributions(), pytest.raises(PenchantError, match="signed the list"):
        run_fleet(grid, settings_of(attempts_per_round=1), tmp_path / "out", MeanAlgorithm())
    assert "unmask" not in grid.bytes_by_stage("down")
    store = Store(tmp_path / "out" / "fleet.db")
    assert store.ledger_rows() == []
    store.close()


def test_a_graph_that_forces_one_list_needs_no_fifth_question(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", 8)
    grid = grid_of(homes)
    with recorded_contributions():
        run_fleet(grid, settings_of(dropout_fraction=0.125), tmp_path / "out", MeanAlgorithm())
    assert "confirm" not in grid.bytes_by_stage("down") and "unmask" in grid.bytes_by_stage("down")


@pytest.mark.parametrize("stage", ["advertise", "share", "collect", "unmask"])
def test_below_the_threshold_the_round_aborts_and_nothing_is_learnt(tmp_path: Path, stage: str) -> None:
    people = 9
    homes = make_fleet(tmp_path / "devices", people)
    lost = set(range(7)) if stage == "unmask" else set(range(4))
    grid = grid_of(homes, silenced=lost_at({stage: lost}))
    settings = settings_of(attempts_per_round=1)
    with recorded_contributions(), pytest.raises(PenchantError, match="failed 1 times"):
        run_fleet(grid, settings, tmp_path / "out", MeanAlgorithm())
    store = Store(tmp_path / "out" / "fleet.db")
    (row,) = store.rounds("test")
    assert row.stage == "aborted" and store.outcome(row.round_key) is None
    assert not any(
        store.replies(row.round_key, name) for name in ("advertise", "share", "collect", "confirm", "unmask")
    )
    assert store.releases() == [] and not (tmp_path / "out" / "releases.json").exists()
    # Nobody was asked to unmask anything before the last stage, so before it nothing is spent either.
    assert len(store.ledger_rows()) == (1 if stage == "unmask" else 0)
    asked = grid.bytes_by_stage("down")
    assert ("unmask" in asked) == (stage == "unmask")
    store.close()
    grid.silenced = lose_nothing
    with recorded_contributions():  # the devices are back: the same command goes on with a new attempt
        result = run_fleet(grid, settings, tmp_path / "out", MeanAlgorithm())
    assert result.outcomes[0].task.attempt == 1 and result.outcomes[0].survivors == people


def test_an_aborted_attempt_is_followed_by_another(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", 6)
    failures = {"left": 4}

    def lossy(stage: str, partition: int) -> bool:
        if stage == "collect" and failures["left"] > 0:
            failures["left"] -= 1
            return True
        return False

    with recorded_contributions() as seen:
        result = run_fleet(grid_of(homes, silenced=lossy), settings_of(), tmp_path / "out", MeanAlgorithm())
    (outcome,) = result.outcomes
    assert outcome.task.attempt == 1 and len(result.aborted) == 1
    assert np.array_equal(outcome.integer_sum, sum_of(seen, outcome, range(6)))


def test_rounds_build_on_releases_and_only_missing_artefacts_are_sent(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", 5)
    grid = grid_of(homes)
    with recorded_contributions():
        result = run_fleet(grid, settings_of(rounds=3), tmp_path / "out", MeanAlgorithm())
    assert [release.round for release in result.releases] == [0, 1, 2]
    assert [release.parent_sha256 for release in result.releases[1:]] == [
        release.sha256 for release in result.releases[:-1]
    ]
    assert len(set(result.outcomes[2].task.artefacts.values())) == 1
    setups = [transfer for transfer in grid.transfers if transfer.stage == "setup" and transfer.direction == "down"]
    assert len(setups) == 5 * 4  # the roll call, then one artefact per device and round


def test_a_round_stays_below_ten_kilobytes_up_per_person(tmp_path: Path) -> None:
    """26 people, 700 values, 16 bits, complete graph: every stage and Flower's envelopes included."""
    homes = make_fleet(tmp_path / "devices", 26)
    grid = grid_of(homes)
    with recorded_contributions():
        run_fleet(grid, settings_of(noise_multiplier=0.6), tmp_path / "out", MeanAlgorithm(dimension=700))
    assert max(grid.bytes_per_device("up").values()) < 10_000


def with_an_outsider(folder: Path) -> tuple[list[Path], ServerCredentials]:
    """Six devices and the credentials after the authority has struck the sixth off the list."""
    homes = make_fleet(folder, 6)
    with Device.open(homes[5]) as device:
        outsider = device.identity.public_bytes
        members = pinned_fleet(device).members - {outsider}
    roster = AUTHORITY.enrol(members, serial=2)
    return homes, ServerCredentials(AUTHORITY.invitation, SERVER_KEY, CERTIFICATE, roster)


def with_the_outsider_again(credentials: ServerCredentials, homes: list[Path]) -> ServerCredentials:
    """What a server would need to invite it all the same: a list that the authority has not signed for this serial."""
    with Device.open(homes[5]) as device:
        members = credentials.members | {device.identity.public_bytes}
    return dataclasses.replace(credentials, roster=AUTHORITY.enrol(members, serial=2))


def test_the_server_samples_nobody_who_is_not_on_the_roster(tmp_path: Path) -> None:
    homes, credentials = with_an_outsider(tmp_path / "devices")
    grid = grid_of(homes)
    with recorded_contributions() as seen:
        result = run_fleet(grid, settings_of(), tmp_path / "out", MeanAlgorithm(), credentials=credentials)
    (outcome,) = result.outcomes
    assert outcome.task.cohort_size == outcome.survivors == 5 and result.aborted == ()
    assert np.array_equal(outcome.integer_sum, sum_of(seen, outcome, range(5)))
    assert {transfer.stage for transfer in grid.transfers if transfer.partition == 5} == {"setup"}


def test_an_outsider_in_the_cohort_is_refused_when_it_advertises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second check: even a roll call that let the outsider in does not bring its keys to the others."""
    homes, credentials = with_an_outsider(tmp_path / "devices")
    monkeypatch.setattr(
        server.fleet,
        "RollCall",
        lambda grid, known, *others: RollCall(grid, with_the_outsider_again(known, homes), *others),
    )
    with Device.open(homes[5]) as device:  # it takes every list there is
        enrol(device, AUTHORITY.invitation, with_the_outsider_again(credentials, homes).roster)
    for home in homes[:5]:
        with Device.open(home) as device:
            enrol(device, AUTHORITY.invitation, credentials.roster)
    with recorded_contributions() as seen:
        result = run_fleet(grid_of(homes), settings_of(), tmp_path / "out", MeanAlgorithm(), credentials=credentials)
    (outcome,) = result.outcomes
    assert (outcome.task.cohort_size, outcome.survivors) == (6, 5)
    assert np.array_equal(outcome.integer_sum, sum_of(seen, outcome, range(5)))


def test_without_the_servers_check_the_devices_still_refuse(tmp_path: Path) -> None:
    homes, credentials = with_an_outsider(tmp_path / "devices")
    for home in homes[:5]:
        with Device.open(home) as device:
            enrol(device, AUTHORITY.invitation, credentials.roster)
    settings, lying = settings_of(attempts_per_round=1), with_the_outsider_again(credentials, homes)
    with recorded_contributions(), pytest.raises(PenchantError, match="devices said: roster"):
        run_fleet(grid_of(homes), settings, tmp_path / "out", MeanAlgorithm(), credentials=lying)
