"""The server's growth with the cohort as a picture: measured seconds beside n log n and n squared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PREFIX = "server_"


def draw(cases: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the cases ``server_N`` of `penchant bench secagg` to ``path`` as PNG; both lines start at the first one."""
    points = sorted((int(name.removeprefix(PREFIX)), case) for name, case in cases.items() if name.startswith(PREFIX))
    people = np.array([count for count, _ in points], dtype=np.float64)
    seconds = np.array([case["ours"] for _, case in points])
    neighbours = [case["neighbours"] for _, case in points]
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    growth = people * np.log2(people)
    axes.plot(people, seconds, marker="o", linewidth=2.2, color="#0b67a8", label="measured")
    axes.plot(people, seconds[0] * growth / growth[0], "--", color="#5b6472", label="n log n from the first point")
    axes.plot(people, seconds[0] * (people / people[0]) ** 2, ":", color="#c2560a", label="n² from the first point")
    for count, second, degree in zip(people, seconds, neighbours, strict=True):
        axes.annotate(f"{degree} neighbours", (count, second), (4, -12), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="people in the round", ylabel="seconds of the server, one core")
    axes.set_xticks(people, [f"{count:,.0f}" for count in people])
    axes.minorticks_off()
    axes.set_title("One secure sum of 3,584 values: the server's own work", fontsize=10)
    axes.grid(True, linewidth=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150, format="png")
