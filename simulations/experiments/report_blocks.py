"""The blocks of a report that follow from a finished run: frame, rounds, privacy, wire, secure aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from protocol.accounting import Accountant, snr_bound
from protocol.frames import Frame
from server.fleet import FleetResult
from server.planning import stages_survived
from simulations.experiments.prv import epsilon_prv
from simulations.experiments.settings import ExperimentSettings

_NOISE = {"skellam": "Skellam noise", "discrete_gaussian": "discrete Gaussian noise"}


def frame_block(frame: Frame, settings: ExperimentSettings) -> dict[str, Any]:
    """The fleet's frame: its digest, size and what it adapts."""
    return {
        "sha256": frame.digest,
        "rank": frame.rank,
        "modules": len(frame.modules),
        "dimension": frame.dimension,
        "bytes": len(frame.to_bytes()),
        "kinds": list(settings.frame_kinds),
        "top_layers": settings.training.top_layers,
    }


def round_log(result: FleetResult, delta: float) -> list[dict[str, Any]]:
    """One row per released sum; every mean in it carries the round's noise."""
    accountant, after, log = Accountant(), {}, []
    for spend in result.ledger:  # a round that failed after its spend is in here too
        accountant.add(spend.event)
        after[(spend.run_id, spend.round, spend.attempt)] = finite(accountant.epsilon(delta))
    for outcome in result.outcomes:
        task = outcome.task
        log.append(
            {
                "round": task.round,
                "kind": task.kind,
                "cohort": task.cohort_size,
                "survivors": outcome.survivors,
                "clip_norm": task.clip_norm,
                "fraction_not_clipped": outcome.fraction_not_clipped,
                "mean_loss": outcome.mean_loss,
                "snr": _snr(outcome.survivors, outcome.effective_noise_multiplier, task.update_dimension),
                "epsilon_after": after[(task.run_id, task.round, task.attempt)],
            }
        )
    return log


def privacy_block(result: FleetResult, settings: ExperimentSettings, frame: Frame) -> dict[str, Any]:
    """What was promised to one person over everything that the fleet's store ever released."""
    accountant = Accountant(spend.event for spend in result.ledger)
    log = round_log(result, settings.delta)
    last = result.outcomes[-1]
    widest = max(outcome.task.update_dimension for outcome in result.outcomes)
    inflation = last.effective_noise_multiplier / settings.noise_multiplier if settings.noise_multiplier else 1.0
    return {
        "noise": settings.noise_multiplier > 0,
        "epsilon": finite(accountant.epsilon(settings.delta)),
        "epsilon_rdp": finite(accountant.epsilon_rdp(settings.delta)),
        "epsilon_prv": epsilon_prv(accountant.events, settings.delta),
        "delta": settings.delta,
        "unit": "one person",
        "neighbours": "one person's contributions replaced by zeros, in every round",
        "mechanism": f"distributed {_NOISE[last.task.mechanism]} inside secure aggregation, joint L2 clip per person",
        "noise_multiplier": settings.noise_multiplier,
        "clip": {outcome.task.kind: outcome.task.clip_norm for outcome in result.outcomes},
        "sampling": "no amplification claimed: everybody takes part in every round",
        "snr": min(row["snr"] for row in log) if settings.noise_multiplier else None,
        "spend": [{name: row[name] for name in ("round", "kind", "epsilon_after")} for row in log],
        "contributions_counted": "adapter and basis sums, clip bits, losses and counts: one noised vector each",
        "fleet_of_1000": {
            "snr": _snr(1000, settings.noise_multiplier * inflation, widest) if inflation else None,
            "epsilon": finite(result.epsilon),
            "noise_multiplier": settings.noise_multiplier,
        },
    }


def wire_block(traffic: Mapping[str, Mapping[str, int]], result: FleetResult, people: int) -> dict[str, Any]:
    """Mean bytes per person and round, Flower's envelopes included; artefacts handed out once count as setup.

    ``traffic``: {"up" or "down": {stage: bytes of all devices}}.
    """
    up, down = dict(traffic["up"]), dict(traffic["down"])
    setup_down, setup_up = down.pop("setup", 0), up.pop("setup", 0)
    share = people * max(len(result.outcomes), 1)
    return {
        "up_bytes": (sum(up.values()) + setup_up) / share,
        "down_bytes": sum(down.values()) / share,
        "setup_down_bytes": setup_down / people,
        "up_by_stage": {stage: size / share for stage, size in {**up, "setup": setup_up}.items()},
        "down_by_stage": {stage: size / share for stage, size in down.items()},
        "limit_up_bytes": 10_000,
    }


def secure_aggregation_block(result: FleetResult, settings: ExperimentSettings) -> dict[str, Any]:
    """Cohort, thresholds and what a round survives."""
    task = result.outcomes[-1].task
    return {
        "cohort": task.cohort_size,
        "minimum_survivors": task.minimum_survivors,
        "threshold": task.graph_threshold,
        "degree": task.graph_degree,
        "dropouts_survived": task.cohort_size - task.minimum_survivors,
        "stages_survived": stages_survived(task.cohort_size, task.minimum_survivors, settings.dropout_fraction),
        "ring_bits": task.ring_bits,
    }


def _snr(people: int, noise_multiplier: float, dimension: int) -> float | None:
    return snr_bound(people, noise_multiplier, dimension) if noise_multiplier else None


def finite(value: float) -> float | None:
    """The value, or None where nothing is promised (JSON has no infinity)."""
    return float(value) if np.isfinite(value) else None
