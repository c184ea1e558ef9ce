"""The trade-off of a fleet plan as one picture: epsilon against signal-to-noise, one line per cohort size."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from protocol.errors import PenchantError
from server.fleet_plan import USABLE_RATIO, FleetPlan, trade_off

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
OTHER_COHORTS = (0.25, 4.0, 16.0)  # times the plan's


def draw(plan: FleetPlan, path: Path) -> None:
    """Write the picture as PNG. Raises PenchantError if the file cannot be written."""
    figure_module: Any = import_module("matplotlib.figure")
    cohorts = tuple(sorted({plan.cohort, *(round(plan.cohort * factor) for factor in OTHER_COHORTS)}))
    curves = trade_off(plan, cohorts, EPSILONS)
    figure = figure_module.Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    highest = max(ratio for points in curves.values() for _, ratio in points)
    lowest = min(ratio for points in curves.values() for _, ratio in points)
    axes.axhspan(min(lowest, USABLE_RATIO) / 2, USABLE_RATIO, color="#d9d9d9", zorder=0)
    note = "in the grey a round teaches next to nothing"
    axes.text(0.99, 0.02, note, transform=axes.transAxes, ha="right", fontsize=8, color="#555555")
    for cohort, points in sorted(curves.items(), reverse=True):
        is_plan = cohort == plan.cohort
        axes.plot(
            *zip(*points, strict=True), marker="o", markersize=4, linewidth=2.4 if is_plan else 1.2,
            label=f"{cohort:,} people{' (this plan)' if is_plan else ''}",
        )  # fmt: skip
    axes.axvline(plan.epsilon, color="#555555", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel=f"epsilon of one person (delta {plan.claimed_delta:.0e})")
    axes.set_ylabel("signal-to-noise of a round, best case")
    axes.set_ylim(min(lowest, USABLE_RATIO) / 2, max(highest, USABLE_RATIO) * 1.6)
    axes.set_xticks(EPSILONS, [f"{epsilon:g}" for epsilon in EPSILONS])
    axes.minorticks_off()
    claim = "Poisson samples" if plan.sampling == "poisson" else "no sampling claimed"
    axes.set_title(
        f"{plan.population:,} people, {plan.rounds} rounds, {plan.values:,} numbers, {claim}; better of two mechanisms",
        fontsize=9,
    )
    axes.grid(True, linewidth=0.3)
    axes.legend(title="starting in each round", fontsize=8, title_fontsize=8)
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise PenchantError(f"the picture could not be written to {path}: {error.strerror}") from None
