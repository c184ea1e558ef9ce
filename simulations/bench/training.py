"""`penchant bench training`: personal training as the product does it against ordinary LoRA by peft, on people of the
village.

Both sides train ordinary LoRA of the same rank on the same maps, on the same texts (a person's messages behind their
requests; ours three to a chat, as the product tells them), from the same file, with as many threads, one person after
the other, and are judged after every pass on messages that the person wrote later: nats per token over the whole
vocabulary, in torch. Ours counts all the time from tokens on, layers below the adapted ones included. How many passes
peft takes, its learning rate and its batch size are those with the lowest held-out loss on other people (``TUNING``),
chosen in the same run; ours are the product's.

Two sizes of ours: what the product trains where memory does not bind, and the top ``FEWER_LAYERS`` layers alone (cases
``..._top_12``), as depth is what time is paid for.

Beside it: a private step in the product's frame (gradients by text, clipping, noise) against a plain one; the largest
memory of a fresh process that does all that `penchant train` does; and the gain by llama.cpp on the quantised file
against torch's.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import torch

from client.device_profile import MAX_TOKENS, MINIMUM_TEXTS, PRIVATE_RANK, TrainedShape, device_profile
from client.examples import Example, make_example, prepare_input
from client.learning_rate import Scheduled
from client.local_training import evaluate_coordinates
from client.lora_layout import LoraLayout
from client.objectives.objective import Objective
from client.objectives.turns import turns
from client.personal_gate import SCORING_CONTEXT, token_losses
from client.personal_install import adapter_file
from client.personal_plan import BATCH_SIZE, EPOCHS, LORA_LEARNING_RATE
from client.personal_training import own_frame
from client.torch_model import Text, TorchModel
from client.training import open_trainer, serving_model
from client.training_run import RunPlan, advance, new_state
from client.training_work import ObjectivesWork, TextSettings
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.statements import MemoryItem
from edge_runtime.models.catalogue import ModelFile
from protocol.frames import Vector
from simulations.bench.case import Case
from simulations.bench.lora_loop import LoraLoop
from simulations.bench.loss_curve import Curve, mean_curve, seconds_to
from simulations.bench.runner import OnProgress
from simulations.bench.training_costs import peak_memory, private_cost
from simulations.datasets.village import load_village
from simulations.people import Message
from simulations.statistics import mean_interval

PEOPLE: Final = 4
TUNING: Final = 1
PEER_PASSES: Final = 3
PEER_RATES: Final = (1e-3, 3e-3, 6e-3)
PEER_BATCHES: Final = (2, 4)
PRIVATE_BATCH: Final = 4
FEWER_LAYERS: Final = 12
THREADS: Final = 2
AMPLE_MEMORY: Final = 2**36  # bytes: what the product trains where memory does not bind


@dataclass(frozen=True)
class Texts:
    """One person's: to train on, the same as the product tells it, and what they wrote later."""

    training: list[Example]
    told: Objective
    held_out: list[Example]

    def pair(self) -> tuple[list[Text], list[Text]]:
        """Both in the form that models take."""
        return prepare_input(self.training), prepare_input(self.held_out)


@dataclass(frozen=True)
class Trained:
    """How training went, and the coordinates (d,) after every pass."""

    curve: Curve
    thetas: tuple[Vector, ...]


def run(on_progress: OnProgress) -> dict[str, Case]:
    """All cases; the curves are beside ``examples``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    try:
        return _cases(on_progress)
    finally:
        torch.set_num_threads(threads)


def village_texts(engine: Engine, count: int) -> list[Texts]:
    """The messages of the first ``count`` people behind their requests."""

    def examples(messages: Sequence[Message]) -> list[Example]:
        return [make_example(engine, plain_draft(each.cue), each.text) for each in messages]

    def told(messages: Sequence[Message]) -> Objective:
        items = [MemoryItem(0, each.text, each.cue, each.date, "me", each.date) for each in messages]
        return turns(engine, items, [], tellings=EPOCHS)

    return [
        Texts(examples(each.train_messages), told(each.train_messages), examples(each.test_messages))
        for each in load_village()[:count]
    ]


def train_ours(model: TorchModel, layout: LoraLayout, texts: Texts) -> Trained:
    """The product's steps on one person's texts; judging is not part of the time."""
    held_out = model.prepare(texts.pair()[1], max_tokens=MAX_TOKENS)
    start = layout.start(0)
    seconds, thetas = [0.0], [start]
    losses = [evaluate_coordinates(model, layout, held_out, start)]
    started = time.perf_counter()
    settings = TextSettings(EPOCHS, BATCH_SIZE, LORA_LEARNING_RATE)
    work = Scheduled(ObjectivesWork(model, layout, [texts.told], None, settings))
    state = new_state(RunPlan(work, "", "", BATCH_SIZE), start, run=0, seed=0)
    spent = time.perf_counter() - started
    for done in range(1, EPOCHS + 1):
        started = time.perf_counter()
        while state.step < done * work.steps // EPOCHS:
            state = advance(state, work)
        spent += time.perf_counter() - started
        seconds.append(spent)
        thetas.append(state.theta)
        losses.append(evaluate_coordinates(model, layout, held_out, state.theta))
    return Trained(Curve(tuple(seconds), tuple(losses), len(texts.training)), tuple(thetas))


def best_setting(curves: Mapping[tuple[float, int], Sequence[Curve]]) -> tuple[float, int, int]:
    """(learning rate, batch size, passes) with the lowest mean held-out loss, at least one pass; ``curves`` by the
    first two."""
    means = {setting: mean_curve(each).losses[1:] for setting, each in curves.items()}
    best = min(means, key=lambda each: min(means[each]))
    return *best, int(np.argmin(means[best])) + 1


def compared(ours: Sequence[Curve], theirs: Sequence[Curve], more: Mapping[str, Any]) -> tuple[Case, Case]:
    """(examples per second, held-out loss after the last pass), with the curves and the differences by person."""
    mean, peer = mean_curve(ours), mean_curve(theirs)
    differences = [one.losses[-1] - other.losses[-1] for one, other in zip(ours, theirs, strict=True)]
    difference, low, high = mean_interval(differences)
    speed = Case(mean.rate(), peer.rate(), "examples/s", {"curve": asdict(mean), "peer_curve": asdict(peer), **more})
    loss = Case(
        mean.losses[-1],
        peer.losses[-1],
        "nats/token",
        {
            "before": mean.losses[0],
            "difference": difference,
            "difference_interval": [low, high],
            "differences": differences,
            "seconds_to_the_peers_best": seconds_to(mean, min(peer.losses)),
            "the_peers_seconds": peer.seconds[peer.best],
        },
    )
    return speed, loss


def gguf_gain(model: ModelFile, layout: LoraLayout, people: Sequence[Texts], trained: Sequence[Trained]) -> Case:
    """Held-out loss taken off, in percent: by llama.cpp on the quantised file against torch; means over people."""
    ours, peer = [], []
    with Engine.open(model, context_tokens=SCORING_CONTEXT, threads=1) as engine:
        for texts, one in zip(people, trained, strict=True):
            data = adapter_file(
                model,
                layout.lora_factors(one.thetas[-1]),
                alpha=float(layout.rank),
                frame_sha256="",
                parent_sha256="",
                epsilon=None,
                created="",
            )
            before, after = (
                float(np.concatenate(token_losses(engine, texts.held_out, adapter)).mean()) for adapter in (None, data)
            )
            ours.append(100 * (1 - after / before))
            peer.append(100 * (1 - one.curve.losses[-1] / one.curve.losses[0]))
    return Case(statistics.fmean(ours), statistics.fmean(peer), "%", {"ours_all": ours, "peer_all": peer})


def _cases(on_progress: OnProgress) -> dict[str, Case]:
    memory = peak_memory()
    on_progress("peak memory", 1.0)
    file = serving_model()
    size = device_profile(AMPLE_MEMORY, THREADS, TrainedShape.of(file.path), MINIMUM_TEXTS)
    trainer = open_trainer(size.layers)
    people = village_texts(trainer.engine, TUNING + PEOPLE)
    tuning, measured = people[:TUNING], people[TUNING:]

    peer = LoraLoop(file.path, size.rank)
    tried: dict[tuple[float, int], list[Curve]] = {}
    for rate, batch in product(PEER_RATES, PEER_BATCHES):
        tried[rate, batch] = [
            peer.train(*each.pair(), rate=rate, passes=PEER_PASSES, batch_size=batch) for each in tuning
        ]
        on_progress(f"peft on others, learning rate {rate:g}, batches of {batch}", 1.0)
    rate, batch, passes = best_setting(tried)
    theirs = []
    for number, each in enumerate(measured):
        theirs.append(peer.train(*each.pair(), rate=rate, passes=passes, batch_size=batch))
        on_progress("peft", (number + 1) / len(measured))
    peer_setting = {"learning_rate": rate, "batch_size": batch, "passes": passes, "numbers": peer.numbers}
    del peer

    cases: dict[str, Case] = {}
    for suffix, model in (
        ("", trainer.torch_model),
        (f"_top_{FEWER_LAYERS}", TorchModel.load(file.path, top_layers=FEWER_LAYERS)),
    ):
        layout = LoraLayout.of(model.module_shapes(size.kinds), size.rank)
        ours = []
        for number, each in enumerate(measured):
            ours.append(train_ours(model, layout, each))
            on_progress(f"ours{suffix.replace('_', ' ')}", (number + 1) / len(measured))
        setting = {"learning_rate": LORA_LEARNING_RATE, "passes": EPOCHS, "numbers": layout.dimension}
        more = {"setting": setting, "peer_setting": peer_setting, "people": PEOPLE}
        more |= {"threads": torch.get_num_threads(), "number_format": str(model.dtype).removeprefix("torch.")}
        cases["examples" + suffix], cases["held_out_loss" + suffix] = compared(
            [each.curve for each in ours], theirs, more
        )
        if not suffix:
            frame = own_frame(trainer, lambda part: on_progress("frame from public text", part), rank=PRIVATE_RANK)
            cases["private_overhead"] = private_cost(model, frame, measured[0].pair()[0], PRIVATE_BATCH)
            cases["gguf_gain"] = gguf_gain(file, layout, measured, ours)
    cases["peak_memory"] = Case(memory, None, "MB")
    return cases
