"""Tables and the picture of `simulations.studies.history.study`, from its rows alone.

    python -m simulations.studies.history.tables DIR

A gain is the mean over people of 1 - loss / loss of ``none``; a difference is paired, person by person, in nats per
token, above zero where the first of the two is worse. Intervals are 95 %, Student's t over people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edge_runtime.commands.support import one_line_errors
from simulations.statistics import mean_interval
from simulations.studies.rows import read_run
from simulations.study_command import as_command

Losses = Mapping[str, float]
ARMS: Final = ("rag", "personal", "rag+personal", "rag+gated", "stranger_memory", "stranger_adapter")
NAMES: Final = {
    "none": "none",
    "shared": "shared",
    "rag": "rag",
    "personal": "personal",
    "rag+personal": "rag + personal",
    "rag+gated": "rag + personal, gated",
    "stranger_memory": "*a stranger's memory*",
    "stranger_adapter": "*a stranger's adapter*",
}
# Each pair: what is compared, the arm that should be worse, the arm that should be better.
PAIRS: Final = (
    ("rag + personal against rag", "rag", "rag+personal"),
    ("the same, gated", "rag", "rag+gated"),
    ("own adapter against a stranger's", "stranger_adapter", "personal"),
    ("own memory against a stranger's", "stranger_memory", "rag"),
)
STYLES: Final = {
    "rag": ("#0b67a8", "-", "o"),
    "personal": ("#c2560a", "-", "s"),
    "rag+personal": ("#7b4ea3", "-", "D"),
    "rag+gated": ("#2b8a3e", "--", "^"),
    "stranger_memory": ("#0b67a8", ":", "x"),
    "stranger_adapter": ("#c2560a", ":", "+"),
}


def with_gated(people: Mapping[str, Mapping[str, Any]], sizes: Sequence[int]) -> dict[str, dict[str, float]]:
    """Everybody's losses, with the gated arm where the gate has spoken and both of its sides are there."""
    result = {}
    for name, person in people.items():
        losses = dict(person["losses"])
        for size in sizes:
            verdict, sides = person["gate"].get(str(size)), (f"rag@{size}", f"rag+personal@{size}")
            if verdict is not None and all(side in losses for side in sides):
                losses[f"rag+gated@{size}"] = losses[sides[1] if verdict["passed"] else sides[0]]
        result[name] = losses
    return result


def interval(people: Sequence[Losses], value: Callable[[Losses], float], *needed: str) -> dict[str, Any] | None:
    """Mean and 95 % interval of ``value`` over the people who have what is needed; None if those are fewer than two."""
    values = [value(losses) for losses in people if all(arm in losses for arm in needed)]
    if len(values) < 2:
        return None
    mean, low, high = mean_interval(values)
    return {"mean": mean, "low": low, "high": high, "people": len(values)}


def loss_and_gain(people: Sequence[Losses], arm: str) -> dict[str, Any]:
    """An arm's loss and its gain over ``none``."""
    return {
        "loss": interval(people, lambda losses: losses[arm], arm),
        "gain": interval(people, lambda losses: 1.0 - losses[arm] / losses["none"], arm, "none"),
    }


def difference(people: Sequence[Losses], worse: str, better: str) -> dict[str, Any] | None:
    """The paired difference of two arms, nats per token."""
    return interval(people, lambda losses: losses[worse] - losses[better], worse, better)


def summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the tables show, as numbers."""
    settings = document["settings"]
    sizes, largest = settings["sizes"], settings["sizes"][-1]
    people = list(with_gated(document["people"], sizes).values())
    by_size = {
        str(size): {
            "arms": {arm: loss_and_gain(people, f"{arm}@{size}") for arm in ARMS},
            "differences": {name: difference(people, f"{a}@{size}", f"{b}@{size}") for name, a, b in PAIRS},
            "gate": gate_counts(document["people"], str(size)),
        }
        for size in sizes
    }
    private = {}
    for epsilon in settings["epsilons"]:
        own, both = (f"{arm} epsilon {epsilon:g}@{largest}" for arm in ("personal", "rag+personal"))
        private[f"{epsilon:g}"] = {
            "personal": loss_and_gain(people, own),
            "rag+personal": loss_and_gain(people, both),
            "cost of privacy": difference(people, own, f"personal@{largest}"),
            "cost of privacy with memory": difference(people, both, f"rag+personal@{largest}"),
            "rag + personal against rag": difference(people, f"rag@{largest}", both),
        }
    alone = {arm: loss_and_gain(people, arm) for arm in ("none", "shared")}
    return {"alone": alone, "sizes": by_size, "private": private}


def gate_counts(people: Mapping[str, Mapping[str, Any]], size: str) -> dict[str, int]:
    """How many people's adapters the gate was asked about, and how many it let live."""
    verdicts = [person["gate"][size] for person in people.values() if size in person["gate"]]
    return {"asked": len(verdicts), "passed": sum(bool(verdict["passed"]) for verdict in verdicts)}


def tables(document: Mapping[str, Any], numbers: Mapping[str, Any]) -> str:
    """The summary in Markdown."""
    sizes, everybody = list(numbers["sizes"]), len(document["people"])
    wide = "|".join("---" for _ in range(len(sizes) + 1))
    lines = [f"| loss, nats per token | {' | '.join(f'{size} texts' for size in sizes)} |", f"|{wide}|"]
    for arm, row in numbers["alone"].items():
        lines.append(f"| {NAMES[arm]} | {_loss(row, everybody)} |" + " |" * (len(sizes) - 1))
    for arm in ARMS:
        cells = [_loss(numbers["sizes"][size]["arms"][arm], everybody) for size in sizes]
        lines.append(f"| {NAMES[arm]} | {' | '.join(cells)} |")
    lines += ["", f"| gain, nats per token (paired) | {' | '.join(f'{size} texts' for size in sizes)} |", f"|{wide}|"]
    for name, _, _ in PAIRS:
        cells = [_nats(numbers["sizes"][size]["differences"][name]) for size in sizes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    verdicts = [numbers["sizes"][size]["gate"] for size in sizes]
    lines.append(
        f"| adapters that the gate let live | {' | '.join('{passed} of {asked}'.format(**v) for v in verdicts)} |"
    )
    lines += ["", f"| {sizes[-1]} texts | personal | rag + personal | cost of privacy | with memory | against rag |"]
    lines.append("|---|---|---|---|---|---|")
    without = numbers["sizes"][sizes[-1]]
    against_rag = _nats(without["differences"][PAIRS[0][0]])
    arms = [_loss(without["arms"][arm], everybody) for arm in ("personal", "rag+personal")]
    lines.append(f"| without privacy | {' | '.join(arms)} | | | {against_rag} |")
    for epsilon, row in numbers["private"].items():
        arms = [_loss(row[arm], everybody) for arm in ("personal", "rag+personal")]
        costs = [
            _nats(row[name])
            for name in ("cost of privacy", "cost of privacy with memory", "rag + personal against rag")
        ]
        lines.append(f"| epsilon {epsilon} per text | {' | '.join([*arms, *costs])} |")
    return "\n".join(lines) + "\n"


def _loss(row: Mapping[str, Any], everybody: int) -> str:
    if row["loss"] is None:
        return ""
    loss, gain = row["loss"], row["gain"]
    text = f"{loss['mean']:.3f}"
    if gain is not None and gain["mean"]:
        text += f" ({100 * gain['mean']:.1f} %: {100 * gain['low']:.1f} to {100 * gain['high']:.1f})"
    return text if loss["people"] == everybody else f"{text}, {loss['people']} people"


def _nats(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}], {row['people']} people"


def draw(document: Mapping[str, Any], numbers: Mapping[str, Any], path: Path) -> None:
    """Gain against history, and on the right what an adapter adds to the memory; writes the PNG."""
    figure = Figure(figsize=(10.6, 4.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    sizes = list(numbers["sizes"])
    for number, (arm, (colour, line, marker)) in enumerate(STYLES.items()):
        cells = [numbers["sizes"][size]["arms"][arm]["gain"] for size in sizes]
        counts = {cell["people"] for cell in cells if cell is not None} - {len(document["people"])}
        label = NAMES[arm].strip("*") + "".join(f" ({count} people)" for count in sorted(counts))
        _curve(left, cells, 0.05 * (number - 2.5), 100.0, colour, line, marker, label)
    if (shared := numbers["alone"]["shared"]["gain"]) is not None:
        left.axhline(100 * shared["mean"], color="#5b6472", linewidth=1, linestyle="--", label="shared")
    pairs = zip(PAIRS, ("#7b4ea3", "#2b8a3e", "#c2560a"), "D^s", strict=False)
    for number, ((name, _, _), colour, marker) in enumerate(pairs):
        cells = [numbers["sizes"][size]["differences"][name] for size in sizes]
        _curve(right, cells, 0.06 * (number - 1), 1.0, colour, "-", marker, name)
    for axes, title in ((left, "loss lowered by, %"), (right, "paired gain, nats per token")):
        axes.axhline(0.0, color="#1c2330", linewidth=0.8)
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_xlim(-0.3, len(sizes) - 0.7)
        axes.set_xlabel("texts that the device holds")
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="y", color="#e3e7ec")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, loc="upper left")
            axes.margins(y=0.2)
    source, people = document["settings"]["split"]["source"], len(document["people"])
    figure.suptitle(f"{source}, {people} people; bars: 95 % intervals over people", fontsize=10)
    figure.savefig(path)


def _curve(
    axes: Any, cells: Sequence[Any], aside: float, unit: float, colour: str, line: str, marker: str, label: str
) -> None:
    shown = [(place + aside, cell) for place, cell in enumerate(cells) if cell is not None]
    if not shown:
        return
    places = [place for place, _ in shown]
    axes.plot(
        places, [unit * cell["mean"] for _, cell in shown], line, color=colour, marker=marker, label=label, markersize=5
    )
    lows, highs = ([unit * cell[end] for _, cell in shown] for end in ("low", "high"))
    axes.vlines(places, lows, highs, colour, linewidth=1)


def write_tables(out: Path) -> str:
    """Write summary.json, tables.md and history.png of the run in ``out``; returns the tables."""
    document = read_run(out)
    numbers = summary(document)
    text = tables(document, numbers)
    (out / "summary.json").write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    (out / "tables.md").write_text(text, "utf-8")
    draw(document, numbers, out / "history.png")
    return text


@one_line_errors
def main(
    out: Annotated[Path, typer.Argument(help="A folder of simulations.studies.history.study, also of one at work.")],
) -> None:
    """Write the tables of what there is so far."""
    typer.echo(write_tables(out))


if __name__ == "__main__":
    as_command(main)
