"""What memory and training are worth to a person, by how much history their device holds.

    python -m simulations.studies.history.study --source blogs --people 60 --out DIR

Everybody is judged on the same held-out texts at every size of history (their newest 5, 20, 60 texts), by llama.cpp on
the file that serves, in nats per token:

    none                         the model alone
    rag                          with what the device's memory recalls for the request
    shared                       with a fleet's adapter, trained by other people under user-level privacy
    personal, rag + personal     with an adapter trained on the device's own texts
    rag + gated                  the same where the gate lets the adapter live, else rag
    stranger's memory, stranger's adapter   those of the person before, with as much history (controls)
    at the largest size, personal and rag + personal trained with example-level DP-SGD

The training is the product's: the newest quarter of a history is kept for the gate, an adapter is only made from
``MINIMUM_TEXTS`` texts on (below, all texts are trained on here and the gate refuses). Every result is appended to
``DIR/results.jsonl`` as it comes; a run that was killed goes on where it stopped, and rows of other settings or of
another frame are left alone. `simulations.studies.history.tables` shows what there is at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from client.device_profile import MINIMUM_TEXTS
from edge_runtime.commands.support import one_line_errors
from edge_runtime.device import SharedEmbedder
from edge_runtime.memory.memory import TextEmbedder
from protocol.errors import PenchantError
from protocol.frames import Vector
from simulations.datasets.writing import data_folder
from simulations.experiments.shared_fleet import SharedAdapter, SharedSettings, describe, shared_adapter
from simulations.people import Message, Person
from simulations.studies.history.recipe import Recipe, gate_verdict, open_workshop, personal_space, train_person
from simulations.studies.history.tables import write_tables
from simulations.studies.personal_fleet import Groups, HistorySplit, Workshop, device_of, load_groups
from simulations.studies.rows import HEADING, append_row, kind_of, read_rows
from simulations.study_command import as_command

KINDS: Final = ("memory", "shared", "personal", "gate", "private")  # of the parts of the study
BLOCK: Final = 20  # people


@dataclass(frozen=True)
class StudySettings:
    """``sizes`` of history, smallest first; ``control_sizes``: those at which strangers are asked, too. ``epsilons`` of
    private training, at the largest size. The gate is asked for the first ``gate_people``, and the first
    ``private_people`` train privately: both take long."""

    split: HistorySplit
    recipe: Recipe = field(default_factory=Recipe)
    shared: SharedSettings = field(default_factory=SharedSettings)
    sizes: tuple[int, ...] = (5, 20, 60)
    control_sizes: tuple[int, ...] = (20, 60)
    epsilons: tuple[float, ...] = (8.0, 2.0)
    private_people: int = 60
    gate_people: int = 60

    def __post_init__(self) -> None:
        if list(self.sizes) != sorted(set(self.sizes)) or self.sizes[-1] > self.split.history or self.sizes[0] < 1:
            raise PenchantError("sizes of history go from small to large, up to what people have")


class Study:
    """Parts of the study for one person after another."""

    def __init__(
        self,
        settings: StudySettings,
        people: Sequence[Person],
        shop: Workshop,
        shared: SharedAdapter,
        out: Path,
        embedder: TextEmbedder,
    ) -> None:
        self.settings, self.people, self.shop, self.shared = settings, people, shop, shared
        self._out, self._embedder = out, embedder
        self.space = personal_space(shop, None)
        self._shared_bytes = shop.adapter(shared.theta, shared.frame)
        common = repr((settings.split, settings.sizes, settings.control_sizes, shop.model.sha256))
        training = common + repr((settings.recipe, self.space.digest, shop.frame.digest))
        self._trained = out / "trained" / _digest(training)
        self.of = {
            "memory": _digest(common),
            "shared": _digest(common + repr(self._shared_bytes)),
            "personal": _digest(training),
            "gate": _digest(training + "gate"),
            "private": _digest(training + repr(settings.epsilons)),
        }

    def key(self, part: str, number: int) -> tuple[str, str, str]:
        """What identifies the row of a part and a person: part, person, and the settings that it depends on."""
        return part, self.people[number].id, self.of[kind_of(part)]

    def compute(self, part: str, number: int) -> dict[str, Any]:
        """The row of one part (``personal@20``: of one size) for one person."""
        kind, _, size = part.partition("@")
        if kind == "personal":
            return self.personal_row(number, int(size))
        rows = {
            "memory": self.memory_row,
            "shared": self.shared_row,
            "gate": self.gate_row,
            "private": self.private_row,
        }
        return rows[kind](number)

    def memory_row(self, number: int) -> dict[str, Any]:
        """The model alone, and with the own and a stranger's memory of every size."""
        person, split = self.people[number], self.settings.split
        losses = {"none": self.shop.loss(self.shop.texts(person, split, None), None)}
        stranger, settings = self.people[number - 1], self.settings
        cases = (("rag", person, settings.sizes), ("stranger_memory", stranger, settings.control_sizes))
        for name, owner, sizes in cases:
            for size in sizes:
                with device_of(newest(owner, size), self._embedder) as device:
                    losses[f"{name}@{size}"] = self.shop.loss(self.shop.texts(person, split, device), None)
        return {"losses": losses}

    def shared_row(self, number: int) -> dict[str, Any]:
        """The fleet's adapter."""
        texts = self.shop.texts(self.people[number], self.settings.split, None)
        return {"losses": {"shared": self.shop.loss(texts, self._shared_bytes)}}

    def personal_row(self, number: int, size: int) -> dict[str, Any]:
        """The own adapter of one size, alone and with the own memory; and a stranger's adapter."""
        person, split = self.people[number], self.settings.split
        plain = self.shop.texts(person, split, None)
        theta, seconds = self.theta(number, size)
        adapter = self.shop.adapter(theta, self.space)
        losses = {f"personal@{size}": self.shop.loss(plain, adapter)}
        with device_of(newest(person, size), self._embedder) as device:
            losses[f"rag+personal@{size}"] = self.shop.loss(self.shop.texts(person, split, device), adapter)
        if size in self.settings.control_sizes:
            stranger = self.shop.adapter(self.theta(number - 1, size)[0], self.space)
            losses[f"stranger_adapter@{size}"] = self.shop.loss(plain, stranger)
        return {"losses": losses, "training_seconds": {str(size): seconds}}

    def gate_row(self, number: int) -> dict[str, Any]:
        """What the gate says to every size's adapter, on the newest quarter of the history."""
        verdicts: dict[str, Any] = {}
        for size in self.settings.sizes:
            if size < MINIMUM_TEXTS:
                verdicts[str(size)] = {"passed": False, "texts": 0}
                continue
            adapter = self.shop.adapter(self.theta(number, size)[0], self.space)
            with device_of(newest(self.people[number], size), self._embedder) as device:
                verdicts[str(size)] = gate_verdict(self.shop, device, adapter)
        return {"gate": verdicts}

    def private_row(self, number: int) -> dict[str, Any]:
        """The largest size trained privately, alone and with the own memory."""
        person, size, split = self.people[number], self.settings.sizes[-1], self.settings.split
        plain = self.shop.texts(person, split, None)
        losses = {}
        with device_of(newest(person, size), self._embedder) as device:
            with_memory = self.shop.texts(person, split, device)
            for epsilon in self.settings.epsilons:
                adapter = self.shop.adapter(self.theta(number, size, epsilon)[0], self.shop.frame)
                losses[f"personal epsilon {epsilon:g}@{size}"] = self.shop.loss(plain, adapter)
                losses[f"rag+personal epsilon {epsilon:g}@{size}"] = self.shop.loss(with_memory, adapter)
        return {"losses": losses}

    def theta(self, number: int, size: int, epsilon: float | None = None) -> tuple[Vector, float]:
        """The person's trained coordinates and the seconds that it took, kept in a file."""
        person = self.people[number]
        kind = f"{size}" if epsilon is None else f"{size}-epsilon-{epsilon:g}"
        file = self._trained / f"{person.id}-{kind}.npz"
        if not file.is_file():
            started = time.perf_counter()
            with device_of(newest(person, size), self._embedder) as device:
                theta = train_person(self.shop, device, self.settings.recipe, epsilon=epsilon)
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file.with_suffix(".part.npz"), theta=theta, seconds=time.perf_counter() - started)
            file.with_suffix(".part.npz").replace(file)
        with np.load(file) as kept:
            return kept["theta"], float(kept["seconds"])


def newest(person: Person, size: int) -> tuple[Message, ...]:
    """The newest ``size`` texts that a person's device holds."""
    return person.train_messages[-size:]


def plan(settings: StudySettings) -> list[tuple[str, int]]:
    """(part, number of the person) in the order of work: ``BLOCK`` people after the other, so that a run that is ended
    early has everything of the first of them; sizes that the product does not train on come last."""
    sizes = sorted(settings.sizes, reverse=True)
    trained, untrained = ([size for size in sizes if (size >= MINIMUM_TEXTS) == wanted] for wanted in (True, False))
    units = []
    for first in range(0, settings.split.judged, BLOCK):
        people = range(first, min(first + BLOCK, settings.split.judged))
        main = ["memory", "shared", *(f"personal@{size}" for size in trained)]
        units += [(part, number) for number in people for part in main]
        units += [("gate", number) for number in people if number < settings.gate_people]
        units += [("private", number) for number in people if number < settings.private_people]
    return units + [(f"personal@{size}", number) for size in untrained for number in range(settings.split.judged)]


def run(study: Study, kinds: Sequence[str], out: Path, tell: Callable[[str], None]) -> None:
    """Compute the rows that are missing and append each to the results. Several processes may do so side by side."""

    def missing(units: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        done = {(row["part"], row["person"], row["of"]) for row in read_rows(out)}
        return [unit for unit in units if study.key(*unit) not in done]

    taken: dict[str, list[float]] = {}
    left = missing([unit for unit in plan(study.settings) if kind_of(unit[0]) in kinds])
    while left:
        part, number = left[0]
        started = time.perf_counter()
        row = study.compute(part, number)
        seconds = time.perf_counter() - started
        name, person, of = study.key(part, number)
        append_row(out, {"part": name, "person": person, "of": of, "seconds": seconds, **row})
        left = missing(left)
        taken.setdefault(part, []).append(seconds)
        minutes = sum(float(np.mean(taken.get(later, [seconds]))) for later, _ in left) / 60
        tell(f"{part} {number + 1}/{study.settings.split.judged}: {seconds:.0f} s, {minutes:.0f} min left")


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def heading(study: Study, groups: Groups) -> dict[str, Any]:
    """What the tables need to know of a run besides its rows; ``of`` names the rows that belong to it, by kind."""
    return {
        "settings": asdict(study.settings),
        "order": [person.id for person in study.people],
        "candidates": groups.candidates,
        "model": {"name": study.shop.model.name, "sha256": study.shop.model.sha256},
        "frame": {"sha256": study.shop.frame.digest, "numbers": study.shop.frame.dimension},
        "shared": describe(study.settings.shared, study.shared),
        "of": study.of,
    }


@one_line_errors
def main(
    source: Annotated[str, typer.Option(help="blogs or novels; PENCHANT_DATA names the folder that holds them.")],
    out: Annotated[Path, typer.Option(help="Folder for the results, new or not.")],
    people: Annotated[int, typer.Option(min=2, help="How many are judged.")] = HistorySplit.judged,
    part: Annotated[list[str] | None, typer.Option(help=f"Only these of {', '.join(KINDS)}.")] = None,
    gate_people: Annotated[int, typer.Option(min=0, help="For how many the gate is asked.")] = HistorySplit.judged,
    private_people: Annotated[int, typer.Option(min=0, help="How many train privately.")] = HistorySplit.judged,
    seed: Annotated[int, typer.Option(help="Chooses the people.")] = 0,
) -> None:
    """Run the study, or what is missing of it, and write OUT/summary.json, tables.md and history.png."""
    if unknown := sorted(set(part or KINDS) - set(KINDS)):
        raise PenchantError(f"there is no part {unknown[0]!r}: take some of {', '.join(KINDS)}")
    out.mkdir(parents=True, exist_ok=True)
    split = HistorySplit(source, judged=people, seed=seed)
    settings = StudySettings(split, private_people=min(people, private_people), gate_people=min(people, gate_people))

    def tell(line: str) -> None:
        typer.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)

    groups = load_groups(data_folder(), split)
    tell(f"{len(groups.judged)} people of {groups.candidates} with {split.history} texts, fleet of {len(groups.fleet)}")
    fleet = [*groups.fleet, *groups.tuning]
    shared = shared_adapter(fleet, settings.shared, out / "shared.cbor", lambda done: tell(f"fleet {done:.0%}"))
    with ExitStack() as stack:
        shop = stack.enter_context(open_workshop(out / "frame.cbor"))
        study = Study(settings, groups.judged, shop, shared, out, SharedEmbedder())
        (out / HEADING).write_text(json.dumps(heading(study, groups), indent=1) + "\n", "utf-8")
        run(study, part or KINDS, out, tell)
    typer.echo(write_tables(out))


if __name__ == "__main__":
    as_command(main)
