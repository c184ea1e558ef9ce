"""A choice table for a reader, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NAMES: Final[Mapping[str, str]] = {
    "global": "global",
    "scratch": "per person, from scratch",
    "map": "per person, around global",
    "lore_softmax": "LoRe as published (central)",
    "lore_centralised": "LoRe, real weights and prior (central)",
    "ours": "ours, federated, no noise",
    "ours_residual": "ours with a residual, no noise",
    "length_rule": "length rule",
    "reach": "best linear in these features",
    "oracle": "true utilities",
}


def name_of(method: str) -> str:
    """A method's name for a reader."""
    if method.startswith("ours_epsilon_"):
        return f"ours, epsilon {method.removeprefix('ours_epsilon_')}"
    return NAMES[method]


def markdown(result: Mapping[str, Any]) -> str:
    """The table: fleet people, then newcomers by the number of their choices."""
    people, features, privacy = result["people"], result["features"], result["privacy"]
    lines = [
        f"## {result['data']}",
        "",
        f"{people['fleet_trained']} people train, {people['fleet_reported']} of them and {people['newcomers']} "
        f"newcomers are reported. Features: {features['sources']} (k = {features['dimension']}). Accuracy in per cent "
        "of decided choices, nll in nats per choice; 95 % intervals over people; a gain is the paired difference from "
        'global in points of accuracy, "from central" the one from LoRe with real weights and prior.',
        "",
        "| fleet people, all their choices | accuracy | gain | from central | nll | nll gain | settings |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, rows in result["methods"].items():
        cell = rows["fleet"]
        settings = "; ".join(sorted({", ".join(f"{k} {v:g}" for k, v in one.items()) for one in rows["settings"]}))
        lines.append(
            f"| {name_of(method)} | {_percent(cell['accuracy'])} | {_points(cell['accuracy_gain'])} | "
            f"{_points(cell['accuracy_from_central'])} | {_nll(cell['nll'])} | {_nll(cell['nll_gain'], sign='+')} | "
            f"{settings} |"
        )
    counts = list(result["methods"]["global"]["newcomers"])
    for title, shown in (("accuracy (gain over global)", _accuracy), ("nll", lambda cell: _nll(cell["nll"]))):
        lines += ["", f"| newcomers, {title} | " + " | ".join(f"{count} choices" for count in counts) + " |"]
        lines.append("|---" * (len(counts) + 1) + "|")
        for method, rows in result["methods"].items():
            cells = " | ".join(shown(rows["newcomers"][count]) for count in counts)
            lines.append(f"| {name_of(method)} | {cells} |")
    lines += ["", "| private run | epsilon | delta | noise multiplier | rounds | bytes up | repetitions |"]
    lines.append("|---" * 7 + "|")
    for method, spent in privacy.items():
        epsilon = "none" if spent["epsilon"] is None else f"{spent['epsilon']:.2f}"
        lines.append(
            f"| {name_of(method)} | {epsilon} | {spent['delta']:.1e} | {spent['noise_multiplier']:.2f} | "
            f"{spent['rounds']} | {spent['bytes_up']} | {spent['repetitions']} |"
        )
    return "\n".join(lines) + "\n"


def _percent(interval: tuple[float, float, float]) -> str:
    mean, low, high = (100.0 * value for value in interval)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _points(interval: tuple[float, float, float]) -> str:
    mean, low, high = (100.0 * value for value in interval)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _nll(interval: tuple[float, float, float], sign: str = "") -> str:
    mean, low, high = interval
    return f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _accuracy(cell: Mapping[str, tuple[float, float, float]]) -> str:
    mean, low, high = (100.0 * value for value in cell["accuracy_gain"])
    return f"{100.0 * cell['accuracy'][0]:.1f} ({mean:+.1f}, {low:+.1f} to {high:+.1f})"
