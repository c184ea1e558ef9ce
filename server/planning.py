"""From what an algorithm wants to the public task of a round, and who may be in it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

from protocol.distributed_noise import Mechanism
from protocol.errors import PenchantError
from protocol.messages import RoundTask
from protocol.round_plan import plan_task

REQUIRED_PLAN_KEYS = {"kind", "dimension", "clip_norm", "base_sha256", "artefacts"}
PLAN_KEYS = REQUIRED_PLAN_KEYS | {"space", "basis_count", "settings", "noise_multiplier"}


def default_minimum_survivors(cohort_size: int, dropout_fraction: float) -> int:
    """What one loss of `dropout_fraction` leaves of a cohort (rounded so that the loss is survived)."""
    return max(2, cohort_size - math.floor(cohort_size * dropout_fraction))


def stages_survived(cohort_size: int, minimum_survivors: int, dropout_fraction: float) -> int:
    """At how many stages in a row `dropout_fraction` may vanish and leave `minimum_survivors` (3 at most)."""
    left, stages = cohort_size, 0
    while dropout_fraction > 0.0 and stages < 3:
        lost = math.floor(left * dropout_fraction)
        if lost < 1 or left - lost < minimum_survivors:
            break
        left, stages = left - lost, stages + 1
    return stages


def draw_cohort(
    present: Iterable[str],
    starts: Mapping[str, int],
    draw: random.Random,
    *,
    round: int,
    size: int,
    spacing: int = 1,
    bands: int = 1,
) -> list[str]:
    """Who is in round `round`, ascending: all present whose participation goes on, and `size` who start one.

    `starts` is `ServerLedger.starts`. Nobody starts within `spacing` rounds of their last start; devices refuse that
    too. Raises PenchantError if fewer than `size` may start: a smaller cohort would be noisier than planned.
    """
    ages = {person: round - starts[person] if person in starts else spacing for person in present}
    going_on = [person for person, age in ages.items() if 0 < age < bands]
    free = sorted(person for person, age in ages.items() if age >= spacing or age == 0)
    if len(free) < size:
        raise PenchantError(
            f"{len(free)} of {len(ages)} devices may start in round {round} (spacing {spacing}), it needs {size}: "
            "enrol more, or lower the cohort or the spacing"
        )
    return sorted([*going_on, *draw.sample(free, size)])


def task_from_plan(
    plan: Mapping[str, Any],
    *,
    run_id: str,
    round: int,
    attempt: int,
    cohort_size: int,
    minimum_survivors: int,
    dropout_fraction: float,
    noise_multiplier: float,
    delta: float,
    ring_bits: int,
    artefacts: Mapping[str, str],
    mechanism: Mechanism = "skellam",
    spacing: int = 1,
    strategy: tuple[float, ...] = (1.0,),
) -> RoundTask:
    """The RoundTask for one attempt. `artefacts`: {role: SHA-256 in hex}; `minimum_survivors` 0 = default.

    The threshold of secret sharing leaves room for one loss of `dropout_fraction` at the unmask stage beyond
    those that `minimum_survivors` already allows. The seeds of rotation and graph are public but fresh for
    every attempt. Raises PenchantError for an incomplete plan or an impossible cohort.
    """
    unknown, missing = set(plan) - PLAN_KEYS, REQUIRED_PLAN_KEYS - set(plan)
    if unknown or missing:
        raise PenchantError(f"an algorithm's plan has unknown keys {sorted(unknown)} or lacks {sorted(missing)}")
    smallest = minimum_survivors or default_minimum_survivors(cohort_size, dropout_fraction)
    if not 2 <= smallest <= cohort_size:
        raise PenchantError(f"minimum_survivors is {smallest}, the cohort has {cohort_size}: choose 2 to {cohort_size}")
    return plan_task(
        run_id=run_id,
        round=round,
        attempt=attempt,
        kind=plan["kind"],
        space=plan.get("space", "adapter"),
        artefacts=dict(artefacts),
        base_sha256=str(plan["base_sha256"]),
        dimension=int(plan["dimension"]),
        basis_count=int(plan.get("basis_count", 1)),
        clip_norm=float(plan["clip_norm"]),
        noise_multiplier=float(plan.get("noise_multiplier", noise_multiplier)),
        minimum_survivors=smallest,
        cohort_size=cohort_size,
        ring_bits=ring_bits,
        dropout_fraction=dropout_fraction,
        vanishing_stages=1 + stages_survived(cohort_size, smallest, dropout_fraction),
        delta=delta,
        settings=dict(plan.get("settings", {})),
        mechanism=mechanism,
        spacing=spacing,
        strategy=strategy,
    )
