"""The personal tier as coordinates in a frame or as ordinary LoRA, with and without privacy.

    python -m simulations.studies.tiers --out DIR

People with 40 texts each train on all of them, from nothing, as `penchant train` would; the texts after those are
scored by llama.cpp on the file that serves. The noise of DP-SGD has length z C sqrt(d) for d numbers, while what it
hides stays as long as it was: the tiers differ in d by a factor of thousands. Adam's steps without privacy are those
that were best for 12 bloggers (``simulations.studies.frames.study``); with privacy they are smaller where there are
more numbers to move at random, by rule of thumb and not tuned. ``stranger``: the adapter of the person before, which
tells how much of a gain is the person's own.

Losses are nats per token; gains are relative to the model alone, means over people with their 95 % interval.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from client.device_profile import ALL_KINDS, KINDS, PRIVATE_RANK, RANK
from client.dp_sgd import PrivateSettings, noise_multiplier_for
from client.examples import Example, make_example, prepare_input, public_examples
from client.frame_builder import build_frame, public_text
from client.lora_layout import AdapterSpace, LoraLayout
from client.personal_lora import PrivateLoraWork
from client.torch_model import Text, TorchModel
from client.training_run import Work
from client.training_work import PrivateWork, TextSettings, TextWork
from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.commands.support import one_line_errors
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import find_model, read_model_shape
from protocol.frames import Frame, Vector
from simulations.datasets.writing import data_folder
from simulations.people import Message, Person
from simulations.statistics import mean_interval
from simulations.studies.personal_fleet import HistorySplit, Workshop, load_groups, run_work
from simulations.study_command import as_command

MAX_TOKENS: Final = 112
EPSILON: Final = 8.0
EPOCHS: Final = 2
BATCH_SIZE: Final = 8
PRIVATE: Final = PrivateSettings(EPSILON, 1e-3, 3.0, 0.5, 0.5, 0.05)  # delta and rate are set per run


@dataclass(frozen=True)
class Tier:
    """A tier of all layers: frame coordinates of the product's two maps each, or LoRA factors of all seven; Adam's step
    without privacy (``rate``) and with it."""

    name: str
    lora: bool
    rank: int
    rate: float
    private_rate: float


TIERS: Final = (
    Tier("thin frame", False, PRIVATE_RANK, 0.02, 0.02),
    Tier("wide frame", False, RANK, 0.02, 0.005),
    Tier("LoRA", True, 8, 0.003, 0.0003),
)


class Bench:
    """The model with its frames, and one person's adapters in each tier."""

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop

    def space(self, tier: Tier) -> AdapterSpace:
        """Where the tier's numbers live: the first columns of the workshop's frame, or a layout of LoRA factors."""
        whole = self.shop.frame
        if tier.lora:
            return LoraLayout.of(self.shop.torch_model.module_shapes(ALL_KINDS), tier.rank)
        left = tuple(np.ascontiguousarray(u[:, : tier.rank]) for u in whole.left)
        right = tuple(np.ascontiguousarray(v[: tier.rank]) for v in whole.right)
        return replace(whole, rank=tier.rank, left=left, right=right)

    def work(self, space: AdapterSpace, texts: Sequence[Text], rate: float, epsilon: float | None) -> Work:
        """A run of `penchant train` on these texts."""
        model = self.shop.torch_model
        if epsilon is None:
            settings = TextSettings(EPOCHS, BATCH_SIZE, rate)
            return TextWork(model, space, texts, [], settings, max_tokens=MAX_TOKENS)
        private = replace(PRIVATE, epsilon=epsilon, delta=1.0 / (10 * len(texts)), learning_rate=rate)
        noise = noise_multiplier_for(epsilon, private.delta, private.sampling_rate, private.steps)
        kind = PrivateWork if isinstance(space, Frame) else PrivateLoraWork
        return kind(model, space, texts, private, noise, max_tokens=MAX_TOKENS)  # type: ignore[arg-type]

    def adapter(self, space: AdapterSpace, theta: Vector) -> bytes:
        """The adapter's file."""
        return write_adapter(
            space.lora_factors(theta),
            alpha=float(space.rank),
            metadata=AdapterMetadata(self.shop.model.sha256, ""),
            architecture=self.shop.shape.architecture,
            heads=self.shop.shape.heads,
            kv_heads=self.shop.shape.kv_heads,
        )

    def trained(self, tier: Tier, texts: Sequence[Text], epsilon: float | None, seed: int) -> tuple[bytes, float]:
        """An adapter from nothing, and the seconds it took."""
        started, space = time.perf_counter(), self.space(tier)
        start = np.zeros(space.dimension) if isinstance(space, Frame) else space.start(seed)
        rate = tier.rate if epsilon is None else tier.private_rate
        theta = run_work(self.work(space, texts, rate, epsilon), start, seed=seed)
        return self.adapter(space, theta), time.perf_counter() - started

    def examples(self, messages: Sequence[Message]) -> list[Example]:
        """Messages as `penchant train` sees them, without notes."""
        return [make_example(self.shop.engine, plain_draft(message.cue), message.text) for message in messages]


def arms() -> list[tuple[Tier, float | None]]:
    """Every tier without privacy and with it."""
    return [(tier, epsilon) for epsilon in (None, EPSILON) for tier in TIERS]


def arm_name(tier: Tier, epsilon: float | None) -> str:
    """The name of a tier with a privacy in the tables."""
    return tier.name if epsilon is None else f"{tier.name}, epsilon {epsilon:g}"


def study_person(bench: Bench, person: Person, seed: int) -> dict[str, Any]:
    """One person's adapters in all arms, what they cost to train, and the losses of the person's held-out texts."""
    texts, held_out = prepare_input(bench.examples(person.train_messages)), bench.examples(person.test_messages)
    row: dict[str, Any] = {"person": person.id, "none": bench.shop.loss(held_out, None)}
    row |= {"losses": {}, "seconds": {}, "adapters": {}}
    for tier, epsilon in arms():
        name = arm_name(tier, epsilon)
        adapter, row["seconds"][name] = bench.trained(tier, texts, epsilon, seed)
        row["losses"][name], row["adapters"][name] = bench.shop.loss(held_out, adapter), adapter
    return row


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per arm: gain over the model alone, relative to it, with its 95 % interval; the stranger's; seconds."""
    names = list(rows[0]["losses"])
    gains = {name: [1 - row["losses"][name] / row["none"] for row in rows] for name in names}
    strangers = {name: [1 - row["stranger"][name] / row["none"] for row in rows] for name in rows[0]["stranger"]}
    return {
        "people": len(rows),
        "none": mean_interval([row["none"] for row in rows]),
        "gain": {name: mean_interval(gains[name]) for name in names},
        "stranger_gain": {name: mean_interval(values) for name, values in strangers.items()},
        "LoRA_against_wide_frame": mean_interval(np.subtract(gains["LoRA"], gains["wide frame"]).tolist()),
        "seconds": {name: float(np.mean([row["seconds"][name] for row in rows])) for name in names},
    }


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for tiers.json, new or not.")],
    people: Annotated[int, typer.Option(min=2, help="How many of them are in the table.")] = 6,
    texts: Annotated[int, typer.Option(min=12, help="How many texts each of them has.")] = 40,
    source: Annotated[str, typer.Option(help="novels or blogs")] = "novels",
) -> None:
    """Compare the tiers on people of a corpus below PENCHANT_DATA."""
    out.mkdir(parents=True, exist_ok=True)

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    split = HistorySplit(source, judged=people, tuning=0, fleet=0, history=texts, held_out=6, cue_words=8, max_words=24)
    groups = load_groups(data_folder(), split)
    model = find_model()
    torch_model = TorchModel.load(model.path, top_layers=read_model_shape(model.path).layers)
    with Engine.open(model, context_tokens=512, threads=1) as engine:
        public = prepare_input(public_examples(engine, public_text()))
    rank = max(tier.rank for tier in TIERS if not tier.lora)
    frame = build_frame(torch_model, model.sha256, public, kinds=KINDS, rank=rank)
    with closing(Workshop(model, torch_model, frame)) as shop:
        bench = Bench(shop)
        document: dict[str, Any] = {
            "split": asdict(split),
            "tiers": [asdict(tier) | {"numbers": bench.space(tier).dimension} for tier in TIERS],
            "epsilon": EPSILON,
        }
        rows: list[dict[str, Any]] = []
        before: dict[str, bytes] = {}  # the adapters without privacy of the person before
        for number, person in enumerate((*groups.judged, groups.judged[0])):
            held_out = bench.examples(person.test_messages)
            if number < len(groups.judged):
                rows.append(study_person(bench, person, number))
            at = number % len(groups.judged)
            rows[at]["stranger"] = {name: shop.loss(held_out, adapter) for name, adapter in before.items()}
            before = {tier.name: rows[at]["adapters"][tier.name] for tier in TIERS}
            done = [{name: row[name] for name in row if name != "adapters"} for row in rows if row["stranger"]]
            tell(f"{person.id}: none {rows[at]['none']:.3f} {rows[at]['losses']}")
            if len(done) > 1:  # what is done is on disk, also if the rest is cut short
                document |= {"summary": summary(done), "rows": done}
                (out / "tiers.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    typer.echo(json.dumps(document["summary"], indent=2))


if __name__ == "__main__":
    as_command(main)
