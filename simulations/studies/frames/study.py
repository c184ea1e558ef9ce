"""What a frame is worth: gain against numbers trained, for frames, layers, ranks and ordinary LoRA.

    python -m simulations.studies.frames.study blogs novels --out DIR
    python -m simulations.studies.frames.study novels --out DIR --single 10

The texts of many people are one training set; the gain is what training takes off the loss of held-out texts of the
same people, each person counting the same (mean and 95 % interval over people, whole vocabulary, torch). ``--single``
trains one adapter for each of so many people instead. Methods at equal passes over the same batches; rates were chosen
on other people (``METHODS`` says which rates, docs which people). Bytes are those of the numbers trained as float16.

Rows are written as they come: a study that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from client.device_profile import ALL_KINDS, KINDS
from client.examples import Example, make_example, prepare_input, public_examples
from client.frame_builder import build_frame, leading_vectors, public_text
from client.torch_model import Batch, TorchModel
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.commands.support import one_line_errors
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile, find_model, write_atomically
from protocol.errors import PenchantError
from protocol.frames import Frame
from simulations.datasets.writing import Selection, data_folder, load_blogs, load_novels
from simulations.people import Message, Person
from simulations.statistics import mean_interval
from simulations.studies.frames.plot import draw_curve
from simulations.studies.frames.training import Passes, draw_factors, text_losses, train_frame, train_lora
from simulations.study_command import as_command

MAX_TOKENS = 112
POOLED = Selection(
    train_messages=8,
    test_messages=4,
    minimum_train_messages=8,
    minimum_test_messages=4,
    cue_words=8,
    max_words=60,
)
ALONE = Selection(
    train_messages=60,
    test_messages=12,
    minimum_train_messages=40,
    minimum_test_messages=4,
    cue_words=8,
    max_words=60,
)


@dataclass(frozen=True)
class Method:
    """One way to train an adapter: ``layers`` from the top, ``kinds`` of maps, ``rank`` and Adam's ``rate``.

    ``lora`` trains A and B, ``ffa`` B alone; frames from the public ``gradient`` or the SVD of the ``weights`` train R.
    """

    family: Literal["lora", "ffa", "gradient", "weights"]
    layers: int
    kinds: tuple[str, ...]
    rank: int
    rate: float

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.family} {self.layers}x{len(self.kinds)} r{self.rank}"


# The first is the reference of every share; the rest in the order in which they matter.
METHODS = (
    Method("lora", 30, ALL_KINDS, 8, 0.003),
    Method("gradient", 30, KINDS, 20, 0.03),
    Method("gradient", 30, KINDS, 16, 0.02),
    Method("gradient", 15, KINDS, 20, 0.03),
    Method("gradient", 8, KINDS, 20, 0.03),
    Method("gradient", 30, KINDS, 8, 0.03),
    Method("weights", 30, KINDS, 20, 0.03),
    Method("lora", 8, ALL_KINDS, 2, 0.003),
    Method("ffa", 30, ALL_KINDS, 8, 0.01),
    Method("gradient", 30, ALL_KINDS, 8, 0.02),
    Method("lora", 15, ALL_KINDS, 8, 0.003),
    Method("gradient", 30, KINDS, 4, 0.04),
)
SINGLE_METHODS = (METHODS[0], METHODS[1])
TRAINED_OF_EACH, HELD_OUT_OF_EACH = 3, 3  # texts, where many people are one training set


@dataclass(frozen=True)
class Texts:
    """Training and held-out examples of some people; ``owners`` says whose each held-out one is."""

    train: list[Example]
    held_out: list[Example]
    owners: list[str]


class Laboratory:
    """The model at several depths, its public frames, and what a method is measured by."""

    def __init__(self, model: ModelFile, passes: Passes) -> None:
        self.model, self.passes = model, passes
        self.engine = Engine.open(model, context_tokens=512, threads=1)
        self.public = prepare_input(public_examples(self.engine, public_text()))
        self._depth: TorchModel | None = None
        self._frames: dict[Method, Frame] = {}
        self._before: tuple[Texts, np.ndarray] | None = None

    def at_depth(self, layers: int) -> TorchModel:
        """The model with its top ``layers`` open; one at a time is kept."""
        if self._depth is None or self._depth.layer_count - self._depth.first_adapted != layers:
            self._depth = TorchModel.load(self.model.path, top_layers=layers)
        return self._depth

    def texts(self, people: Sequence[Person], train: int, held_out: int) -> Texts:
        """The newest ``train`` and the first ``held_out`` messages of each person, as the trainer sees them."""

        def examples(messages: Sequence[Message]) -> list[Example]:
            return [make_example(self.engine, plain_draft(message.cue), message.text) for message in messages]

        return Texts(
            [example for person in people for example in examples(person.train_messages[-train:])],
            [example for person in people for example in examples(person.test_messages[:held_out])],
            [person.id for person in people for _ in person.test_messages[:held_out]],
        )

    def frame(self, method: Method) -> Frame:
        """The frame of a method, built once."""
        if method not in self._frames:
            torch_model = self.at_depth(method.layers)
            self._frames[method] = (
                build_frame(torch_model, self.model.sha256, self.public, kinds=method.kinds, rank=method.rank)
                if method.family == "gradient"
                else weights_frame(torch_model, self.model.sha256, method.kinds, method.rank)
            )
        return self._frames[method]

    def measure(self, method: Method, texts: Texts) -> dict[str, Any]:
        """Train by a method and judge it: one row of the table."""
        torch_model = self.at_depth(method.layers)
        train, held_out = self._prepare(torch_model, texts.train), self._prepare(torch_model, texts.held_out)
        before = self.base_losses(texts, held_out)
        started = time.process_time()
        if method.family in ("lora", "ffa"):
            both = method.family == "lora"
            factors = draw_factors(torch_model, method.kinds, method.rank, seed=self.passes.seed, train_a=both)
            numbers = sum(t.numel() for pair in factors.values() for t in pair if t.requires_grad)
            after = train_lora(torch_model, train, held_out, factors, method.rate, self.passes).numpy()
        else:
            frame = self.frame(method)
            numbers = frame.dimension
            started = time.process_time()  # a frame is built once per release
            after = train_frame(torch_model, train, held_out, frame, method.rate, self.passes)[1].numpy()
        seconds = time.process_time() - started
        gains = person_gains(before, after, texts.owners)
        mean, low, high = mean_interval(list(gains.values()))
        return {
            "name": method.name,
            **asdict(method),
            "numbers": numbers,
            "bytes": 2 * numbers,
            "loss_before": float(before[:, 0].sum() / before[:, 1].sum()),
            "loss": float(after[:, 0].sum() / after[:, 1].sum()),
            "gain": mean,
            "gain_interval": [low, high],
            "gain_of_person": gains,
            "training_texts": len(train.targets),
            "training_tokens": int(train.lengths.sum()),
            "processor_seconds": seconds,
        }

    def base_losses(self, texts: Texts, held_out: Batch) -> np.ndarray:
        """The losses of held-out texts without adapter, (texts, 2); computed once, for they are the same at any depth.
        ``held_out`` is prepared for the model at its present depth."""
        if self._before is None or self._before[0] is not texts:
            assert self._depth is not None
            self._depth.set_frame(None)
            self._before = (texts, text_losses(self._depth, held_out).numpy())
        return self._before[1]

    @staticmethod
    def _prepare(torch_model: TorchModel, examples: Sequence[Example]) -> Batch:
        return torch_model.prepare(prepare_input(examples), max_tokens=MAX_TOKENS)


def weights_frame(torch_model: TorchModel, base_sha256: str, kinds: Sequence[str], rank: int) -> Frame:
    """The frame from the leading singular vectors of the weights themselves (PiSSA, arXiv 2404.02948; LoRA-XS)."""
    modules = torch_model.module_names(kinds)
    pairs = [leading_vectors(torch_model.linear(name).weight.float(), rank) for name in modules]
    left, right = tuple(u.numpy() for u, _ in pairs), tuple(v.numpy() for _, v in pairs)
    return Frame(base_sha256, rank, 1.0, modules, left, right)


def person_gains(before: np.ndarray, after: np.ndarray, owners: Sequence[str]) -> dict[str, float]:
    """Relative gain of each person, 1 - loss after / loss before, from (texts, 2): nats and tokens of each text."""
    gains = {}
    for person in dict.fromkeys(owners):
        rows = [row for row, owner in enumerate(owners) if owner == person]
        gains[person] = 1.0 - float(after[rows, 0].sum() / before[rows, 0].sum())
    return gains


def load_people(source: str, count: int, selection: Selection) -> list[Person]:
    """The first ``count`` people of a data set, in the order of its loader's seed 0."""
    loaders = {"blogs": load_blogs, "novels": load_novels}
    if source not in loaders:
        raise PenchantError(f"no data set {source!r}: choose blogs or novels")
    return loaders[source](data_folder(), people=count, selection=selection)


def run_study(
    laboratory: Laboratory,
    source: str,
    people: int,
    single: int,
    keep: Callable[[dict[str, Any]], None],
    have: set[str],
) -> None:
    """All rows of one data set that are not there yet; ``keep`` takes each as it comes."""
    if single:
        for person in load_people(source, single, ALONE):
            texts = laboratory.texts([person], ALONE.train_messages, ALONE.test_messages)
            for method in SINGLE_METHODS:
                if row_key(source, method.name, person.id) not in have:
                    keep({"source": source, "person": person.id, **laboratory.measure(method, texts)})
        return
    pooled = laboratory.texts(load_people(source, people, POOLED), TRAINED_OF_EACH, HELD_OUT_OF_EACH)
    for method in METHODS:
        if row_key(source, method.name, "") not in have:
            keep({"source": source, "person": "", **laboratory.measure(method, pooled)})


def row_key(source: str, name: str, person: str) -> str:
    """What makes a row the same as another."""
    return f"{source}/{name}/{person}"


@one_line_errors
def main(
    sources: Annotated[list[str], typer.Argument(help="Data sets: blogs, novels.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for frames.json and frames.png.")],
    people: Annotated[int, typer.Option("--people", help="People whose texts are one training set.")] = 32,
    single: Annotated[int, typer.Option("--single", help="Train so many people alone instead.")] = 0,
) -> None:
    """Measure gain against numbers trained; writes DIR/frames.json and DIR/frames.png."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "frames.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    have = {row_key(row["source"], row["name"], row["person"]) for row in rows}

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        write_atomically(file, json.dumps(rows, indent=1).encode())
        typer.echo(f"{row['source']} {row['person']} {row['name']}: {row['numbers']} numbers, gain {row['gain']:.2%}")

    laboratory = Laboratory(find_model(), Passes())
    for source in sources:
        run_study(laboratory, source, people, single, keep, have)
    write_atomically(out / "frames.png", draw_curve([row for row in rows if not row["person"]]))


if __name__ == "__main__":
    as_command(main)
