"""An audit for its reader: a table to print, one picture, and a page without scripts or outside resources."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulations.attacks.finding import Finding
from simulations.audit.result import Audit
from simulations.reports.page import data_uri
from simulations.reports.plots import DPI, LIGHT

TEMPLATE = Path(__file__).with_name("audit.html")
WORDS = {"succeeds": "succeeds", "too weak": "too weak", "below": "pass", "above": "ABOVE"}
STYLES = {"succeeds": "", "too weak": "yellow", "below": "green", "above": "bold white on red"}


def number(value: float) -> str:
    """Three significant figures; numbers of a thousand and more without decimals."""
    if not math.isfinite(value):
        return "infinite"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def measured_text(finding: Finding) -> str:
    """The value with its interval, or as a lower bound."""
    estimate = finding.estimate
    if math.isinf(estimate.high):
        return f"{number(estimate.value)} or more"
    if estimate.low == estimate.high:
        return number(estimate.value)
    return f"{number(estimate.value)} ({number(estimate.low)} to {number(estimate.high)})"


def limit_text(finding: Finding) -> str:
    """What it is measured against."""
    if finding.needed is not None:
        return f"needs {number(finding.needed)}"
    assert finding.ceiling is not None
    return f"at most {number(finding.ceiling)}"


def show_audit(audit: Audit, console: Console, folder: Path) -> None:
    """Prints the table, the headline and where the page lies."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    for heading in ("attack", "against", "measure"):
        table.add_column(heading, overflow="fold")
    for heading in ("measured (95 %)", "chance", "limit"):
        table.add_column(heading, justify="right")
    table.add_column("", no_wrap=True)
    last = ""
    for finding in audit.findings:
        if last and finding.attack != last:
            table.add_section()
        table.add_row(
            Text("" if finding.attack == last else finding.attack),
            Text(finding.against),
            Text(finding.metric),
            measured_text(finding),
            number(finding.chance),
            limit_text(finding),
            Text(WORDS[finding.verdict], style=STYLES[finding.verdict]),
        )
        last = finding.attack
    console.print(table)
    console.print(Text(audit.headline, style="bold white on red" if audit.above else "bold"))
    console.print(Text(promise_text(audit)))
    for finding in audit.weak:
        console.print(Text(f"Too weak to prove anything: {finding.attack} ({finding.against}).", style="yellow"))
    console.print(Text(f"Page: {folder / 'audit.html'}"))


def promise_text(audit: Audit) -> str:
    """What was promised, in one sentence."""
    if not math.isfinite(audit.epsilon):
        return "The run added no noise: nothing was promised, and nothing can lie above a ceiling."
    return (
        f"Promised: epsilon {audit.epsilon:.2f} at delta {audit.delta:g} for one person over everything that "
        f"{audit.rounds} rounds released."
    )


def draw_audit(audit: Audit) -> bytes:
    """One row per finding: measured value with interval, ceiling and chance. Quantities without a common scale
    (epsilon, shifts) are drawn relative to their ceiling, capped at 2."""
    rows = list(audit.findings)
    figure = Figure(figsize=(8.6, 1.0 + 0.26 * len(rows)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_facecolor(LIGHT.paper)
    axes = figure.add_subplot()
    for place, finding in enumerate(rows):
        value, low, high, limit, chance = _scaled(finding)
        color = LIGHT.worse if finding.needed is not None else LIGHT.better
        if finding.verdict == "above":
            color = LIGHT.alarm
        axes.plot([low, high], [place, place], color=color, linewidth=1.6)
        if math.isinf(finding.estimate.high):
            axes.plot([value], [place], color=color, marker=">", markersize=5)
        else:
            axes.plot([value], [place], color=color, marker="o", markersize=4.5)
        if finding.ceiling is not None:
            axes.plot([limit, limit], [place - 0.38, place + 0.38], color=LIGHT.ink, linewidth=1.8)
        axes.plot([chance, chance], [place - 0.25, place + 0.25], color=LIGHT.undecided, linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(rows)), [_label(finding) for finding in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.02, 2.05 if any(_scaled(finding)[0] > 1.02 for finding in rows) else 1.02)
    axes.set_xlabel(
        "AUC, or share that is right; epsilon, bits and shifts over what is allowed (capped at 2)", fontsize=8
    )
    axes.tick_params(colors=LIGHT.ink, labelsize=7, length=0)
    axes.grid(axis="x", color=LIGHT.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
    marks = [
        Line2D([], [], color=LIGHT.worse, marker="o", linestyle="", label="nothing protects: must succeed"),
        Line2D([], [], color=LIGHT.better, marker="o", linestyle="", label="protected: must stay below"),
        Line2D([], [], color=LIGHT.ink, linewidth=1.8, label="ceiling"),
        Line2D([], [], color=LIGHT.undecided, linewidth=1.2, label="chance"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=4, fontsize=7.5, frameon=False)
    target = BytesIO()
    figure.savefig(target, format="png", facecolor=LIGHT.paper, metadata={"Software": None})
    return target.getvalue()


def _label(finding: Finding) -> str:
    """What was attacked, and where."""
    return f"{finding.attack.removesuffix('?')}{'?' if finding.attack.endswith('?') else ':'} {finding.against}"


def _scaled(finding: Finding) -> tuple[float, float, float, float, float]:
    """(value, low, high, ceiling, chance) on the picture's axis."""
    estimate = finding.estimate
    limit = finding.ceiling if finding.ceiling is not None else (finding.needed or 1.0)
    shared = finding.metric == "AUC" or finding.metric.startswith("right") or finding.metric == "|cosine|"
    unit = 1.0 if shared else max(limit, 1e-12)
    high = estimate.value if math.isinf(estimate.high) else estimate.high
    values = (estimate.value, estimate.low, high, limit, finding.chance)
    value, low, high, limit, chance = (min(max(one / unit, 0.0), 2.0) for one in values)
    return value, low, high, limit, chance


def render_audit(audit: Audit, picture: bytes) -> str:
    """The page's HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, measured=measured_text, limit=limit_text)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(audit=audit, promise=promise_text(audit), picture=data_uri(picture), words=WORDS)
