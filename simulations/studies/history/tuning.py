"""Which recipe of training serves best, on people who are not in the tables of `simulations.studies.history.study`.

    python -m simulations.studies.history.tuning --source blogs --people 4 --out DIR

Every recipe trains everybody's adapter on the same history; the held-out texts are scored by llama.cpp without and with
the device's memory. One line per person and recipe goes to ``DIR/tuning.jsonl`` as it comes; those that are there are
not made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from client.personal_plan import BATCH_SIZE
from edge_runtime.commands.support import one_line_errors
from edge_runtime.device import SharedEmbedder
from edge_runtime.memory.memory import TextEmbedder
from protocol.errors import PenchantError
from simulations.datasets.writing import data_folder
from simulations.people import Person
from simulations.statistics import mean_interval
from simulations.studies.history.recipe import Recipe, open_workshop, personal_space, train_person
from simulations.studies.personal_fleet import SINGLE_TEXTS, HistorySplit, Workshop, device_of, load_groups
from simulations.study_command import as_command

RESULTS: Final = "tuning.jsonl"
OBJECTIVES: Final = {"turns": BATCH_SIZE, "next_token": SINGLE_TEXTS, "grounded": SINGLE_TEXTS}  # and their batches


def recipe_of(name: str) -> Recipe:
    """The recipe that a name such as ``grounded 0.02`` or ``epsilon-8 0.1`` stands for: objective and learning rate."""
    try:
        kind, rate = name.split()
        if kind.startswith("epsilon-"):
            return replace(Recipe(), private_rate=float(rate))
        return Recipe(objective=kind, batch_size=OBJECTIVES[kind], learning_rate=float(rate))  # type: ignore[arg-type]
    except (ValueError, KeyError):
        raise PenchantError(f"a recipe is 'OBJECTIVE RATE', with one of {', '.join(OBJECTIVES)} or epsilon-E") from None


def try_recipe(
    shop: Workshop, person: Person, split: HistorySplit, size: int, name: str, embedder: TextEmbedder
) -> dict[str, Any]:
    """Losses of one person under one recipe, and the seconds of its training."""
    epsilon = float(name.split()[0].removeprefix("epsilon-")) if name.startswith("epsilon-") else None
    plain = shop.texts(person, split, None)
    with device_of(person.train_messages[-size:], embedder) as device:
        noted = shop.texts(person, split, device)
        started = time.perf_counter()
        adapter = shop.adapter(
            train_person(shop, device, recipe_of(name), epsilon=epsilon), personal_space(shop, epsilon)
        )
        seconds = time.perf_counter() - started
    losses = {"none": shop.loss(plain, None), "rag": shop.loss(noted, None)}
    losses |= {"personal": shop.loss(plain, adapter), "rag+personal": shop.loss(noted, adapter)}
    return {"losses": losses, "seconds": seconds}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean paired gains (nats per token) and seconds of each recipe."""
    lines = ["| recipe | personal against none | rag + personal against rag | seconds |", "|---|---|---|---|"]
    for name in dict.fromkeys(f"{row['size']} texts, {row['recipe']}" for row in rows):
        own = [row for row in rows if f"{row['size']} texts, {row['recipe']}" == name]
        cells = []
        for worse, better in (("none", "personal"), ("rag", "rag+personal")):
            mean, low, high = mean_interval([row["losses"][worse] - row["losses"][better] for row in own])
            cells.append(f"{mean:.4f} [{low:.4f}, {high:.4f}]")
        cells.append(f"{sum(row['seconds'] for row in own) / len(own):.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@one_line_errors
def main(
    source: Annotated[str, typer.Option(help="blogs or novels; PENCHANT_DATA names the folder that holds them.")],
    out: Annotated[Path, typer.Option(help="Folder for the results, new or not.")],
    recipe: Annotated[list[str], typer.Option(help="'OBJECTIVE RATE', again for each.")],
    people: Annotated[int, typer.Option(min=2, help="How many of the people kept for this.")] = HistorySplit.tuning,
    size: Annotated[int, typer.Option(min=2, help="Texts of history.")] = HistorySplit.history,
) -> None:
    """Try recipes, and print what each is worth."""
    out.mkdir(parents=True, exist_ok=True)
    split = HistorySplit(source)
    chosen = load_groups(data_folder(), split).tuning[:people]
    file = out / RESULTS
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    embedder = SharedEmbedder()
    with open_workshop(out / "frame.cbor") as shop:
        done = {(row["frame"], row["person"], row["size"], row["recipe"]) for row in rows}
        for person in chosen:
            for name in recipe:
                key = (shop.frame.digest, person.id, size, name)
                if key in done:
                    continue
                row = dict(zip(("frame", "person", "size", "recipe"), key, strict=True))
                row |= try_recipe(shop, person, split, size, name, embedder)
                rows.append(row)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({**row, "settings": asdict(recipe_of(name))}) + "\n")
                typer.echo(f"{time.strftime('%H:%M:%S')} {person.id} {name}: {row}", err=True)
        shown = [row for row in rows if row["frame"] == shop.frame.digest]
    typer.echo(table(shown))


if __name__ == "__main__":
    as_command(main)
