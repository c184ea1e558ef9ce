"""The report as one HTML file: no script, no outside resource, pictures inside, all text escaped.

Every word that a model or a person wrote reaches the page through Jinja's escaping; the page's own content
policy forbids scripts, forms and every fetch but inlined pictures, should anything ever slip through.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from simulations.reports import words
from simulations.reports.schema import REFERENCE_ARM, RunReport, finite

TEMPLATE, STYLE = Path(__file__).with_name("report.html"), Path(__file__).with_name("report.css")
PICTURE_TEXT = {
    "arms": "Chart: how much each arm and each control lowers the loss, with 95 % intervals over people",
    "privacy": "Chart: epsilon spent after each release, and each round's signal-to-noise bound",
    "wire": "Chart: bytes up and down per person at each stage of a round",
    "spectrum": "Chart: singular values of the bases beside the noise floor",
    "weights": "Heat map: every person's private weight on every basis",
}


def data_uri(png: bytes) -> str:
    """A PNG as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _joined(text: str) -> str:
    """The text with its numbers and units held together at a line's end."""
    return re.sub(r"(?<=\d) (?=(?:%|[kM]?B|s|min|h)(?!\w))", "\N{NO-BREAK SPACE}", text)


def _key_figures(report: RunReport) -> list[tuple[str, str, str]]:
    """(figure, what it is, note) for the strip under the headline."""
    figures = []
    name = words.headline_arm(report)
    if name is not None:
        gain, interval = words.gain_texts(report.arms[name])
        figures.append((gain, f"loss lowered by {name}", f"95 % interval {interval}"))
    privacy = report.privacy
    note = "no protection" if privacy.warning else f"delta {words.delta_text(privacy.delta)}, {privacy.unit}"
    figures.append((words.epsilon_text(privacy, privacy.epsilon), "epsilon, after all releases", note))
    snr = "no noise" if privacy.warning else words.number_text(finite(privacy.snr), 2)
    figures.append((snr, "signal-to-noise bound", "" if privacy.warning else "smallest of all rounds"))
    limit = report.wire.limit_up_bytes
    figures.append(
        (
            words.bytes_text(report.wire.up_bytes),
            "up per person and round",
            f"limit {words.bytes_text(limit)}" if limit else "mean",
        )
    )
    return figures


def _when(created: str) -> str:
    """An ISO time for readers, anything else as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".rstrip()


def _run_facts(report: RunReport) -> list[tuple[str, str]]:
    facts = [("Model", f"{report.model.name}, {report.model.quantisation}")]
    people = f"{report.people}"
    if report.fleet is not None:
        newcomers = f", {report.newcomers} newcomers" if report.newcomers else ""
        people += f" ({report.fleet} in the fleet{newcomers})"
    facts.append(("People", people))
    kinds: dict[str, int] = {}
    for entry in report.round_log:
        kinds[entry.kind] = kinds.get(entry.kind, 0) + 1
    split = ", ".join(f"{count} for {_kind_text(kind)}" for kind, count in kinds.items())
    facts.append(("Rounds", f"{report.rounds}" + (f" ({split})" if split else "")))
    if (frame := report.frame) is not None:
        shape = f"{frame.modules} maps of rank {frame.rank}, {frame.dimension:,} numbers"
        if frame.top_layers is not None:
            shape += f", top {frame.top_layers} layers"
        if frame.kinds:
            shape += f" ({', '.join(frame.kinds)})"
        if frame.bytes is not None:
            shape += f", {words.bytes_text(frame.bytes)}"
        facts.append(("Frame", shape))
    facts.append(("Time", words.time_sentence(report)))
    return facts


def _kind_text(kind: str) -> str:
    return {"shared": "the shared adapter", "bases": "the bases"}.get(kind, kind)


def _privacy_facts(report: RunReport) -> list[tuple[str, str]]:
    privacy = report.privacy
    facts = [
        ("Epsilon", words.epsilon_text(privacy, privacy.epsilon)),
        ("Delta", words.delta_text(privacy.delta)),
        ("Protected unit", privacy.unit),
        ("Neighbouring fleets", privacy.neighbours),
        ("Mechanism", privacy.mechanism),
        ("Noise multiplier", words.number_text(privacy.noise_multiplier)),
        ("Clip", words.clip_text(privacy)),
        ("Sampling", privacy.sampling),
        ("What counts", privacy.contributions_counted),
    ]
    if not privacy.warning:
        facts += [
            ("Rényi bound on epsilon", words.number_text(privacy.epsilon_rdp, missing="")),
            ("PRV cross-check", words.number_text(privacy.epsilon_prv, missing="")),
            ("Signal-to-noise bound", words.number_text(finite(privacy.snr), 2)),
        ]
    return [(name, value) for name, value in facts if value]


def _secure_facts(report: RunReport) -> list[tuple[str, str]]:
    part = report.secure_aggregation
    facts: list[tuple[str, int | None]] = [
        ("People in a round's cohort", part.cohort),
        ("Neighbours of each device", part.degree),
        ("Shares needed to unmask", part.threshold),
        ("Fewest people in a sum", part.minimum_survivors),
        ("Devices that a round may lose", part.dropouts_survived),
        ("Bits of the ring", part.ring_bits),
    ]
    return [(name, str(value)) for name, value in facts if value is not None]


def _sample_arms(report: RunReport) -> list[str]:
    """The arms that any sample answers, in the design's order."""
    seen = {arm for sample in report.samples for person in sample.people for arm in person.answers}
    return [*[name for name in words.ARM_ORDER if name in seen], *sorted(seen - set(words.ARM_ORDER))]


def _loss_kinds(report: RunReport) -> list[str]:
    """Kinds of held-out text that any arm was scored on."""
    arms = [*report.arms.values(), *report.controls.values()]
    return list(dict.fromkeys(kind for arm in arms for kind in arm.by_kind))


def render_page(report: RunReport, pictures_light: Mapping[str, bytes], pictures_dark: Mapping[str, bytes]) -> str:
    """The page's HTML. `pictures_*` map a plot's name to its PNG; a missing one leaves its place out."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip

    environment.filters.update(
        gain=lambda gain: words.gain_texts(gain, decimals=1),
        joined=_joined,
        number=words.number_text,
        percent=words.percent,
        seconds=words.seconds_text,
        verdict=words.verdict,
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        style=Markup(STYLE.read_text(encoding="utf-8")),
        created=_when(report.created),
        warning=report.privacy.warning,
        headline=words.headline(report),
        details=words.headline_details(report),
        key_figures=_key_figures(report),
        run_facts=_run_facts(report),
        arms=words.ordered_arms(report),
        arm_meaning=words.ARM_MEANING,
        controls=[(words.control_label(name, arm), arm) for name, arm in report.controls.items()],
        any_newcomers=any(arm.newcomers for arm in report.arms.values()),
        kinds=_loss_kinds(report),
        reference=REFERENCE_ARM,
        privacy_facts=_privacy_facts(report),
        snr_warning=words.snr_warning(report.privacy),
        snr_floor=words.SNR_FLOOR,
        larger_fleet=words.larger_fleet_sentence(report.privacy),
        spectrum=words.spectrum_sentence(report.bases, report.privacy) if report.bases else "",
        wire=words.wire_sentence(report.wire),
        secure_facts=_secure_facts(report),
        sample_arms=_sample_arms(report),
        picture_text=PICTURE_TEXT,
        light={name: data_uri(png) for name, png in pictures_light.items()},
        dark={name: data_uri(png) for name, png in pictures_dark.items()},
    )
