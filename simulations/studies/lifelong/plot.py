"""The picture of `simulations.studies.lifelong.study`: what the first increment taught, what was written next to it,
and the current period, after each increment; and what was lost against what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ARMS = {
    "none": ("no adapter", "#b0b6bf", ":", ""),
    "naive": ("naive", "#c2560a", "-", "s"),
    "replay": ("replay", "#0b67a8", "-", "o"),
    "anchoring": ("anchoring", "#7a828e", "-", "^"),
    "scratch": ("retrained from nothing", "#1c2330", "--", "x"),
}
PANELS = {
    "taught": "texts that the first increment taught",
    "first": "held out, from the first increment's days",
    "current": "held out, from the increment's own days",
}


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Write the PNG: losses relative to no adapter, in percent, so that people and texts of unlike difficulty fit on
    one axis."""
    figure = Figure(figsize=(12.6, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.05))
    curves = summary["curves"]
    for axes, (kind, title) in zip(panels[:3], PANELS.items(), strict=True):
        for arm, (label, colour, line, marker) in ARMS.items():
            numbers = [int(number) for number in curves[arm][kind]]
            losses = np.array([curves[arm][kind][str(number)][0] for number in numbers])
            base = np.array([curves["none"][kind][str(number)][0] for number in numbers])
            axes.plot(numbers, 100 * (losses / base - 1), line, color=colour, marker=marker, markersize=4, label=label)
        axes.set(xlabel="increments", xticks=(1, 4, 10))
        axes.set_title(title, fontsize=8.5)
        _plain(axes)
    panels[0].set_ylabel("loss against no adapter, %")
    _costs(panels[3], summary)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.savefig(path)


def _costs(axes: Axes, summary: Mapping[str, Any]) -> None:
    for arm, (_, colour, _, marker) in ARMS.items():
        if arm == "none":
            continue
        mean, low, high = summary["lost"][arm]["taught"]
        cost = summary["cost"][arm]
        axes.errorbar(cost, mean, [[mean - low], [high - mean]], color=colour, marker=marker or "o", capsize=2)
    axes.axhline(0.0, color="#b0b6bf", linewidth=0.8)
    axes.set(
        xlim=(0, None), xlabel="texts differentiated in ten increments", ylabel="nats per token lost since the first"
    )
    axes.set_title("forgotten of what the first taught (95 %)", fontsize=8.5)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
