"""A run's report as Markdown: the same headline, tables and facts as the page, for a repository or a paper's notes."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.reports import words
from simulations.reports.schema import PICTURES, REFERENCE_ARM, Arm, RunReport


def render_markdown(report: RunReport, pictures: Sequence[str]) -> str:
    """The report; ``pictures``: names of the PNGs that lie beside it, of ``schema.PICTURES``."""
    warning = report.privacy.warning
    lines = [f"# {_plain(report.title)}", ""]
    if warning:
        lines += [f"**{warning}**", ""]
    lines += [words.headline(report), "", *words.headline_details(report), ""]
    lines += [_row(("arm", "loss", "95 % interval", "gain over none", "95 % interval")), "|---|---|---|---|---|"]
    arms = words.ordered_arms(report)
    lines += [_arm_row(name, arm, is_reference=name == REFERENCE_ARM) for name, arm in arms]
    lines += [_arm_row(f"*{words.control_label(name, arm)}*", arm) for name, arm in report.controls.items()]
    facts = [
        ("model", f"{report.model.name}, {report.model.quantisation}, sha256 {report.model.sha256}"),
        ("privacy", words.privacy_sentence(report.privacy)),
        ("wire", words.wire_sentence(report.wire)),
        ("secure sum", words.secure_aggregation_sentence(report)),
        ("time", words.time_sentence(report)),
        ("seed", str(report.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("command", f"`{report.command}`" if report.command else ""),
    ]
    if report.bases is not None:
        facts.insert(2, ("bases", words.spectrum_sentence(report.bases, report.privacy)))
    lines += ["", "| | |", "|---|---|", *(_row(fact) for fact in facts if fact[1]), ""]
    lines += [f"![{name}]({name}.png)" for name in PICTURES if name in pictures]
    return "\n".join(lines) + "\n"


def _arm_row(label: str, arm: Arm, *, is_reference: bool = False) -> str:
    gain, interval = ("", "") if is_reference else words.gain_texts(arm, decimals=1)
    return _row((label, f"{arm.loss:.3f}", f"{arm.interval[0]:.3f} to {arm.interval[1]:.3f}", gain, interval))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that stays in its cell and opens no tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
