"""The report's five pictures, as PNG bytes, in a light and a dark rendering of the same figure.

Colour says verdict (blue: better, 95 % interval above zero; orange: worse; grey: undecided), shape says who.
Nothing is drawn from a display or a global state: every figure has its own Agg canvas. A run that protects
nobody carries that in red across every picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from simulations.reports.schema import REFERENCE_ARM, Gain, RunReport, finite
from simulations.reports.words import (
    SNR_FLOOR,
    bytes_text,
    control_label,
    number_text,
    ordered_arms,
    percent_texts,
    signed,
    verdict,
)

WIDTH = 5.6  # inches; with 10 pt text still legible when a phone shows the picture at 360 pixels
DPI = 200
DASHED = (0, (4, 3))
MOST_PEOPLE_SHOWN = 48
MOST_PEOPLE_NAMED = 30


@dataclass(frozen=True)
class Palette:
    """Colours of one rendering. `better`, `worse`, `undecided` differ in lightness
    as well as in hue, for eyes that do not tell hues apart.
    """

    paper: str
    ink: str
    faint: str
    grid: str
    better: str
    worse: str
    undecided: str
    alarm: str


LIGHT = Palette("#ffffff", "#1c2330", "#5b6472", "#e3e7ec", "#0b67a8", "#c2560a", "#7a828e", "#c4161c")
DARK = Palette("#171b22", "#e8ebf0", "#a3acb9", "#2e3540", "#62b4ea", "#f0913c", "#9aa3b0", "#ff6b66")


def _figure(height: float, report: RunReport, palette: Palette) -> Figure:
    """An empty figure (inches), with the red line on top when the run protects nobody."""
    warning = report.privacy.warning
    figure = Figure(figsize=(WIDTH, height + (0.35 if warning else 0)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_facecolor(palette.paper)
    if warning:
        figure.suptitle(warning, color=palette.alarm, fontsize=10.5, fontweight="bold")
    return figure


def _dress(axes: Axes, palette: Palette, grid: str = "x") -> None:
    axes.set_facecolor(palette.paper)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(palette.faint)
    axes.tick_params(colors=palette.ink, labelsize=9.5, length=0, pad=5)
    axes.xaxis.label.set_color(palette.faint)
    axes.yaxis.label.set_color(palette.faint)
    axes.xaxis.label.set_fontsize(9.5)
    axes.yaxis.label.set_fontsize(9.5)
    axes.grid(axis=grid, color=palette.grid, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def _legend(axes: Axes, palette: Palette, handles: list[Line2D], *, above: bool = True) -> None:
    """In one line above the axes, or in a column in their lower right corner."""
    axes.legend(
        handles=handles, frameon=False, fontsize=8.5, labelcolor=palette.ink, handletextpad=0.5,
        borderaxespad=0.2, loc="lower right", bbox_to_anchor=(1, 1) if above else None,
        ncols=len(handles) if above else 1, columnspacing=1.2,
    )  # fmt: skip


def _mark(color: str, label: str, marker: str, filled: bool = True, paper: str = "none") -> Line2D:
    return Line2D(
        [], [], color=color, marker=marker, linestyle="", label=label, markersize=6,
        markerfacecolor=color if filled else paper,
    )  # fmt: skip


def draw_arms(report: RunReport, palette: Palette) -> Figure | None:
    """Gains with their 95 % intervals: arms, then controls; hollow diamonds are newcomers."""
    arms: list[tuple[str, Gain, Gain | None]] = [
        (name, arm, arm.newcomers) for name, arm in ordered_arms(report) if name != REFERENCE_ARM
    ]
    controls = [(control_label(name, arm), arm) for name, arm in report.controls.items()]
    if not arms and not controls:
        return None
    rows: list[tuple[float, str, Gain, Gain | None, str]] = []
    for place, (name, arm, newcomers) in enumerate(arms):
        rows.append((float(place), name, arm, newcomers, "o"))
    for place, (name, arm) in enumerate(controls):
        wrapped = name.removeprefix("a ").replace(" (", "\n(")
        rows.append((len(arms) + 0.2 + place, wrapped, arm, None, "s"))
    figure = _figure(0.95 + 0.4 * (rows[-1][0] + 1), report, palette)
    axes = figure.add_subplot()
    axes.axvline(0, color=palette.faint, linewidth=1.1)
    reach = [bound for _, _, gain, other, _ in rows for bound in gain.gain_interval]
    reach += [bound for _, _, _, other, _ in rows if other for bound in other.gain_interval]
    for height, _, gain, newcomers, marker in rows:
        lift = 0.13 if newcomers else 0.0
        _whisker(axes, palette, gain, height - lift, marker, filled=marker == "o")
        if newcomers:
            _whisker(axes, palette, newcomers, height + 0.2, "D", filled=False, small=True)
        (text,) = percent_texts([gain.gain], decimals=1)
        axes.annotate(
            f"{text} %", (1.0, height), xycoords=("axes fraction", "data"), xytext=(4, 0), fontsize=9.5,
            textcoords="offset points", va="center", ha="left", color=palette.ink, annotation_clip=False,
        )  # fmt: skip
    if arms and controls:
        axes.axhline(len(arms) - 0.4, color=palette.grid, linewidth=1.2)
    axes.set_yticks([row[0] for row in rows], [row[1] for row in rows])
    axes.set_ylim(rows[-1][0] + 0.6, -0.6)
    low, high = min([0.0, *reach]), max([0.0, *reach])
    pad = 0.05 * (high - low or 1)
    axes.set_xlim(low - pad, high + pad)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(f"{100 * value:g}")))
    axes.set_xlabel("loss lowered by, % (bars: 95 % intervals over people)")
    _dress(axes, palette)
    shown = [_mark(palette.ink, "arm", "o")] if arms else []
    shown += [_mark(palette.ink, "control", "s", filled=False)] if controls else []
    shown += [_mark(palette.ink, "newcomers", "D", filled=False)] if any(row[3] for row in rows) else []
    if len(shown) > 1:
        _legend(axes, palette, shown)
    return figure


def _whisker(
    axes: Axes, palette: Palette, gain: Gain, height: float, marker: str, *, filled: bool, small: bool = False
) -> None:
    color = getattr(palette, verdict(gain))
    axes.plot(gain.gain_interval, [height, height], color=color, linewidth=1.2 if small else 2, alpha=0.9)
    axes.plot(
        [gain.gain], [height], marker=marker, color=color, markersize=4.5 if small else 7,
        markerfacecolor=color if filled else palette.paper, markeredgewidth=1.3 if small else 1.7,
    )  # fmt: skip


def draw_privacy(report: RunReport, palette: Palette) -> Figure | None:
    """Epsilon after each release; below it each round's signal-to-noise bound where the run has it."""
    if report.privacy.warning:
        figure = _figure(0.75, report, palette)
        words = "Epsilon is infinite from the first release on: there is no spend to draw."
        figure.text(0.5, 0.36, words, ha="center", va="center", color=palette.alarm, fontsize=9.5)
        return figure
    recorded = [(entry.kind, finite(entry.epsilon_after)) for entry in report.spend]
    spend = [(kind, value) for kind, value in recorded if value is not None]
    if not spend:
        return None
    bounds = [(place, finite(entry.snr)) for place, entry in enumerate(report.round_log, start=1)]
    ratios = [(place, value) for place, value in bounds if value is not None]
    figure = _figure(2.5 + (1.25 if ratios else 0), report, palette)
    panels = figure.subplots(2 if ratios else 1, 1, sharex=True, squeeze=False,
                             height_ratios=[2.1, 1] if ratios else [1])[:, 0]  # fmt: skip
    axes = panels[0]
    releases = np.arange(1, len(spend) + 1)
    heights = [value for _, value in spend]
    axes.plot(releases, heights, color=palette.better, linewidth=1.6, drawstyle="steps-post", alpha=0.55)
    kinds = list(dict.fromkeys(kind for kind, _ in spend))
    for kind, marker in zip(kinds, "osD^v<>" * len(kinds), strict=False):
        here = [place for place, (name, _) in enumerate(spend) if name == kind]
        axes.plot(releases[here], [heights[place] for place in here], linestyle="", marker=marker,
                  color=palette.better, markersize=6)  # fmt: skip
    axes.annotate(number_text(heights[-1]), (releases[-1], heights[-1]), xytext=(0, 7), fontsize=9.5,
                  textcoords="offset points", ha="center", color=palette.ink, fontweight="bold")  # fmt: skip
    axes.set_ylim(0, 1.22 * max(heights))
    axes.set_ylabel("epsilon spent")
    _dress(axes, palette, grid="y")
    marks = [_mark(palette.better, kind, marker) for kind, marker in zip(kinds, "osD^v<>" * 2, strict=False)]
    _legend(axes, palette, marks, above=False)
    if ratios:
        below: Axes = panels[1]
        when, bound = [place for place, _ in ratios], [value for _, value in ratios]
        below.vlines(when, 0, bound, color=palette.undecided, linewidth=1.6)
        below.plot(when, bound, "o", color=palette.undecided, markersize=5)
        below.axhline(SNR_FLOOR, color=palette.worse, linewidth=1.1, linestyle=DASHED)
        below.set_ylim(0, 1.35 * max(SNR_FLOOR, *bound))
        mark = Line2D([], [], color=palette.worse, linestyle=DASHED, label=f"warning below {SNR_FLOOR}")
        _legend(below, palette, [mark])
        below.set_ylabel("signal-to-noise\nbound")
        _dress(below, palette, grid="y")
    panels[-1].set_xlabel("release")
    panels[-1].set_xlim(0.5, len(spend) + 0.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(10, integer=True))
    return figure


def draw_wire(report: RunReport, palette: Palette) -> Figure | None:
    """Mean bytes per person at every stage, on a logarithmic scale, and a round's total."""
    wire = report.wire
    stages = list(dict.fromkeys([*wire.up_by_stage, *wire.down_by_stage]))
    rows = [(stage, wire.up_by_stage.get(stage), wire.down_by_stage.get(stage)) for stage in stages]
    if wire.setup_down_bytes is not None:
        rows.insert(0, ("once, before", None, wire.setup_down_bytes))
    rows.append(("a whole round", wire.up_bytes, wire.down_bytes))
    sizes = [size for _, up, down in rows for size in (up, down) if size]
    if not sizes:
        return None
    figure = _figure(1.05 + 0.5 * len(rows), report, palette)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    floor = 10 ** np.floor(np.log10(min(sizes)) - 0.15)
    for place, (_, up, down) in enumerate(rows):
        ways = ((up, -0.16, "^", palette.better), (down, 0.2, "v", palette.undecided))
        for size, lift, marker, color in ways:
            if size is None:
                continue
            if size > 0:
                axes.plot([floor, size], [place + lift] * 2, color=color, linewidth=1.4, alpha=0.6)
                axes.plot([size], [place + lift], marker=marker, color=color, markersize=6)
            axes.annotate(bytes_text(size), (max(size, floor), place + lift), xytext=(7, 0), fontsize=8.5,
                          textcoords="offset points", va="center", color=palette.ink,
                          bbox={"facecolor": palette.paper, "edgecolor": "none", "pad": 1})  # fmt: skip
    if len(rows) > 1:
        axes.axhline(len(rows) - 1.5, color=palette.grid, linewidth=1.2)
    marks = [_mark(palette.better, "up", "^"), _mark(palette.undecided, "down", "v")]
    if wire.limit_up_bytes:
        axes.plot([wire.limit_up_bytes] * 2, [len(rows) - 1.5, len(rows) - 0.5], color=palette.worse,
                  linestyle=DASHED, linewidth=1.3, zorder=1)  # fmt: skip
        limit = f"limit up, {bytes_text(wire.limit_up_bytes)}"
        marks.append(Line2D([], [], color=palette.worse, linestyle=DASHED, label=limit))
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.55)
    axes.set_xlim(floor, max([*sizes, wire.limit_up_bytes or 0]) * 6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: bytes_text(value).replace(".0 ", " ")))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("mean bytes per person (logarithmic)")
    _dress(axes, palette)
    axes.tick_params(axis="x", which="minor", length=0)
    _legend(axes, palette, marks)
    return figure


def draw_spectrum(report: RunReport, palette: Palette) -> Figure | None:
    """Singular values of the bases beside the size that noise alone would give them."""
    if report.bases is None or not report.bases.spectrum:
        return None
    values, floor = report.bases.spectrum, report.bases.noise_floor or 0.0
    figure = _figure(2.6, report, palette)
    axes = figure.add_subplot()
    known = floor > 0 and not report.privacy.warning
    colors = [palette.better if known and value > floor else palette.undecided for value in values]
    axes.bar(range(1, len(values) + 1), values, width=min(0.6, 0.12 * len(values) + 0.1), color=colors)
    for place, value in enumerate(values if len(values) <= 12 else []):
        axes.annotate(number_text(value), (place + 1, value), xytext=(0, 3), textcoords="offset points",
                      ha="center", fontsize=8.5, color=palette.ink)  # fmt: skip
    axes.set_ylim(0, 1.15 * max(floor, *values, 1e-12))
    if known:
        axes.axhline(floor, color=palette.worse, linewidth=1.3, linestyle=DASHED)
        label = f"noise floor, {number_text(floor)}"
        mark = Line2D([], [], color=palette.worse, linestyle=DASHED, label=label)
        _legend(axes, palette, [mark])
    axes.set_xlim(0.4, len(values) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlabel("basis")
    axes.set_ylabel("singular value")
    _dress(axes, palette, grid="y")
    return figure


def draw_weights(report: RunReport, palette: Palette) -> Figure | None:
    """Everybody's weight on every basis: one column per person, one row per basis, zero is the paper."""
    if report.bases is None or not report.bases.weights:
        return None
    names = list(report.bases.weights)[:MOST_PEOPLE_SHOWN]
    depth = max(len(report.bases.weights[name]) for name in names)
    if depth == 0:
        return None
    grid = np.full((depth, len(names)), np.nan)  # (bases, people)
    for column, name in enumerate(names):
        weights = report.bases.weights[name]
        grid[: len(weights), column] = weights
    figure = _figure(1.15 + 0.3 * depth, report, palette)
    axes = figure.add_subplot()
    reach = float(np.nanmax(np.abs(grid))) or 1.0
    ramp = [palette.worse, palette.paper, palette.better]
    shades = LinearSegmentedColormap.from_list("weights", ramp).with_extremes(bad=palette.grid)
    image = axes.pcolormesh(
        grid, cmap=shades, vmin=-reach, vmax=reach, edgecolors=palette.grid, linewidth=0.6
    )  # fmt: skip
    axes.set_ylim(depth, 0)
    axes.set_yticks(np.arange(depth) + 0.5, [str(row + 1) for row in range(depth)])
    axes.set_ylabel("basis")
    _dress(axes, palette)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    if len(names) <= MOST_PEOPLE_NAMED:
        shown = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
        axes.set_xticks(np.arange(len(names)) + 0.5, shown, rotation=90)
        axes.tick_params(axis="x", labelsize=8.5)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(names)} of {len(report.bases.weights)} people")
    bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.03, aspect=12)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=palette.ink, labelsize=8.5, length=0)
    bar.ax.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(f"{value:g}")))
    return figure


PLOTS: dict[str, Callable[[RunReport, Palette], Figure | None]] = {
    "arms": draw_arms,
    "privacy": draw_privacy,
    "wire": draw_wire,
    "spectrum": draw_spectrum,
    "weights": draw_weights,
}


def draw_all(report: RunReport, palette: Palette) -> dict[str, bytes]:
    """Every picture that the report has figures for, name -> PNG, the same bytes for the same report."""
    pictures = {}
    # Names come from data: no "$" starts a formula, a letter that the font lacks is a box, no complaint.
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for name, draw in PLOTS.items():
            if (figure := draw(report, palette)) is not None:
                target = BytesIO()
                figure.savefig(target, format="png", facecolor=palette.paper, metadata={"Software": None})
                pictures[name] = target.getvalue()
    return pictures
