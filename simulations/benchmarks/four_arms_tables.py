"""The tables and the picture of `simulations.benchmarks.four_arms`, from its rows alone.

    python -m simulations.benchmarks.four_arms_tables DIR

An arm's score is the mean over people. Its gain over ``none`` is the mean over people of the paired difference, for
the better, as a percentage of the mean of ``none`` (a ratio for each person would divide by the zero of somebody whom
the model alone never gets right); both with 95 % intervals over people (Student's t). ``rag`` beside a stranger's
memory and ``peft`` beside a stranger's adapter say how much of a gain is the person's own. The last line is the mean of
the gains over the sets where ``none`` is not 0, with its interval over sets, beside the paper's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edge_runtime.commands.support import one_line_errors
from protocol.errors import PenchantError
from simulations.benchmarks.form import LOWER_IS_BETTER
from simulations.benchmarks.metrics import pooled, scores
from simulations.statistics import mean_interval
from simulations.studies.rows import HEADING, read_rows
from simulations.study_command import as_command

ARMS: Final = ("none", "rag", "peft", "rag+peft", "stranger_memory", "stranger_adapter")
NAMES: Final = {
    "none": "none",
    "rag": "rag",
    "peft": "peft",
    "rag+peft": "rag + peft",
    "stranger_memory": "*a stranger's memory*",
    "stranger_adapter": "*a stranger's adapter*",
}
PAPER: Final = {"rag": 14.92, "peft": 1.07, "rag+peft": 15.98}
MEASURES: Final = {
    "accuracy": "accuracy",
    "mae": "mean absolute error",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
    "meteor": "METEOR, no synonyms",
    "nats": "nats per token",
    "found": "evidence recalled",
    "macro_f1": "macro F1",
    "rmse": "RMSE",
}
# Each pair: what is compared, the arm that should be better, the arm that should be worse.
PAIRS: Final = (
    ("own memory against a stranger's", "rag", "stranger_memory"),
    ("own adapter against a stranger's", "peft", "stranger_adapter"),
    ("rag + peft against rag", "rag+peft", "rag"),
)
_COLOURS: Final = ("#0b67a8", "#c2560a", "#7b4ea3", "#7fb0d2", "#e0aa83")
Scores = Mapping[str, Mapping[str, float]]  # arm -> measure -> score, of one person


def read_set(folder: Path) -> dict[str, Any]:
    """The heading of one set's run, and under ``people`` everybody's outcomes so far, in order."""
    heading: dict[str, Any] = json.loads((folder / HEADING).read_text(encoding="utf-8"))
    rows = {row["person"]: row for row in read_rows(folder) if row["of"] == heading["of"]}
    return {**heading, "people": [rows[name] for name in heading["order"] if name in rows]}


def interval(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Mean with its 95 % interval, over people or over sets."""
    mean, low, high = (scale * value for value in mean_interval(values))
    return {"mean": mean, "low": low, "high": high}


def gain(people: Sequence[Scores], measure: str, better: str, worse: str, base: str = "none") -> dict[str, float]:
    """How much better one arm is than another, in % of the mean of ``base``, paired over people."""
    sign = -1.0 if measure in LOWER_IS_BETTER else 1.0
    differences = [sign * (one[better][measure] - one[worse][measure]) for one in people]
    scale = float(np.mean([one[base][measure] for one in people]))
    if scale == 0.0:  # nothing to be a percentage of
        return dict.fromkeys(("mean", "low", "high"), float("nan"))
    return interval(differences, 100.0 / scale)


def summarise(document: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one set's tables."""
    rows, labels, measure = document["people"], len(document["labels"]), document["measure"]
    people = [{arm: scores(row["arms"][arm], measure) for arm in ARMS} for row in rows]
    arms: dict[str, Any] = {}
    for arm in ARMS:
        own = [one[arm] for one in people]
        arms[arm] = {
            "scores": {name: interval([one[name] for one in own]) for name in own[0] if all(name in o for o in own)},
            "gain": gain(people, measure, arm, "none"),
            "pooled": pooled([outcome for row in rows for outcome in row["arms"][arm]], labels, measure),
        }
    return {
        "measure": measure,
        "people": len(people),
        "queries": sum(len(row["arms"]["none"]) for row in rows),
        "history": float(np.mean([row["history"] for row in rows])),
        "arms": arms,
        "pairs": {name: gain(people, measure, better, worse) for name, better, worse in PAIRS},
        "seconds": float(np.mean([row["seconds"] for row in rows])),
    }


def summary(out: Path) -> dict[str, Any]:
    """Everything that the tables show: every set with at least two people done, and the means over sets."""
    folders = sorted(file.parent for file in out.glob(f"*/{HEADING}"))
    documents = [document for document in map(read_set, folders) if len(document["people"]) > 1]
    if not documents:
        raise PenchantError(f"{out} holds no run of simulations.benchmarks.four_arms with two people done")
    sets = {document["set"]: summarise(document) for document in documents}
    measured = [one for one in sets.values() if np.isfinite(one["arms"]["rag"]["gain"]["mean"])]
    means = {arm: interval([one["arms"][arm]["gain"]["mean"] for one in measured]) for arm in ARMS[1:]}
    model, recipe = documents[0]["model"], documents[0]["recipe"]
    return {
        "model": model,
        "recipe": recipe,
        "paper": PAPER,
        "sets": sets,
        "means": means,
        "means_over": len(measured),
    }


def tables(numbers: Mapping[str, Any]) -> str:
    """The summary in Markdown."""
    sets = numbers["sets"]
    lines = [
        "| set, measure | people (queries) | " + " | ".join(NAMES[arm] for arm in ARMS) + " |",
        "|" + "---|" * (len(ARMS) + 2),
    ]
    for name, one in sets.items():
        cells = [_score(one["arms"][arm]["scores"][one["measure"]]) for arm in ARMS]
        lines.append(f"| {name}, {MEASURES[one['measure']]} | {one['people']} ({one['queries']}) | {_row(cells)} |")
    lines += ["", "| gain over none, % | " + " | ".join(NAMES[arm] for arm in ARMS[1:]) + " |"]
    lines.append("|" + "---|" * len(ARMS))
    for name, one in sets.items():
        lines.append(f"| {name} | {_row([_gain(one['arms'][arm]['gain']) for arm in ARMS[1:]])} |")
    if numbers["means_over"] > 1:
        lines.append(
            f"| mean over {numbers['means_over']} sets | {_row([_gain(numbers['means'][arm]) for arm in ARMS[1:]])} |"
        )
    paper = [f"{PAPER[arm]:.2f}" if arm in PAPER else "" for arm in ARMS[1:]]
    lines.append(f"| *the paper, mean over LaMP* | {_row(paper)} |")
    lines += ["", "| difference, % of none | " + " | ".join(name for name, _, _ in PAIRS) + " |"]
    lines.append("|" + "---|" * (len(PAIRS) + 1))
    for name, one in sets.items():
        lines.append(f"| {name} | {_row([_gain(one['pairs'][pair]) for pair, _, _ in PAIRS])} |")
    others = [line for name, one in sets.items() for line in _others(name, one)]
    if others:
        lines += ["", "| other measures | " + " | ".join(NAMES[arm] for arm in ARMS) + " |"]
        lines += ["|" + "---|" * (len(ARMS) + 1), *others]
    return "\n".join(lines) + "\n"


def _others(name: str, one: Mapping[str, Any]) -> list[str]:
    """A line for each measure of a set besides its main one."""
    rows: dict[str, dict[str, str]] = {}
    for arm in ARMS:
        found = {key: _score(value) for key, value in one["arms"][arm]["scores"].items() if key != one["measure"]}
        found |= {key: f"{value:.3f}" for key, value in one["arms"][arm]["pooled"].items()}
        for key, cell in found.items():
            rows.setdefault(key, dict.fromkeys(ARMS, ""))[arm] = cell
    return [f"| {name}, {MEASURES[key]} | {_row(list(cells.values()))} |" for key, cells in rows.items()]


def _row(cells: Sequence[str]) -> str:
    return " | ".join(cells)


def _score(cell: Mapping[str, float]) -> str:
    return f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def _gain(cell: Mapping[str, float]) -> str:
    if not np.isfinite(cell["mean"]):
        return "none is 0"
    return f"{cell['mean']:.1f} [{cell['low']:.1f}, {cell['high']:.1f}]" if np.isfinite(cell["low"]) else ""


def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Gains over none by set, with their intervals and the paper's means; writes the PNG."""
    sets = numbers["sets"]
    figure = Figure(figsize=(max(6.0, 1.7 * len(sets) + 2.0), 4.4), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (arm, colour) in enumerate(zip(ARMS[1:], _COLOURS, strict=True)):
        cells = [one["arms"][arm]["gain"] for one in sets.values()]
        places = np.arange(len(cells)) + 0.15 * (number - 2)
        axes.vlines(places, [c["low"] for c in cells], [c["high"] for c in cells], colour, linewidth=1.4)
        marker = "o" if arm in PAPER else "x"
        axes.plot(places, [c["mean"] for c in cells], marker, color=colour, label=NAMES[arm].strip("*"), markersize=6)
        if arm in PAPER:
            axes.axhline(PAPER[arm], color=colour, linewidth=0.8, linestyle=":")
    axes.axhline(0.0, color="#1c2330", linewidth=0.8)
    axes.set_xticks(range(len(sets)), [f"{name}\n{MEASURES[one['measure']]}" for name, one in sets.items()])
    axes.set_title("gain over none, %; dotted: the paper's means over LaMP", loc="left", fontsize=10)
    axes.grid(axis="y", color="#e3e7ec")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path)


def write_tables(out: Path) -> str:
    """Write four_arms.json, four_arms.md and four_arms.png of the runs in ``out``; returns the tables."""
    numbers = summary(out)
    text = tables(numbers)
    (out / "four_arms.json").write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    (out / "four_arms.md").write_text(text, "utf-8")
    draw(numbers, out / "four_arms.png")
    return text


@one_line_errors
def main(
    out: Annotated[Path, typer.Argument(help="A folder of simulations.benchmarks.four_arms, also of one at work.")],
) -> None:
    """Write the tables of what there is so far."""
    typer.echo(write_tables(out))


if __name__ == "__main__":
    as_command(main)
