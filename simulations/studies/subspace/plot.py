"""One picture of `simulations.studies.subspace.study`: captured energy against the number of sums,
a panel per population."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WAYS = {
    "blind": ("blind sums", "#0b67a8", "o"),
    "private_start": ("private random start", "#c2560a", "s"),
    "alternating_gradient": ("gradient on the bases", "#7a828e", "^"),
}
LINES = {"none": "-", "epsilon 8": "--", "epsilon 2": ":"}


def draw(results: Mapping[str, Any], path: Path, count: str = "K=2") -> None:
    """Write the PNG."""
    populations = results["residuals"]
    figure = Figure(figsize=(4.2 * len(populations), 4.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(populations), sharey=True))
    for axes, (name, study) in zip(panels, populations.items(), strict=True):
        for noise, ways in study["ways"][count].items():
            for way, (label, colour, marker) in WAYS.items():
                middle, low, high = np.array(ways[way]).T
                sums = np.arange(1, len(middle) + 1)
                axes.plot(
                    sums,
                    middle,
                    LINES[noise],
                    color=colour,
                    marker=marker,
                    markersize=4,
                    label=f"{label}, {'no noise' if noise == 'none' else noise}",
                )
                axes.fill_between(sums, low, np.minimum(high, 1.0), color=colour, alpha=0.1, linewidth=0)
        single = study["ways"][count]["none"]["single_shared_direction"]
        axes.axhline(single, color="#1c2330", linewidth=0.8, alpha=0.6)
        axes.text(4.1, single + 0.01, "mean direction alone", fontsize=7, ha="right")
        axes.axhline(0.98, color="#2b8a3e", linewidth=0.8, linestyle="-.")
        axes.text(1.0, 1.005, "oracle - 2 % (dash-dotted)", fontsize=7, color="#2b8a3e")
        axes.set(title=f"{name}, {count}", xlabel="sums released", xticks=[1, 2, 3, 4], ylim=(0.0, 1.04))
        axes.title.set_fontsize(9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("captured energy / oracle's")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7, frameon=False
    )
    figure.savefig(path)
