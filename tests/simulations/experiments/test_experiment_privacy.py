"""The report's privacy block is computed from what the server's ledger holds, failed rounds included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.adapters.adapter_file import read_adapter_metadata
from edge_runtime.models.catalogue import ModelFile, ModelShape
from protocol.accounting import Accountant
from protocol.frames import Frame
from protocol.round_plan import RoundPlan
from server.fleet import FleetResult
from simulations.experiments.experiment import PersonalFit, _adapters
from simulations.experiments.report_blocks import privacy_block, round_log
from simulations.experiments.settings import ExperimentSettings
from tests.fleet_help import MeanAlgorithm, grid_of, make_fleet, recorded_contributions, run_fleet, settings_of

DELTA, PEOPLE = 1e-5, 5
SHAPE = ModelShape(architecture="llama", layers=1, width=5, heads=1, kv_heads=1)
FRAME = Frame("0" * 64, 4, 1.0, ("blk.0.attn_v",), (np.eye(6, 4, dtype="f4"),), (np.eye(4, 5, dtype="f4"),))


def run_with_a_failure(folder: Path, noise_multiplier: float) -> FleetResult:
    """Two rounds; at the first attempt at the second nobody answers the last question, after its spend."""
    unmasked = {"asked": 0}

    def lossy(stage: str, partition: int) -> bool:
        unmasked["asked"] += stage == "unmask"
        return stage == "unmask" and PEOPLE < unmasked["asked"] <= 2 * PEOPLE

    grid = grid_of(make_fleet(folder / "devices", PEOPLE), dropped=lossy)
    settings = settings_of(rounds=2, noise_multiplier=noise_multiplier, delta=DELTA)
    with recorded_contributions():
        return run_fleet(grid, settings, folder / "out", MeanAlgorithm())


def test_a_spend_without_an_outcome_counts_in_every_number(tmp_path: Path) -> None:
    result = run_with_a_failure(tmp_path, 2.0)
    assert len(result.outcomes) == 2 and len(result.aborted) == 1
    assert [(spend.round, spend.attempt) for spend in result.ledger] == [(0, 0), (1, 0), (1, 1)]
    events = [RoundPlan.of(result.outcomes[place].task).privacy_event() for place in (0, 1, 1)]
    settings = ExperimentSettings(title="", noise_multiplier=2.0, delta=DELTA)
    block = privacy_block(result, settings, FRAME)
    assert block["epsilon"] == result.epsilon == pytest.approx(Accountant(events).epsilon(DELTA))
    assert block["epsilon_rdp"] == pytest.approx(Accountant(events).epsilon_rdp(DELTA))
    assert block["epsilon"] <= block["epsilon_rdp"]
    assert block["epsilon_prv"] == pytest.approx(block["epsilon"], rel=0.02)
    assert block["clip"] == {"shared": 1.0}
    after = [row["epsilon_after"] for row in round_log(result, DELTA)]
    assert after == pytest.approx([Accountant(events[:1]).epsilon(DELTA), block["epsilon"]])
    assert [row["epsilon_after"] for row in block["spend"]] == after


def test_without_noise_no_number_claims_anything(tmp_path: Path) -> None:
    result = run_with_a_failure(tmp_path, 0.0)
    block = privacy_block(result, ExperimentSettings(title="", noise_multiplier=0.0, delta=DELTA), FRAME)
    assert block["noise"] is False
    assert [block[name] for name in ("epsilon", "epsilon_rdp", "epsilon_prv", "snr")] == [None] * 4
    model = ModelFile("m", tmp_path, "1" * 64, "f32", "llama")
    fit = PersonalFit(np.ones(16), np.ones(16), np.ones(16), np.ones(1))
    (adapters,) = _adapters(FRAME, [fit], model, SHAPE, result)
    assert read_adapter_metadata(adapters.shared).epsilon is None


def test_only_what_the_fleet_released_carries_the_fleets_epsilon(tmp_path: Path) -> None:
    result = run_with_a_failure(tmp_path, 2.0)
    model = ModelFile("m", tmp_path, "1" * 64, "f32", "llama")
    fit = PersonalFit(np.ones(16), np.ones(16), np.ones(16), np.ones(1))
    (adapters,) = _adapters(FRAME, [fit], model, SHAPE, result)
    assert read_adapter_metadata(adapters.shared).epsilon == pytest.approx(result.epsilon)
    assert read_adapter_metadata(adapters.personal).epsilon is None
    assert read_adapter_metadata(adapters.bases).epsilon is None
