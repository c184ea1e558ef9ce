"""What people who change are still taken for (AI PERSONA: a profile that keeps up), in reward space and in memory.

    python -m simulations.studies.drift.study --out DIR    (PENCHANT_DATA: the folder that holds ukpconvarg/)

1. **Taste** (`fleet.py`): errors over choices of every way to fit weights, each seed another fleet and other people. Of
   windows and carried priors the best after the change is chosen on every second person and reported on the others.
2. **Facts** (`memory.py`): wrong and stale answers over sessions.

Intervals are 95 % over people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from edge_runtime.commands.support import one_line_errors
from edge_runtime.device import SharedEmbedder
from simulations.datasets.writing import data_folder
from simulations.statistics import mean_interval
from simulations.studies.drift.fleet import METHODS, DriftRecipe, follow, make_world
from simulations.studies.drift.memory import CHANGE, SESSIONS, WAYS, draw_life, errors_of
from simulations.studies.run import StudyRun, draw_curves, markdown, shown
from simulations.study_command import as_command

Array = NDArray[np.float64]
_FITS = 3  # that a part of the table is the mean of


def parts_of(recipe: DriftRecipe) -> dict[str, slice]:
    """The fits of the table's columns: the last three before the change, the first three after it, the last three."""
    change = recipe.change // recipe.step
    return {
        "before": slice(change - _FITS, change),
        "just after": slice(change, change + _FITS),
        "at the end": slice(-_FITS, None),
    }


def taste_summary(errors: Mapping[str, Array], recipe: DriftRecipe) -> dict[str, Any]:
    """``errors``: method -> (people, fits). "chosen": the best window and the best carried prior after the change on
    people 0, 2, ...; all figures are of people 1, 3, ...; method -> part -> interval, and the curve."""
    after = slice(recipe.change // recipe.step, None)
    chosen = {
        kind: min(
            (method for method in errors if method.startswith(kind)),
            key=lambda method: float(np.nanmean(errors[method][::2, after])),
        )
        for kind in ("window", "carry")
    }
    report: dict[str, Any] = {"chosen": chosen, "methods": {}, "people": len(errors["all"][1::2])}
    for method, values in errors.items():
        own = values[1::2]
        own = own[~np.isnan(own).any(axis=1)]
        report["methods"][method] = {
            "parts": {
                name: mean_interval(own[:, part].mean(axis=1).tolist()) for name, part in parts_of(recipe).items()
            },
            "curve": [mean_interval(column.tolist()) for column in own.T],
        }
    return report


def facts_summary(lives: Sequence[Mapping[str, Sequence[Sequence[float]]]]) -> dict[str, Any]:
    """Way -> session -> {"wrong", "stale"}: intervals over people."""
    return {
        way: [
            {
                kind: mean_interval([life[way][session][place] for life in lives])
                for place, kind in enumerate(("wrong", "stale"))
            }
            for session in range(SESSIONS)
        ]
        for way in WAYS
    }


def table(taste: Mapping[str, Any], facts: Mapping[str, Any], recipe: DriftRecipe) -> str:
    """Errors of taste, then stale facts."""
    parts = list(parts_of(recipe))
    rows = [
        [method + (" (chosen)" if method in taste["chosen"].values() else "")]
        + [shown(found["parts"][part], 100) for part in parts]
        for method, found in taste["methods"].items()
    ]
    shown_sessions = (CHANGE - 1, CHANGE, CHANGE + 3, SESSIONS - 1)
    lines = [
        [
            f"{way}, {how}",
            *(shown(sessions[session]["stale"], 100) for session in shown_sessions),
            shown(sessions[-1]["wrong"], 100),
        ]
        for how, ways in facts.items()
        for way, sessions in ways.items()
    ]
    return (
        f"Wrong by the present taste, % of disputed pairs; {taste['people']} people, change after {recipe.change} "
        f"choices\n\n{markdown(['weights', *parts], rows)}\n"
        f"Stale answers, % of facts stated; change before session {CHANGE}\n\n"
        + markdown(["answered by", *(f"session {session}" for session in shown_sessions), "wrong at the end"], lines)
    )


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for the rows, drift.json, drift.md and pictures, new or not.")],
    seeds: Annotated[int, typer.Option(min=1, help="Fleets, each with people of its own.")] = 3,
    people: Annotated[int, typer.Option(min=4, help="People who change, of each fleet.")] = 60,
    lives: Annotated[int, typer.Option(min=2, help="People whose facts change.")] = 40,
) -> None:
    """Follow people whose tastes and facts change at a known time."""
    recipe = DriftRecipe(people=people)
    run = StudyRun.open(out, asdict(recipe))
    for seed in range(seeds):
        if f"taste/{seed}" not in run.done:
            found = follow(make_world(data_folder(), recipe, seed), recipe)
            run.keep(f"taste/{seed}", {"errors": {method: values.tolist() for method, values in found.items()}})
            typer.echo(f"taste: {seed + 1} of {seeds}", err=True)
    embedder = SharedEmbedder()
    facts: dict[str, list[dict[str, Any]]] = {"plainly": [], "freely": []}
    for how, made in facts.items():
        for seed in range(lives):
            key = f"facts/{how}/{seed}"
            if key not in run.done:
                run.keep(key, {"ways": errors_of(draw_life(seed, freely=how == "freely"), embedder)})
            made.append(run.done[key]["ways"])
        typer.echo(f"facts, {how}: done", err=True)
    errors = {
        method: np.concatenate([np.array(run.done[f"taste/{seed}"]["errors"][method]) for seed in range(seeds)])
        for method in METHODS
    }
    taste, told = taste_summary(errors, recipe), {how: facts_summary(made) for how, made in facts.items()}
    run.write("drift", {"recipe": asdict(recipe), "taste": taste, "facts": told}, table(taste, told, recipe))
    seen = range(recipe.step, recipe.choices + 1, recipe.step)
    drawn = dict.fromkeys(["frozen", "all", "window 100", *taste["chosen"].values(), "stranger"])
    draw_curves(
        out / "drift-taste.png",
        {name: list(zip(map(float, seen), taste["methods"][name]["curve"], strict=True)) for name in drawn},
        across="choices seen", up="wrong by the present taste", level=(0.5, "chance"), change=float(recipe.change),
    )  # fmt: skip
    facts_drawn = {f"{way}, plainly": told["plainly"][way] for way in WAYS}
    facts_drawn |= {f"{way}, freely": told["freely"][way] for way in ("memory", "memory, 3")}
    draw_curves(
        out / "drift-facts.png",
        {
            name: [(float(session), cell["stale"]) for session, cell in enumerate(sessions)]
            for name, sessions in facts_drawn.items()
        },
        across="session", up="stale answers", change=CHANGE - 0.5,
    )  # fmt: skip
    typer.echo(table(taste, told, recipe))


if __name__ == "__main__":
    as_command(main)
