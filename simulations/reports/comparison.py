"""Finished runs compared: a table to print, a page (HTML), the same as Markdown, and a picture for a paper.

The first run is what the others are compared with. Where two runs have the same people, the difference of an arm is
paired: the mean over people of 1 - loss / loss in the first run, with its 95 % interval (Student's t); between other
people only each run's own interval is shown, and nothing is subtracted. Settings that all runs share are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_runtime.models.catalogue import write_atomically
from protocol.errors import PenchantError
from simulations.reports import words
from simulations.reports.page import STYLE, data_uri
from simulations.reports.runs_database import ArmRow, RunRow
from simulations.reports.schema import REFERENCE_ARM, Gain
from simulations.statistics import mean_interval

TEMPLATE = Path(__file__).with_name("comparison.html")
PAGE, MARKDOWN, PICTURE = "comparison.html", "comparison.md", "comparison.png"


@dataclass(frozen=True)
class Comparison:
    """``runs`` in the order asked for; ``arms`` and ``controls`` by name; ``settings``: run -> {setting: value} where
    runs differ; ``differences``: (run, arm) -> paired gain over the first run, where the people are the same."""

    runs: tuple[RunRow, ...]
    arms: tuple[str, ...]
    controls: tuple[str, ...]
    settings: Mapping[str, Mapping[str, str]]
    differences: Mapping[tuple[str, str], Gain]


def compare(rows: Sequence[RunRow], names: Sequence[str] = ()) -> Comparison:
    """The runs called ``names`` (all of them if none are named). PenchantError for unknown names or fewer than two."""
    by_name = {row.name: row for row in rows}
    if unknown := [name for name in names if name not in by_name]:
        raise PenchantError(f"there is no run {unknown[0]!r}: there are {', '.join(sorted(by_name)) or 'none'}")
    chosen = tuple(by_name[name] for name in names) if names else tuple(rows)
    if len(chosen) < 2:
        raise PenchantError("a comparison needs at least two finished runs")
    first, differences = chosen[0], {}
    for run in chosen[1:]:
        if run.facts["people_sha256"] != first.facts["people_sha256"]:
            continue
        for arm in run.arms.keys() & first.arms.keys():
            pairs = zip(run.arms[arm].losses, first.arms[arm].losses, strict=True)
            mean, low, high = mean_interval([1.0 - ours / theirs for ours, theirs in pairs])
            differences[run.name, arm] = Gain(gain=mean, gain_interval=(low, high))
    seen = {name: arm.control for run in chosen for name, arm in run.arms.items()}
    arms = [name for name in words.ARM_ORDER if name in seen]
    arms += sorted(name for name, control in seen.items() if not control and name not in arms)
    controls = sorted(name for name, control in seen.items() if control)
    return Comparison(chosen, tuple(arms), tuple(controls), _different_settings(chosen), differences)


def _different_settings(runs: Sequence[RunRow]) -> dict[str, dict[str, str]]:
    flat = {
        run.name: _flattened(json.loads(run.facts["settings"])) | {"people": str(run.facts["people"])} for run in runs
    }
    keys = sorted({key for values in flat.values() for key in values})
    apart = [key for key in keys if key != "title" and len({values.get(key) for values in flat.values()}) > 1]
    return {name: {key: values.get(key, "") for key in apart} for name, values in flat.items()}


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in settings.items():
        flat |= _flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat


def rows_of(comparison: Comparison) -> list[list[str]]:
    """The table as text, a row per arm and run: arm, run, loss, its interval, gain over none, paired difference."""
    table = []
    for arm in (*comparison.arms, *comparison.controls):
        for run in comparison.runs:
            if arm not in run.arms:
                continue
            row, difference = run.arms[arm], comparison.differences.get((run.name, arm))
            gain = "" if arm == REFERENCE_ARM else _with_interval(_gain_of(row))
            apart = "" if difference is None else _with_interval(difference)
            label = arm if arm in comparison.arms else words.CONTROL_NAME.get(arm, arm)
            loss = f"{row.loss:.3f} ({row.interval[0]:.3f} to {row.interval[1]:.3f})"
            table.append([label, run.name, loss, gain, apart])
    return table


HEADINGS = ("arm", "run", "loss (95 %)", "gain over none (95 %)", "against the first run (95 %)")


def run_rows(comparison: Comparison) -> list[list[str]]:
    """One row per run: name, what is set differently, people, epsilon, bytes up, time."""
    rows = []
    for run in comparison.runs:
        facts = run.facts
        apart = ", ".join(f"{key} {value}" for key, value in comparison.settings[run.name].items() if key != "people")
        epsilon = "no bound" if facts["epsilon"] is None else words.number_text(facts["epsilon"])
        rows.append(
            [
                run.name,
                apart,
                str(facts["people"]),
                epsilon,
                words.bytes_text(facts["up_bytes"]),
                words.seconds_text(facts["seconds"]),
            ]
        )
    return rows


RUN_HEADINGS = ("run", "set differently", "people", "epsilon", "up per person and round", "time")


def _gain_of(row: ArmRow) -> Gain:
    return Gain(gain=row.gain, gain_interval=row.gain_interval)


def _with_interval(gain: Gain) -> str:
    value, interval = words.gain_texts(gain, decimals=1)
    return f"{value} ({interval})"


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print both tables."""
    for headings, rows in ((RUN_HEADINGS, run_rows(comparison)), (HEADINGS, rows_of(comparison))):
        table = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)


def as_markdown(comparison: Comparison) -> str:
    """Both tables as Markdown."""
    parts = ["# Runs compared", ""]
    for headings, rows in ((RUN_HEADINGS, run_rows(comparison)), (HEADINGS, rows_of(comparison))):
        parts += [_line(headings), "|" + "---|" * len(headings), *map(_line, rows), ""]
    return "\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write the page, the Markdown and the picture into ``out``; returns the page's path."""
    picture = draw(comparison)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        style=Markup(STYLE.read_text(encoding="utf-8")),
        run_headings=RUN_HEADINGS,
        runs=run_rows(comparison),
        headings=HEADINGS,
        rows=rows_of(comparison),
        first=comparison.runs[0].name,
        picture=data_uri(picture),
    )
    out.mkdir(parents=True, exist_ok=True)
    for name, data in ((PICTURE, picture), (MARKDOWN, as_markdown(comparison).encode()), (PAGE, page.encode())):
        write_atomically(out / name, data)
    return out / PAGE


def draw(comparison: Comparison) -> bytes:
    """Every arm's gain over the plain model in every run, with its interval (PNG)."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = [arm for arm in (*comparison.arms, *comparison.controls) if arm != REFERENCE_ARM]
    runs, target = comparison.runs, BytesIO()
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(6.4, 0.9 + len(arms) * (0.16 * len(runs) + 0.16)), dpi=200, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.axvline(0, color="#5b6472", linewidth=1)
        for place, run in enumerate(runs):
            heights = [number + 0.7 * (place + 0.5) / len(runs) - 0.35 for number in range(len(arms))]
            shown = [(height, run.arms[arm]) for height, arm in zip(heights, arms, strict=True) if arm in run.arms]
            gains = [100 * row.gain for _, row in shown]
            reach = [[100 * (row.gain - row.gain_interval[0]) for _, row in shown],
                     [100 * (row.gain_interval[1] - row.gain) for _, row in shown]]  # fmt: skip
            axes.errorbar(gains, [height for height, _ in shown], xerr=reach, fmt="osD^v<>ph*"[place % 10],
                          markersize=4, linewidth=1.2, label=run.name, color=f"C{place % 10}")  # fmt: skip
        axes.set_yticks(range(len(arms)), [words.CONTROL_NAME.get(arm, arm) for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel("loss lowered by, % (bars: 95 % intervals over people)")
        axes.grid(axis="x", color="#e3e7ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
