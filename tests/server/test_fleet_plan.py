"""The plan's figures are those of the mechanism it plans, and its advice is enough."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from protocol.accounting import Accountant, PrivacyEvent
from protocol.errors import PenchantError, ProtocolError
from protocol.masks import reduce_to_ring
from protocol.matrix_factorisation import BandedStrategy
from protocol.round_plan import RoundPlan, plan_task
from server.commands import fleet_app
from server.fleet_plan import FleetPlan, forecast, trade_off
from server.fleet_plan_plot import draw
from tests.protocol.secure_sum_fleet import SmallFleet

pytest.importorskip("scipy")
SMALL = FleetPlan(population=400, cohort=20, rounds=40, epsilon=6.0, values=64)


def test_both_mechanisms_spend_what_was_asked_and_banded_noise_is_recommended_without_a_claim() -> None:
    result = forecast(SMALL)
    banded, independent = result.offers
    assert (banded.mechanism, banded.bands, independent.mechanism) == ("banded", 20, "independent")
    for offer in result.offers:
        assert 0.99 * SMALL.epsilon < offer.epsilon <= SMALL.epsilon
    gain = BandedStrategy(banded.strategy).gain(40, 20)
    assert banded.signal_to_noise / independent.signal_to_noise == pytest.approx(gain, rel=0.05) and gain > 2
    assert (banded.secure_sum, independent.secure_sum) == (400, 20)
    assert (banded.uploads, independent.uploads) == (40, 2)
    assert result.hours == pytest.approx(40 * 300 / 3600) and result.advice == ""


def test_independent_noise_is_what_a_person_in_every_spacing_th_round_needs() -> None:
    """Nobody is in more than two of the forty rounds, so two releases are what is paid for."""
    independent = forecast(SMALL).offers[1]
    two = Accountant([PrivacyEvent(independent.noise_multiplier, count=2)]).epsilon(SMALL.claimed_delta)
    assert two == pytest.approx(independent.epsilon, rel=2e-3)
    closer = forecast(replace(SMALL, spacing=1)).offers
    assert len(closer) == 1 and closer[0].uploads == 40  # nothing to correlate, and everybody may be in every round
    assert closer[0].noise_multiplier > 4 * independent.noise_multiplier


def test_signal_to_noise_is_that_of_a_round_as_it_is_run() -> None:
    """All people agree, at the clip norm: the ratio measured on a sum of real contributions."""
    plan = FleetPlan(population=20, cohort=20, rounds=1, epsilon=20.0, values=400)
    (offer,) = forecast(plan).offers
    task = plan_task(
        run_id="r", round=0, kind="shared", artefacts={}, base_sha256="0" * 64, dimension=400, clip_norm=1.0,
        noise_multiplier=offer.noise_multiplier, cohort_size=20, minimum_survivors=14, delta=1e-3,
        ring_bits=offer.ring_bits,
    )  # fmt: skip
    mechanism, rng = RoundPlan.of(task), np.random.default_rng(0)
    update = np.full(400, 1 / 20.0)
    ratios = []
    for _ in range(6):
        total = sum(mechanism.contribute(update, 1.0, 1, noise_rng=rng) for _ in range(20))
        noise = mechanism.decode(reduce_to_ring(total, task.ring_bits), 20).update - update
        ratios.append(1.0 / float(np.linalg.norm(noise)))
    assert float(np.mean(ratios)) == pytest.approx(offer.signal_to_noise, rel=0.05)


def test_with_poisson_samples_independent_noise_is_amplified() -> None:
    pytest.importorskip("dp_accounting")
    plan = FleetPlan(population=100, cohort=20, rounds=5, epsilon=2.0, values=64, sampling="poisson")
    amplified = next(offer for offer in forecast(plan).offers if offer.mechanism == "independent")
    event = PrivacyEvent(amplified.noise_multiplier, 20 / 100, 5)
    assert Accountant([event]).epsilon(plan.claimed_delta) == pytest.approx(amplified.epsilon, rel=5e-3)
    assert 1.97 < amplified.epsilon <= 2.0
    everybody = forecast(replace(plan, sampling="none", spacing=1)).recommended
    assert amplified.signal_to_noise > 1.5 * everybody.signal_to_noise


@pytest.mark.parametrize("which", ["people", "values", "epsilon"])
def test_each_piece_of_advice_alone_makes_it_usable(which: str) -> None:
    plan = FleetPlan(population=60, cohort=20, rounds=30, epsilon=1.0, values=900)
    result = forecast(plan)
    assert result.recommended.signal_to_noise < 0.3
    words = result.advice.replace(",", "").split()
    people = int(words[words.index("cohorts") + 2])
    values = int(words[words.index("numbers") - 1])
    epsilon = float(words[-1])
    changed = {
        "people": replace(plan, cohort=people, population=3 * people, delta=plan.claimed_delta),
        "values": replace(plan, values=values),
        "epsilon": replace(plan, epsilon=epsilon),
    }[which]
    better = forecast(changed)
    assert better.recommended.signal_to_noise > 0.3 * 0.97  # figures in the text are rounded
    assert better.recommended.signal_to_noise < 0.3 * 1.25


def test_bytes_are_those_that_a_device_sends() -> None:
    """Against real messages of a secure sum with the same cohort."""
    plan = FleetPlan(population=12, cohort=12, rounds=1, epsilon=8.0, values=500)
    (offer,) = forecast(plan).offers
    task = plan_task(
        run_id="r", round=0, kind="shared", artefacts={}, base_sha256="0" * 64, dimension=500, clip_norm=1.0,
        noise_multiplier=1.0, cohort_size=12, minimum_survivors=8, delta=1e-3, ring_bits=offer.ring_bits,
    )  # fmt: skip
    fleet = SmallFleet(task)
    fleet.collect(fleet.share(fleet.advertise()), {device: np.zeros(503, dtype=np.int64) for device in range(12)})
    sent = sum(len(data) for data in fleet.received) / 12
    assert sent < offer.bytes_up < sent + 1500  # unmasking is still to come


def test_the_trade_off_rises_with_people_and_epsilon() -> None:
    curves = trade_off(SMALL, (10, 20, 4000), (1.0, 8.0))
    assert sorted(curves) == [10, 20]  # 4,000 are not there
    for points in curves.values():
        assert [epsilon for epsilon, _ in points] == pytest.approx([1.0, 8.0], rel=0.01)
        assert points[1][1] > 3 * points[0][1]
    assert curves[20][0][1] > curves[10][0][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cohort": 500}, "3 to 400"), ({"spacing": 21}, "420 people are needed"), ({"rounds": 0}, "one round"),
        ({"epsilon": 0.0}, "epsilon"), ({"epsilon": math.nan}, "epsilon"), ({"delta": 1.0}, "delta"),
        ({"sampling": "poisson", "spacing": 2}, "not both"), ({"sampling": "shuffled"}, "poisson"),
    ],
)  # fmt: skip
def test_wrong_plans_say_what_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises((PenchantError, ProtocolError), match=message):
        replace(SMALL, **changes)  # type: ignore[arg-type]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(fleet_app, ["plan", *arguments])
    return result.exit_code, result.stdout, result.stderr


PLAN = ("--population", "400", "--cohort", "20", "--rounds", "40", "--epsilon", "6", "--values", "64")


def test_the_command_prints_the_plan_for_people_and_for_programs() -> None:
    code, text, warnings = run(*PLAN)
    assert code == 0 and "Recommended: banded" in text and "3.3 hours" in text and not warnings
    code, text, _ = run(*PLAN, "--json")
    shown = json.loads(text)
    assert code == 0 and shown["recommended"] == "banded" and shown["usable"] is True
    assert shown["plan"]["spacing"] == 20 and shown["plan"]["delta"] == pytest.approx(400**-1.1)
    assert shown["offers"][0]["signal_to_noise"] == pytest.approx(forecast(SMALL).recommended.signal_to_noise)


def test_the_command_warns_and_refuses() -> None:
    code, _, warnings = run(*PLAN, "--epsilon", "0.1")
    assert code == 0 and "Warning: signal-to-noise is" in warnings and "or epsilon" in warnings
    code, _, error = run(*PLAN, "--spacing", "90")
    assert code == 2 and error.startswith("Error: with a spacing of 90") and error.count("\n") == 1


def test_the_picture_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code, text, _ = run(*PLAN, "--plot", str(tmp_path / "plan.png"))
    assert code == 0 and "Drawn:" in text
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PenchantError, match="could not be written"):
        draw(SMALL, tmp_path / "nowhere" / "plan.png")
