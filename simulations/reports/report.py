"""A finished run for its reader: `report.json`, pictures, `report.html` and `report.md` in a folder, a table to print.

`report.json` is written first: hours of computing are not lost to a missing plotting library. Every file
appears whole or not at all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from protocol.errors import PenchantError
from simulations.reports import words
from simulations.reports.markdown import render_markdown
from simulations.reports.schema import PICTURES, REFERENCE_ARM, Arm, RunReport, parse_report, plain

VERDICT_STYLE = {"better": "bold green", "worse": "yellow", "undecided": ""}


def write_report(report: dict[str, Any], out: Path) -> None:
    """Checks `report` (the keys are in `simulations/reports/schema.py`) and writes report.json, the PNGs and
    report.html and report.md into the folder `out`, in this order, each atomically. Pictures that the run has no
    figures for are left out, and removed where an earlier run left one.

    Raises PenchantError for a report with missing or wrong entries, a folder that cannot be written, and
    (after report.json is written) a missing matplotlib.
    """
    checked = parse_report(report)
    text = json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _write(out, "report.json", text.encode("utf-8"))
    try:
        from simulations.reports import page as report_page
        from simulations.reports import plots
    except ImportError as error:
        raise PenchantError(
            "report.json is written, but its pictures need matplotlib: pip install 'penchant[simulation]'"
        ) from error
    light = plots.draw_all(checked, plots.LIGHT)
    dark = plots.draw_all(checked, plots.DARK)
    for name in PICTURES:
        if name in light:
            _write(out, f"{name}.png", light[name])
        else:
            (out / f"{name}.png").unlink(missing_ok=True)
    _write(out, "report.html", report_page.render_page(checked, light, dark).encode("utf-8"))
    _write(out, "report.md", render_markdown(checked, list(light)).encode("utf-8"))


def _write(out: Path, name: str, data: bytes) -> None:
    """The file appears with all its bytes, or what was there before stays."""
    temporary = out / f".{name}.{os.getpid()}.part"
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(out / name)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PenchantError(f"Cannot write {name} to {out}: {reason}. Choose another folder with --out.") from None


def show_table(report: dict[str, Any], console: Console, *, out: Path | None = None) -> None:
    """Prints the run's result: the headline, arms and controls with intervals, one line each for privacy,
    wire, secure aggregation and time, and where report.html lies (in `out`, if given). Same errors.
    """
    checked = parse_report(report)
    warning = checked.privacy.warning
    if warning:
        console.print(Panel(Text(warning, justify="center"), style="bold white on red", box=box.HEAVY))
    console.print()
    console.print(Text(words.headline(checked), style="bold"))
    for sentence in words.headline_details(checked):
        console.print(Text(sentence))
    console.print()
    console.print(_arms_table(checked))
    console.print(_facts_grid(checked, out))


def _arms_table(report: RunReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("arm", overflow="fold")
    for heading in ("loss", "95 % interval", "gain over none", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    arms = words.ordered_arms(report)
    for place, (name, arm) in enumerate(arms):
        gains = ("", Text("")) if name == REFERENCE_ARM else _gain_cells(arm)
        last = place == len(arms) - 1 and bool(report.controls)
        table.add_row(Text(name), *_loss_cells(arm), *gains, end_section=last)
    for name, arm in report.controls.items():
        table.add_row(Text(words.control_label(name, arm)), *_loss_cells(arm), *_gain_cells(arm))
    return table


def _loss_cells(arm: Arm) -> tuple[str, str]:
    return f"{arm.loss:.3f}", f"{arm.interval[0]:.3f} to {arm.interval[1]:.3f}"


def _gain_cells(arm: Arm) -> tuple[Text, Text]:
    style = VERDICT_STYLE[words.verdict(arm)]
    gain, interval = words.gain_texts(arm, decimals=1)
    return Text(gain, style=style), Text(interval, style=style)


def _facts_grid(report: RunReport, out: Path | None) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    alarm = "bold red" if report.privacy.warning else ""
    grid.add_row("privacy", Text(words.privacy_sentence(report.privacy), style=alarm))
    if larger := words.larger_fleet_sentence(report.privacy):
        grid.add_row("", Text(larger))
    if low := words.snr_warning(report.privacy):
        grid.add_row("", Text(low, style="yellow"))
    if report.bases is not None:
        grid.add_row("bases", Text(words.spectrum_sentence(report.bases, report.privacy)))
    grid.add_row("wire", Text(words.wire_sentence(report.wire)))
    grid.add_row("secure sum", Text(words.secure_aggregation_sentence(report)))
    grid.add_row("time", Text(words.time_sentence(report)))
    grid.add_row("report", Text("report.html" if out is None else str(out / "report.html"), style="bold"))
    return grid
