"""`penchant bench training`: personal training in the frame against ordinary LoRA by peft, on people of the village.

Both sides train on the same texts (a person's messages behind their requests), from the same file, with as many
threads, one person after the other, and are judged after every pass on messages that the person wrote later: nats per
token over the whole vocabulary, in torch. Ours counts all the time from tokens on, layers below the adapted ones
included. How many passes both take, and peft's learning rate, are those with the lowest held-out loss on other people
(``TUNING``), chosen in the same run; our learning rate and batch size are the product's.

Two sizes of ours: what the product trains where memory does not bind, and the same frame cut to the top
``FEWER_LAYERS`` layers (cases ``..._top_12``), as depth is what time is paid for.

Beside it, at the product's size: a private step (gradients by text, clipping, noise) against a plain one; the largest
memory of a fresh process that does all that `penchant train` does; and the gain by llama.cpp on the quantised file
against torch's.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch

from client.device_profile import MANY_TEXTS, MAX_TOKENS, TrainedShape, device_profile
from client.examples import Example, make_example, prepare_input
from client.local_training import evaluate_coordinates
from client.personal_gate import SCORING_CONTEXT, token_losses
from client.personal_install import adapter_file
from client.personal_plan import BATCH_SIZE, LEARNING_RATE
from client.personal_training import own_frame
from client.torch_model import Text, TorchModel
from client.training import open_trainer, serving_model
from client.training_run import RunPlan, advance, new_state
from client.training_work import TextSettings, TextWork
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile
from protocol.frames import Frame, Vector
from simulations.bench.case import Case
from simulations.bench.lora_loop import LoraLoop
from simulations.bench.loss_curve import Curve, mean_curve, seconds_to
from simulations.bench.runner import OnProgress
from simulations.bench.training_costs import peak_memory, private_cost
from simulations.people import Message
from simulations.statistics import mean_interval
from simulations.village import load_village

PEOPLE: Final = 4
TUNING: Final = 1
PASSES: Final = 6
LORA_PASSES: Final = 3
LORA_RATES: Final = (1e-3, 3e-3)
FEWER_LAYERS: Final = 12
THREADS: Final = 2
AMPLE_MEMORY: Final = 2**36  # bytes: what the product trains where memory does not bind


@dataclass(frozen=True)
class Texts:
    """One person's: to train on, and what they wrote later."""

    training: list[Example]
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

    return [Texts(examples(each.train_messages), examples(each.test_messages)) for each in load_village()[:count]]


def top_part(frame: Frame, first: int) -> Frame:
    """The part of a frame that adapts layer ``first`` and those above it."""
    kept = [place for place, name in enumerate(frame.modules) if int(name.split(".")[1]) >= first]
    modules, left, right = (tuple(part[place] for place in kept) for part in (frame.modules, frame.left, frame.right))
    return Frame(frame.base_sha256, frame.rank, frame.scale, modules, left, right)  # type: ignore[arg-type]


def train_in_frame(model: TorchModel, frame: Frame, texts: Texts, passes: int) -> Trained:
    """The product's steps on one person's texts; judging is not part of the time."""
    training, later = texts.pair()
    held_out = model.prepare(later, max_tokens=MAX_TOKENS)
    zero = np.zeros(frame.dimension)
    seconds, thetas = [0.0], [zero]
    losses = [evaluate_coordinates(model, frame, held_out, zero)]
    started = time.perf_counter()
    work = TextWork(model, frame, training, [], TextSettings(passes, BATCH_SIZE, LEARNING_RATE), max_tokens=MAX_TOKENS)
    state = new_state(RunPlan(work, "", "", BATCH_SIZE), zero, run=0, seed=0)
    spent = time.perf_counter() - started
    for done in range(1, passes + 1):
        started = time.perf_counter()
        while state.step < done * work.steps // passes:
            state = advance(state, work)
        spent += time.perf_counter() - started
        seconds.append(spent)
        thetas.append(state.theta)
        losses.append(evaluate_coordinates(model, frame, held_out, state.theta))
    return Trained(Curve(tuple(seconds), tuple(losses), len(training)), tuple(thetas))


def best_setting(curves: Mapping[float, Sequence[Curve]]) -> tuple[float, int]:
    """(learning rate, passes) with the lowest mean held-out loss, at least one pass."""
    means = {rate: mean_curve(each).losses[1:] for rate, each in curves.items()}
    rate = min(means, key=lambda each: min(means[each]))
    return rate, int(np.argmin(means[rate])) + 1


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


def gguf_gain(model: ModelFile, frame: Frame, people: Sequence[Texts], trained: Sequence[Trained]) -> Case:
    """Held-out loss taken off, in percent: by llama.cpp on the quantised file against torch; means over people."""
    ours, peer = [], []
    with Engine.open(model, context_tokens=SCORING_CONTEXT, threads=1) as engine:
        for texts, one in zip(people, trained, strict=True):
            data = adapter_file(
                model,
                frame.lora_factors(one.thetas[-1]),
                alpha=float(frame.rank),
                frame_sha256=frame.digest,
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
    memory = []
    with tempfile.TemporaryDirectory() as cache:
        for stage in ("peak memory, the frame made", "peak memory, the frame there"):
            memory.append(peak_memory(cache))
            on_progress(stage, 1.0)
    file = serving_model()
    size = device_profile(AMPLE_MEMORY, THREADS, TrainedShape.of(file.path), MANY_TEXTS)
    trainer = open_trainer(size.layers)
    whole = own_frame(
        trainer, lambda part: on_progress("frame from public text", part), kinds=size.kinds, rank=size.rank
    )
    people = village_texts(trainer.engine, TUNING + PEOPLE)
    tuning, measured = people[:TUNING], people[TUNING:]

    peer = LoraLoop(file.path)
    tried: dict[float, list[Curve]] = {}
    for rate in LORA_RATES:
        tried[rate] = [
            peer.train(*each.pair(), rate=rate, passes=LORA_PASSES, batch_size=BATCH_SIZE) for each in tuning
        ]
        on_progress(f"peft on others, learning rate {rate:g}", 1.0)
    peer_rate, peer_passes = best_setting(tried)
    theirs = []
    for number, each in enumerate(measured):
        theirs.append(peer.train(*each.pair(), rate=peer_rate, passes=peer_passes, batch_size=BATCH_SIZE))
        on_progress("peft", (number + 1) / len(measured))
    peer_setting = {"learning_rate": peer_rate, "passes": peer_passes, "numbers": peer.numbers}
    del peer

    cases: dict[str, Case] = {}
    few = trainer.torch_model.layer_count - FEWER_LAYERS
    for suffix, model, frame in (
        ("", trainer.torch_model, whole),
        (f"_top_{FEWER_LAYERS}", TorchModel.load(file.path, top_layers=FEWER_LAYERS), top_part(whole, few)),
    ):
        _, passes = best_setting({LEARNING_RATE: [train_in_frame(model, frame, each, PASSES).curve for each in tuning]})
        ours = []
        for number, each in enumerate(measured):
            ours.append(train_in_frame(model, frame, each, passes))
            on_progress(f"in the frame{suffix.replace('_', ' ')}", (number + 1) / len(measured))
        setting = {"learning_rate": LEARNING_RATE, "passes": passes, "numbers": frame.dimension}
        more = {"setting": setting, "peer_setting": peer_setting, "batch_size": BATCH_SIZE, "people": PEOPLE}
        more |= {"threads": torch.get_num_threads(), "number_format": str(model.dtype).removeprefix("torch.")}
        cases["examples" + suffix], cases["held_out_loss" + suffix] = compared(
            [each.curve for each in ours], theirs, more
        )
        if not suffix:
            cases["private_overhead"] = private_cost(model, frame, measured[0].pair()[0], BATCH_SIZE)
            cases["gguf_gain"] = gguf_gain(file, frame, measured, ours)
    cases["peak_memory"] = Case(memory[1], None, "MB")
    cases["peak_memory_frame"] = Case(memory[0], None, "MB")
    return cases
