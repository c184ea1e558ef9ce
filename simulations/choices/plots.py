"""Curves of a choice table: newcomers' accuracy over the number of their choices, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulations.choices.report import name_of

# Hue for the kind of method, line for its variant: distinguishable without colour.
STYLES: Final[Mapping[str, tuple[str, str, str]]] = {
    "global": ("#5b6472", "-", ""),
    "length_rule": ("#a3acb9", ":", "x"),
    "scratch": ("#c2560a", ":", "v"),
    "map": ("#c2560a", "-", "^"),
    "lore_softmax": ("#7b4ea3", ":", "s"),
    "lore_centralised": ("#7b4ea3", "-", "D"),
    "ours": ("#0b67a8", "-", "o"),
    "ours_residual": ("#0b67a8", "-.", "P"),
    "ours_epsilon_8": ("#0b67a8", "--", "o"),
    "ours_epsilon_2": ("#0b67a8", ":", "o"),
    "reach": ("#1c2330", "--", ""),
    "oracle": ("#1c2330", ":", ""),
}


BOUNDS: Final = ("reach", "oracle")  # of simulated people: no method


def draw_curves(result: Mapping[str, Any]) -> bytes:
    """Accuracy with its 95 % interval over people on the left; on the right the paired gain over the global model,
    whose interval is the one that decides.
    """
    figure = Figure(figsize=(11.0, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, value, title in zip(
        panels,
        ("accuracy", "accuracy_gain"),
        ("accuracy, %", "gain over global, points"),
        strict=True,
    ):
        for method, rows in result["methods"].items():
            if value == "accuracy_gain" and method in ("global", *BOUNDS):
                continue
            colour, line, marker = STYLES[method]
            counts = list(rows["newcomers"])
            cells = [[100.0 * number for number in rows["newcomers"][count][value]] for count in counts]
            means = [cell[0] for cell in cells]
            aside = 0.035 * (list(STYLES).index(method) - len(STYLES) / 2)  # so that intervals do not hide each other
            places = [place + aside for place in range(len(counts))]
            axes.plot(places, means, line, color=colour, marker=marker, label=name_of(method), markersize=4.5)
            if method not in BOUNDS:
                axes.vlines(places, [cell[1] for cell in cells], [cell[2] for cell in cells], colour, linewidth=0.9)
            axes.set_xticks(range(len(counts)), counts)
        axes.set_xlabel("a newcomer's choices")
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="y", color="#e3e7ec")
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].axhline(0.0, color="#5b6472", linewidth=1)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8.5, frameon=False)
    people = result["people"]
    figure.suptitle(
        f"{result['data']}: {people['newcomers']} newcomers, {people['fleet_trained']} people trained; "
        f"features: {result['features']['sources']}",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    data = BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()
