"""Ten increments over a person's year: what the first taught, after each of the others.

    python -m simulations.studies.lifelong.study --out DIR             the curves; what is done is not done again
    python -m simulations.studies.lifelong.study --out DIR --tune      strengths and windows, on other people

Every arm is ordinary LoRA and sees the same texts in the same order (``client.lifelong`` chooses what comes back):

    none         no adapter
    naive        each increment goes on from the last, on its own texts alone
    replay       with both windows, of one text each
    anchoring    with the anchor instead: what `penchant train` does
    scratch      from nothing on everything so far: what there is to reach, and what it costs

After increment k: loss of the texts that the first increment taught (``taught``: recall), of words held out next to
them (``first``), of words held out next to the texts of increment k (``current``), and of texts after the last one
(``future``). Nats per token over the whole vocabulary, in torch; ``gguf`` holds the end points of some of the people by
llama.cpp on the file that serves. Cost: texts that gave a gradient, each time they did.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer

from client.examples import prepare_input
from client.learning_rate import Scheduled
from client.lifelong import LifelongRecord, LifelongSettings, anchored, next_increment, record_after
from client.local_training import evaluate_coordinates
from client.lora_layout import AdapterSpace
from client.output_words import draw_of
from client.personal_plan import BLIND_EPOCHS, LORA_LEARNING_RATE
from client.torch_model import Batch, TorchModel, as_theta
from client.training_run import generator_of
from edge_runtime.commands.support import one_line_errors
from edge_runtime.models.catalogue import find_model, read_model_shape
from protocol.errors import PenchantError
from protocol.frames import Vector
from simulations.datasets.writing import data_folder
from simulations.statistics import mean_interval
from simulations.studies.lifelong.people import Year, YearSplit, load_years
from simulations.studies.lifelong.plot import draw
from simulations.studies.personal_fleet import SINGLE_TEXTS, Workshop, run_work
from simulations.study_command import as_command

SOURCES: Final = ("novels", "blogs")
MEASURED: Final = (1, 4, 10)  # increments after which losses are taken
SCRATCH_MEASURED: Final = (1, 4, 10)
REPORTED, TUNED = YearSplit(), YearSplit(increments=4)
MAX_TOKENS: Final = 128


@dataclass(frozen=True)
class Recipe:
    """How every increment is trained: passes of Adam over its texts, in batches; as `penchant train` does with so few
    new texts that none are kept out to stop by."""

    epochs: int = BLIND_EPOCHS
    batch_size: int = SINGLE_TEXTS
    learning_rate: float = LORA_LEARNING_RATE


NOTHING: Final = LifelongSettings(recent=0, replayed=0, strength=0.0)
ARMS: Final = {
    "naive": NOTHING,
    "replay": replace(NOTHING, recent=1, replayed=1),
    "anchoring": LifelongSettings(),
}
# What ``--tune`` compares: windows of three sizes, anchors of four strengths, and both.
CANDIDATES: Final = {
    "naive": NOTHING,
    "windows 1+1": LifelongSettings(recent=1, replayed=1, strength=0.0),
    "windows 2+2": LifelongSettings(recent=2, replayed=2, strength=0.0),
    "windows 2+8": LifelongSettings(recent=2, replayed=8, strength=0.0),
    "anchor 0.01": replace(NOTHING, strength=0.01),
    "anchor 0.1": replace(NOTHING, strength=0.1),
    "anchor 0.3": replace(NOTHING, strength=0.3),
    "anchor 1": replace(NOTHING, strength=1.0),
    "windows 1+1, anchor 0.3": LifelongSettings(recent=1, replayed=1, strength=0.3),
}


class RowsWork:
    """``client.training_work.TextWork`` on rows of a batch that was prepared once, as many trainings share it."""

    patience = 1

    def __init__(
        self, model: TorchModel, space: AdapterSpace, batch: Batch, rows: Sequence[int], recipe: Recipe
    ) -> None:
        self._model, self._space, self._batch, self._rows = model, space, batch, np.array(rows)
        self._size, self._per_pass = recipe.batch_size, -(-len(rows) // recipe.batch_size)
        self.steps, self.learning_rate = recipe.epochs * self._per_pass, recipe.learning_rate

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``: of the mean over the target tokens of one batch."""
        passed, number = divmod(step, self._per_pass)
        order = self._rows[generator_of(seed, passed).permutation(len(self._rows))]
        point = as_theta(theta).requires_grad_(True)
        self._model.set_frame(self._space)
        self._model.set_coordinates(self._space, point)
        chosen = self._batch.rows(torch.from_numpy(np.array_split(order, self._per_pass)[number]))
        losses, tokens = self._model.losses(chosen, draw=draw_of(theta))
        (losses.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
        self._model.set_frame(None)
        if point.grad is None:
            raise PenchantError("the loss does not depend on the adapter; it does not fit this model")
        gradient: Vector = point.grad[0].numpy()
        return gradient

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``: never."""
        return None


class Course:
    """The trainings of one person: row n of ``batch`` is the n-th text that is taught."""

    def __init__(self, shop: Workshop, year: Year, split: YearSplit, recipe: Recipe) -> None:
        self._model, self._space, self._split, self._recipe = shop.torch_model, shop.lora, split, recipe
        self.start = shop.lora.start(0)
        taught = prepare_input([text for part in year.taught for text in part])
        self._batch = self._model.prepare(taught, max_tokens=MAX_TOKENS)
        self._first = self._train(range(split.size), None, NOTHING, seed=0)  # the same for every arm

    def _train(
        self, rows: Sequence[int], record: LifelongRecord | None, settings: LifelongSettings, *, seed: int
    ) -> Vector:
        work = anchored(RowsWork(self._model, self._space, self._batch, rows, self._recipe), record, settings)
        return run_work(Scheduled(work), self.start if record is None else record.theta, seed=seed)

    def increments(self, settings: LifelongSettings, measured: Collection[int]) -> dict[int, tuple[Vector, int]]:
        """{increment: (the adapter's numbers after it, texts differentiated so far)} of those that are measured."""
        record: LifelongRecord | None = None
        made: dict[int, tuple[Vector, int]] = {}
        cost = 0
        for number in range(1, self._split.increments + 1):
            taught = range(number * self._split.size)
            increment = next_increment(taught, str, record, settings)
            again = record is not None
            theta = self._train(increment.items, record, settings, seed=number - 1) if again else self._first
            record = record_after(record, number, increment.names, self._space, theta)
            cost += self._recipe.epochs * len(increment.items)
            if number in measured:
                made[number] = theta, cost
        return made

    def scratch(self, measured: Sequence[int]) -> dict[int, tuple[Vector, int]]:
        """The same from nothing on everything so far. The cost is that of doing so at every increment."""
        made, size = {1: (self._first, self._recipe.epochs * self._split.size)}, self._split.size
        for number in measured:
            if number > 1:
                theta = self._train(range(number * size), None, NOTHING, seed=number - 1)
                made[number] = theta, self._recipe.epochs * size * number * (number + 1) // 2
        return made


def study_year(
    shop: Workshop, year: Year, split: YearSplit, recipe: Recipe, arms: Mapping[str, LifelongSettings]
) -> tuple[dict[str, Any], dict[str, Vector]]:
    """One person: ({arm: {increment: {"taught", "first", "current", "future", "cost"}}}, {arm: its last numbers})."""
    model, space = shop.torch_model, shop.lora
    course = Course(shop, year, split, recipe)
    judged = {"taught": year.taught[0], "first": year.held_out[0], "future": year.future}
    batches = {kind: model.prepare(prepare_input(texts), max_tokens=MAX_TOKENS) for kind, texts in judged.items()}
    measured = [number for number in MEASURED if number <= split.increments]
    current = {
        number: model.prepare(prepare_input(year.held_out[number - 1]), max_tokens=MAX_TOKENS) for number in measured
    }

    def losses(number: int, theta: Vector) -> dict[str, float]:
        wanted = batches | {"current": current[number]}
        if number not in (measured[0], measured[-1]):
            wanted.pop("future")
        return {kind: evaluate_coordinates(model, space, batch, theta) for kind, batch in wanted.items()}

    made = {"none": {number: (course.start, 0) for number in measured}}
    made |= {arm: course.increments(settings, measured) for arm, settings in arms.items()}
    made["scratch"] = course.scratch([number for number in SCRATCH_MEASURED if number <= split.increments])
    known: dict[tuple[bytes, int], dict[str, float]] = {}
    rows: dict[str, dict[str, dict[str, float]]] = {arm: {} for arm in made}
    for arm, states in made.items():
        for number in sorted(set(states) & set(measured)):
            theta, cost = states[number]
            key = theta.tobytes(), number  # the first increment is the same for every arm
            known[key] = known.get(key) or losses(number, theta)
            rows[arm][str(number)] = known[key] | {"cost": float(cost)}
    ends = {arm: states[measured[-1]][0] for arm, states in made.items()}
    return rows, ends


def summary(people: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over people with 95 % intervals. ``lost`` (taught, first): the loss after the last increment less that
    right after the first one, above zero: forgotten. ``against_scratch``: the loss less that of retraining, paired,
    above zero: worse. ``cost``: texts differentiated. ``gguf``: as ``against_scratch`` and ``against_none``, by
    llama.cpp."""
    rows = [person["arms"] for person in people.values()]
    last = max(rows[0]["none"], key=int)
    ends = [{arm: losses[last] for arm, losses in row.items()} for row in rows]
    firsts = [row["scratch"]["1"] for row in rows]
    kinds = ("taught", "first", "current", "future")

    def paired(values: Sequence[Mapping[str, Any]], arm: str, kind: str, other: str) -> Any:
        return mean_interval([one[arm][kind] - one[other][kind] for one in values])

    result = {
        "people": len(rows),
        "curves": {
            arm: {
                kind: {number: mean_interval([row[arm][number][kind] for row in rows]) for number in rows[0][arm]}
                for kind in ("taught", "first", "current")
            }
            for arm in rows[0]
        },
        "lost": {
            arm: {
                kind: mean_interval([end[arm][kind] - first[kind] for end, first in zip(ends, firsts, strict=True)])
                for kind in ("taught", "first")
            }
            for arm in rows[0]
        },
        "against_scratch": {arm: {kind: paired(ends, arm, kind, "scratch") for kind in kinds} for arm in rows[0]},
        "against_naive": {arm: {kind: paired(ends, arm, kind, "naive") for kind in kinds} for arm in rows[0]},
        "cost": {arm: float(np.mean([end[arm]["cost"] for end in ends])) for arm in rows[0]},
    }
    scored = [person["gguf"] for person in people.values() if "gguf" in person]
    if scored:
        result["gguf"] = {
            "people": len(scored),
            "losses": {
                arm: {kind: mean_interval([one[arm][kind] for one in scored]) for kind in scored[0][arm]}
                for arm in scored[0]
            },
            "against_scratch": {
                arm: {kind: paired(scored, arm, kind, "scratch") for kind in scored[0][arm]} for arm in scored[0]
            },
        }
    return result


def gguf_losses(shop: Workshop, year: Year, ends: Mapping[str, Vector]) -> dict[str, dict[str, float]]:
    """{arm: {"taught", "first", "future"}} after the last increment, by llama.cpp on the file that serves."""
    texts = {"taught": year.taught[0], "first": year.held_out[0], "future": year.future}
    rows: dict[str, dict[str, float]] = {}
    for arm, theta in ends.items():
        adapter = None if arm == "none" else shop.adapter(theta, shop.lora)
        rows[arm] = {kind: shop.loss(examples, adapter) for kind, examples in texts.items()}
    return rows


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for lifelong.json and lifelong.png, new or not.")],
    people: Annotated[int, typer.Option(min=1, help="How many of each source are reported.")] = 4,
    tuning: Annotated[int, typer.Option(min=1, help="How many more of each source settings are chosen on.")] = 2,
    gguf: Annotated[int, typer.Option(min=0, help="How many of each source llama.cpp scores too.")] = 2,
    tune: Annotated[bool, typer.Option("--tune", help="Choose settings, on the people after those reported.")] = False,
) -> None:
    """Train people's adapters in ten increments, with and without replay and anchoring, and measure what stays."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / ("lifelong_tuning.json" if tune else "lifelong.json")
    done: dict[str, Any] = json.loads(path.read_text("utf-8"))["people"] if path.is_file() else {}
    split = TUNED if tune else REPORTED
    model = find_model()
    torch_model = TorchModel.load(model.path, top_layers=read_model_shape(model.path).layers)
    with closing(Workshop(model, torch_model)) as shop:
        years = [load_years(data_folder(), source, shop.engine, split, people + tuning) for source in SOURCES]
        for place in range(people, people + tuning) if tune else range(people):
            for year in (source[place] for source in years):
                if year.id in done:
                    continue
                rows, ends = study_year(shop, year, split, Recipe(), CANDIDATES if tune else ARMS)
                done[year.id] = {"arms": rows}
                if not tune and place < gguf:
                    done[year.id]["gguf"] = gguf_losses(shop, year, ends)
                report = {"split": asdict(split), "recipe": asdict(Recipe()), "summary": summary(done)}
                path.write_text(json.dumps(report | {"people": done}, indent=2) + "\n", "utf-8")
                typer.echo(f"{year.id} is done", err=True)
    if not tune:
        draw(json.loads(path.read_text("utf-8"))["summary"], out / "lifelong.png")


if __name__ == "__main__":
    as_command(main)
