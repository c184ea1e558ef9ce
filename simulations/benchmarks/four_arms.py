"""The four arms of personalisation over the field's benchmarks: none, rag, peft, rag + peft.

    python -m simulations.benchmarks.four_arms blogs novels --people 20 --out DIR

    none            the model alone
    rag             with what the device's memory recalls for the query, in the product's prompts
    peft            with an adapter trained on the person's history
    rag + peft      both
    stranger's memory, stranger's adapter       rag and peft of the person before (controls)

The comparison is that of "Comparing Retrieval-Augmentation and Parameter-Efficient Fine-Tuning for Privacy-Preserving
Personalization of Large Language Models" (Salemi and Zamani 2024), which reports gains of 14.92 % (rag), 1.07 % (peft)
and 15.98 % (rag + peft) over none, means over the tasks of LaMP with a far larger model.

Every person is a line of ``DIR/SET/results.jsonl``, written when all their arms are done; adapters lie beside it. The
same command goes on where a run was killed; lines of other settings or of another model are left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from client.torch_model import TorchModel
from client.training import serving_model
from edge_runtime.commands.support import one_line_errors
from edge_runtime.device import SharedEmbedder
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.statements import Recalled
from edge_runtime.models.catalogue import read_model_shape, write_atomically
from protocol.errors import PenchantError
from simulations.benchmarks.form import Benchmark, Task
from simulations.benchmarks.four_arms_people import (
    CONTEXT_TOKENS,
    Opened,
    Outcome,
    Recipe,
    evidence_found,
    outcomes,
    recalled,
    train_personal,
)
from simulations.benchmarks.four_arms_tables import write_tables
from simulations.benchmarks.sets import SETS, load
from simulations.datasets.writing import data_folder
from simulations.studies.personal_fleet import device_of
from simulations.studies.rows import HEADING, append_row, read_rows
from simulations.study_command import as_command

PEOPLE: Final = 20
Notes = list[list[Recalled]]


class Study:
    """The arms of one benchmark for one person after another."""

    def __init__(self, opened: Opened, benchmark: Benchmark, recipe: Recipe, out: Path) -> None:
        if len(benchmark.tasks) < 2:
            raise PenchantError("the study needs two people or more: each is a stranger to the next")
        self.opened, self.benchmark, self.recipe, self.out = opened, benchmark, recipe, out
        self.of = _digest(repr((benchmark, recipe, opened.model.sha256)))
        self._adapters = out / "adapters" / self.of

    def row(self, number: int) -> dict[str, Any]:
        """The outcomes of every arm for one person, query by query."""
        started, task, stranger = time.perf_counter(), self.benchmark.tasks[number], self.benchmark.tasks[number - 1]
        adapter = self.adapter(number)
        none: Notes = [[] for _ in task.queries]
        own, other = self.notes(task, task), self.notes(stranger, task)
        arms = {
            "none": self.outcomes(task, none, None),
            "rag": self.outcomes(task, own, None),
            "peft": self.outcomes(task, none, adapter),
            "rag+peft": self.outcomes(task, own, adapter),
            "stranger_memory": self.outcomes(task, other, None),
            "stranger_adapter": self.outcomes(task, none, self.adapter(number - 1)),
        }
        for query, notes, found in zip(task.queries, own, arms["rag"], strict=True):
            if query.evidence:
                found["found"] = evidence_found(task, query, notes)
        return {
            "person": task.person,
            "of": self.of,
            "history": len(task.history),
            "arms": arms,
            "seconds": time.perf_counter() - started,
        }

    def outcomes(self, task: Task, notes: Notes, adapter: bytes | None) -> list[Outcome]:
        """One arm."""
        return outcomes(self.opened, self.benchmark, task, notes, adapter)

    def notes(self, owner: Task, asked: Task) -> Notes:
        """What the memory of ``owner`` recalls for the queries of ``asked``."""
        with device_of(owner.history, self.opened.embedder) as device:
            return [recalled(device, query, self.benchmark.serving) for query in asked.queries]

    def adapter(self, number: int) -> bytes:
        """A person's adapter, kept in a file."""
        task = self.benchmark.tasks[number]
        file = self._adapters / f"{_digest(task.person)}.gguf"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with device_of(task.history, self.opened.embedder) as device:
                write_atomically(file, train_personal(self.opened, device, self.recipe))
        return file.read_bytes()

    def heading(self) -> dict[str, Any]:
        """What the tables need to know of a run besides its rows."""
        return {
            "set": self.benchmark.name,
            "serving": self.benchmark.serving,
            "measure": self.benchmark.measure,
            "labels": self.benchmark.labels,
            "order": [task.person for task in self.benchmark.tasks],
            "recipe": asdict(self.recipe),
            "model": {"name": self.opened.model.name, "sha256": self.opened.model.sha256},
            "of": self.of,
        }


def run(study: Study, tell: Callable[[str], None]) -> None:
    """Compute the rows that are missing, and append each."""
    study.out.mkdir(parents=True, exist_ok=True)
    (study.out / HEADING).write_text(json.dumps(study.heading(), indent=1) + "\n", "utf-8")
    done = {row["person"] for row in read_rows(study.out) if row["of"] == study.of}
    left = [number for number, task in enumerate(study.benchmark.tasks) if task.person not in done]
    started = time.perf_counter()
    for place, number in enumerate(left, start=1):
        row = study.row(number)
        append_row(study.out, row)
        minutes = (time.perf_counter() - started) / place * (len(left) - place) / 60
        tell(f"{study.benchmark.name} {place}/{len(left)}: {row['seconds']:.0f} s, {minutes:.0f} min left")


@contextmanager
def opened_model() -> Iterator[Opened]:
    """The serving model, all its layers open to adapters; one thread each."""
    model = serving_model()
    torch.set_num_threads(1)
    torch_model = TorchModel.load(model.path, top_layers=read_model_shape(model.path).layers)
    with Engine.open(model, context_tokens=CONTEXT_TOKENS, threads=1) as engine:
        yield Opened(model, torch_model, engine, SharedEmbedder())


def tuned_on(benchmark: Benchmark) -> Benchmark:
    """The benchmark with the people on whom settings are chosen in place of those who are reported."""
    return replace(benchmark, tasks=benchmark.tuning, tuning=())


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


@one_line_errors
def main(
    sets: Annotated[list[str], typer.Argument(help=f"Some of {', '.join(SETS)}; PENCHANT_DATA holds them.")],
    out: Annotated[Path, typer.Option(help="Folder for the results, new or not: one folder in it for each set.")],
    people: Annotated[int, typer.Option(min=2, help="How many are reported, of each set.")] = PEOPLE,
    tuning: Annotated[bool, typer.Option("--tuning", help="The people on whom settings are chosen instead.")] = False,
    seed: Annotated[int, typer.Option(help="Chooses the people.")] = 0,
) -> None:
    """Run the study, or what is missing of it, and write OUT/four_arms.md, four_arms.json and four_arms.png."""

    def tell(line: str) -> None:
        typer.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)

    benchmarks = [load(name, data_folder(), people, seed) for name in sets]
    with ExitStack() as stack:
        opened = stack.enter_context(opened_model())
        for benchmark in benchmarks:
            run(Study(opened, tuned_on(benchmark) if tuning else benchmark, Recipe(), out / benchmark.name), tell)
    typer.echo(write_tables(out))


if __name__ == "__main__":
    as_command(main)
