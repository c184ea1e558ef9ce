"""The picture of the frame study: gain against numbers trained, one panel per data set, the frontier joined."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulations.reports.plots import LIGHT

GOAL_SHARE, GOAL_NUMBERS = 0.8, 0.01  # of all-layer LoRA's gain, with at most this share of its numbers
_LOOKS = {
    "lora": ("#1c2330", "s", "ordinary LoRA"),
    "ffa": ("#7a828e", "D", "FFA-LoRA"),
    "weights": ("#c2560a", "^", "frame from the weights"),
    "gradient": ("#0b67a8", "o", "frame from public text"),
}


def frontier(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that no other beats with as few numbers, by numbers."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["numbers"], -row["gain"])):
        if not best or row["gain"] > best[-1]["gain"]:
            best.append(row)
    return best


def draw_curve(rows: Sequence[dict[str, Any]]) -> bytes:
    """PNG of all rows of the table; each needs source, family, layers, kinds, rank, numbers, gain, gain_interval."""
    sources = list(dict.fromkeys(row["source"] for row in rows))
    with rc_context({"font.size": 9.5}):
        figure = Figure(figsize=(5.2 * max(1, len(sources)), 4.2), dpi=170, layout="constrained")
        FigureCanvasAgg(figure)
        figure.set_facecolor(LIGHT.paper)
        for place, source in enumerate(sources):
            axes = figure.add_subplot(1, len(sources), place + 1)
            _panel(axes, source, [row for row in rows if row["source"] == source])
        data = BytesIO()
        figure.savefig(data, format="png")
    return data.getvalue()


def _panel(axes: Axes, source: str, rows: Sequence[dict[str, Any]]) -> None:
    reference = rows[0]
    goal = 100 * GOAL_SHARE * reference["gain"]
    axes.axhline(goal, color=LIGHT.faint, linewidth=1, linestyle=(0, (4, 3)))
    axes.axvline(GOAL_NUMBERS * reference["numbers"], color=LIGHT.faint, linewidth=1, linestyle=(0, (4, 3)))
    line = frontier(rows)
    axes.plot([row["numbers"] for row in line], [100 * row["gain"] for row in line], color=LIGHT.grid, linewidth=4)
    for family, (colour, marker, label) in _LOOKS.items():
        own = [row for row in rows if row["family"] == family]
        if not own:
            continue
        gains = [100 * row["gain"] for row in own]
        low = [100 * (row["gain"] - row["gain_interval"][0]) for row in own]
        high = [100 * (row["gain_interval"][1] - row["gain"]) for row in own]
        axes.errorbar(
            [row["numbers"] for row in own], gains, yerr=[low, high], color=colour, marker=marker, linestyle="",
            markersize=5, elinewidth=0.8, label=label,
        )  # fmt: skip
        for row, gain in zip(own, gains, strict=True):
            text = f"{row['layers']}x{len(row['kinds'])} r{row['rank']}"
            axes.annotate(text, (row["numbers"], gain), xytext=(5, 3), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("numbers trained (layers x maps, rank)")
    axes.set_ylabel("gain of held-out loss, %")
    axes.set_title(source, loc="left", fontsize=10.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color=LIGHT.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
