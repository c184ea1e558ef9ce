"""What an experiment depends on besides its people."""

from __future__ import annotations

from dataclasses import dataclass, field

from client.training import TrainingPlan
from server.algorithms import PreferencePlan
from simulations.experiments.arms import HeldOut


@dataclass(frozen=True)
class ExperimentSettings:
    """All that an experiment depends on besides its people. ``noise_multiplier`` 0 is allowed and marked in red."""

    title: str
    noise_multiplier: float = 1.5
    delta: float = 1e-3
    dropout_fraction: float = 1 / 3
    minimum_survivors: int = 0
    frame_kinds: tuple[str, ...] = ("attn_output", "ffn_down")
    frame_rank: int = 2
    training: TrainingPlan = field(default_factory=TrainingPlan)
    plan: PreferencePlan = field(default_factory=PreferencePlan)
    held_out: HeldOut = field(default_factory=HeldOut)
    sample_people: int = 3
    seed: int = 0
    model: str | None = None
