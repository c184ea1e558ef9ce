"""What the studies of this folder share: rows on disk that a stopped run goes on from, a table, a picture of curves.

A row is one line of ``results.jsonl`` (``simulations.studies.rows``), known by its ``key`` and, through ``of``, by the
settings that it was made with. Rows hold numbers and places in the data, never a text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.models.catalogue import write_atomically
from protocol.errors import PenchantError
from simulations.studies.rows import append_row, read_rows

Interval = tuple[float, float, float]  # mean, low, high
_COLOURS = ("#0b67a8", "#c2560a", "#2b8a3e", "#7a3e9d", "#1c2330", "#7a828e", "#b8860b", "#0f8b8d")
_MARKERS = "osD^vP<>"


@dataclass
class StudyRun:
    """The rows in ``out`` that were made with one set of settings."""

    out: Path
    of: str
    done: dict[str, dict[str, Any]]

    @staticmethod
    def open(out: Path, settings: Mapping[str, Any]) -> StudyRun:
        """The run of ``settings`` in ``out``, new or not; rows of other settings stay where they are, unread."""
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise PenchantError(f"cannot make the folder {out}: choose another one with --out") from None
        of = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return StudyRun(out, of, {row["key"]: row for row in read_rows(out) if row.get("of") == of})

    def keep(self, key: str, row: Mapping[str, Any]) -> None:
        """Write a row down; a later run finds it in ``done``."""
        kept = {"of": self.of, "key": key, **row}
        append_row(self.out, kept)
        self.done[key] = kept

    def write(self, name: str, report: Mapping[str, Any], table: str) -> None:
        """``name``.json and ``name``.md."""
        write_atomically(self.out / f"{name}.json", (json.dumps(report, indent=1) + "\n").encode())
        write_atomically(self.out / f"{name}.md", table.encode())


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def shown(interval: Sequence[float], factor: float = 1.0, digits: int = 1) -> str:
    """``mean [low, high]``, times ``factor``."""
    mean, low, high = (f"{factor * value:.{digits}f}" for value in interval)
    return f"{mean} [{low}, {high}]"


def draw_curves(
    path: Path,
    curves: Mapping[str, Sequence[tuple[float, Interval]]],
    *,
    across: str,
    up: str,
    level: tuple[float, str] | None = None,
    change: float | None = None,
) -> None:
    """A PNG of named curves, each of (x, interval), with the intervals as bars; ``level`` is a named dashed line at
    some height, ``change`` the x of a dotted one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = max((x for points in curves.values() for x, _ in points), default=1.0)
    for number, (name, points) in enumerate(curves.items()):
        aside = 0.004 * width * (number - len(curves) / 2)  # bars of neighbouring curves stand side by side
        xs, means = [x + aside for x, _ in points], [mean for _, (mean, _, _) in points]
        bars = [[mean - low for _, (mean, low, _) in points], [high - mean for _, (mean, _, high) in points]]
        axes.errorbar(
            xs, means, bars, label=name, color=_COLOURS[number % len(_COLOURS)], linewidth=1.4, elinewidth=0.7,
            marker=_MARKERS[number % len(_MARKERS)], markersize=3.5, capsize=1.5,
        )  # fmt: skip
    if level is not None:
        axes.axhline(level[0], color="#7a828e", linewidth=0.9, linestyle="--", label=level[1])
    if change is not None:
        axes.axvline(change, color="#7a828e", linewidth=0.9, linestyle=":")
    axes.set(xlabel=across, ylabel=up)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=7.5, frameon=False)
    figure.savefig(path, metadata={"Software": None})
