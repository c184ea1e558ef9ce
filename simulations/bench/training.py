"""`penchant bench training`: personal training as the product does it against ordinary LoRA by peft, on people of the
village.

Both sides train ordinary LoRA of the same rank on the same maps, on the same texts (a person's messages behind their
requests; ours three to a chat, as the product tells them), from the same file, with as many threads, one person after
the other, and are judged after every pass on messages that the person wrote later: nats per token over the whole
vocabulary, in torch. Behind the bare request (``held_out_loss``), and behind the prompt that drafting serves, with what
memory recalls of the texts trained on (``held_out_loss_served``). Ours counts all the time from tokens on, layers below
the adapted ones included. How many passes peft takes, its learning rate and its batch size are those with the lowest
held-out loss on other people (``TUNING``), chosen in the same run for each of the two; ours are the product's.

Two sizes of ours: what the product trains where memory does not bind, and the top ``FEWER_LAYERS`` layers alone (cases
``..._top_12``), as depth is what time is paid for.

Beside it: a private step in the product's frame (gradients by text, clipping, noise) against a plain one; the largest
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
from itertools import product
from pathlib import Path
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
from client.served_prompts import served_message
from client.torch_model import Text, TorchModel
from client.training import open_trainer, serving_model
from client.training_run import RunPlan, advance, new_state
from client.training_work import ObjectivesWork, TextSettings
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.device import SharedEmbedder
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import Memory, TextEmbedder
from edge_runtime.memory.statements import MemoryItem, Statement
from edge_runtime.models.catalogue import ModelFile
from edge_runtime.store.vault import Vault
from protocol.frames import Vector
from simulations.bench.case import Case
from simulations.bench.lora_loop import LoraLoop
from simulations.bench.loss_curve import Curve, mean_curve, seconds_to
from simulations.bench.runner import OnProgress
from simulations.bench.training_costs import peak_memory, private_cost
from simulations.datasets.village import load_village
from simulations.people import Message, Person
from simulations.statistics import mean_interval

PEOPLE: Final = 4
TUNING: Final = 1
PEER_PASSES: Final = 3
PEER_RATES: Final = (1e-3, 3e-3, 6e-3)
PEER_BATCHES: Final = (2, 4)
PRIVATE_BATCH: Final = 4
FORMS: Final = ("", "_served")  # what held-out texts stand behind: the bare request, or what drafting serves
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
    """How training went, by what it is judged on, and the coordinates (d,) after every pass."""

    curves: tuple[Curve, ...]
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


def served_texts(engine: Engine, person: Person, embedder: TextEmbedder) -> list[Example]:
    """What a person wrote later, each behind the prompt with which a device drafts it that remembers the rest."""
    with tempfile.TemporaryDirectory() as home, Vault.open(Path(home), bytes(32)) as vault:
        memory = Memory(vault, embedder)
        memory.remember_many(Statement(each.text, each.cue, each.date) for each in person.train_messages)
        items = [MemoryItem(0, each.text, each.cue, each.date, "me", each.date) for each in person.test_messages]
        return [served_message(engine, memory, item, room=SCORING_CONTEXT - MAX_TOKENS) for item in items]


def train_ours(model: TorchModel, layout: LoraLayout, texts: Texts, judged: Sequence[Sequence[Text]]) -> Trained:
    """The product's steps on one person's texts, with a curve for each set of ``judged`` texts; judging is not part of
    the time."""
    batches = [model.prepare(each, max_tokens=SCORING_CONTEXT) for each in judged]

    def losses_of(theta: Vector) -> list[float]:
        return [evaluate_coordinates(model, layout, batch, theta) for batch in batches]

    start = layout.start(0)
    seconds, thetas = [0.0], [start]
    losses = [losses_of(start)]
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
        losses.append(losses_of(state.theta))
    curves = [Curve(tuple(seconds), each, len(texts.training)) for each in zip(*losses, strict=True)]
    return Trained(tuple(curves), tuple(thetas))


def best_setting(curves: Mapping[tuple[float, int], Sequence[Curve]]) -> tuple[float, int, int]:
    """(learning rate, batch size, passes) with the lowest mean held-out loss, at least one pass; ``curves`` by the
    first two."""
    means = {setting: mean_curve(each).losses[1:] for setting, each in curves.items()}
    best = min(means, key=lambda each: min(means[each]))
    return *best, int(np.argmin(means[best])) + 1


def speeds(ours: Sequence[Curve], theirs: Sequence[Curve], more: Mapping[str, Any]) -> Case:
    """Examples per second."""
    return Case(mean_curve(ours).rate(), mean_curve(theirs).rate(), "examples/s", dict(more))


def compared(ours: Sequence[Curve], theirs: Sequence[Curve], peer_setting: Mapping[str, Any]) -> Case:
    """Held-out loss after the last pass, with the curves and the differences by person."""
    mean, peer = mean_curve(ours), mean_curve(theirs)
    differences = [one.losses[-1] - other.losses[-1] for one, other in zip(ours, theirs, strict=True)]
    difference, low, high = mean_interval(differences)
    return Case(
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
            "curve": asdict(mean),
            "peer_curve": asdict(peer),
            "peer_setting": dict(peer_setting),
        },
    )


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
            bare = one.curves[FORMS.index("")].losses
            peer.append(100 * (1 - bare[-1] / bare[0]))
    return Case(statistics.fmean(ours), statistics.fmean(peer), "%", {"ours_all": ours, "peer_all": peer})


def _cases(on_progress: OnProgress) -> dict[str, Case]:
    memory = peak_memory()
    on_progress("peak memory", 1.0)
    file = serving_model()
    size = device_profile(AMPLE_MEMORY, THREADS, TrainedShape.of(file.path), MINIMUM_TEXTS)
    trainer = open_trainer(size.layers)
    people, embedder = village_texts(trainer.engine, TUNING + PEOPLE), SharedEmbedder()
    judged = [
        (texts.pair()[1], prepare_input(served_texts(trainer.engine, person, embedder)))
        for texts, person in zip(people, load_village(), strict=False)
    ]
    measured = people[TUNING:]

    peer = LoraLoop(file.path, size.rank)
    tried: dict[tuple[float, int], list[list[Curve]]] = {}
    for rate, batch in product(PEER_RATES, PEER_BATCHES):
        tried[rate, batch] = [
            peer.train(each.pair()[0], seen, rate=rate, passes=PEER_PASSES, batch_size=batch)
            for each, seen in zip(people[:TUNING], judged, strict=False)
        ]
        on_progress(f"peft on others, learning rate {rate:g}, batches of {batch}", 1.0)
    theirs: list[list[list[Curve]]] = []  # by form, person and what is judged
    peer_settings: list[dict[str, Any]] = []
    for form, name in enumerate(FORMS):
        rate, batch, passes = best_setting({at: [curves[form] for curves in each] for at, each in tried.items()})
        peer_settings.append({"learning_rate": rate, "batch_size": batch, "passes": passes, "numbers": peer.numbers})
        if peer_settings[-1] in peer_settings[:-1]:  # nobody is trained twice in the same way
            theirs.append(theirs[peer_settings.index(peer_settings[-1])])
            continue
        theirs.append([])
        for number, (each, seen) in enumerate(zip(measured, judged[TUNING:], strict=True)):
            theirs[-1].append(peer.train(each.pair()[0], seen, rate=rate, passes=passes, batch_size=batch))
            on_progress(f"peft{name.replace('_', ' ')}", (number + 1) / len(measured))
    del peer

    cases: dict[str, Case] = {}
    for suffix, model in (
        ("", trainer.torch_model),
        (f"_top_{FEWER_LAYERS}", TorchModel.load(file.path, top_layers=FEWER_LAYERS)),
    ):
        layout = LoraLayout.of(model.module_shapes(size.kinds), size.rank)
        ours = []
        for number, (each, seen) in enumerate(zip(measured, judged[TUNING:], strict=True)):
            ours.append(train_ours(model, layout, each, seen))
            on_progress(f"ours{suffix.replace('_', ' ')}", (number + 1) / len(measured))
        setting = {"learning_rate": LORA_LEARNING_RATE, "passes": EPOCHS, "numbers": layout.dimension}
        more = {"setting": setting, "peer_setting": peer_settings[0], "people": PEOPLE}
        more |= {"threads": torch.get_num_threads(), "number_format": str(model.dtype).removeprefix("torch.")}
        for form, name in enumerate(FORMS):
            mine, other = [each.curves[form] for each in ours], [each[form] for each in theirs[form]]
            if not form:
                cases["examples" + suffix] = speeds(mine, other, more)
            cases[f"held_out_loss{name}{suffix}"] = compared(mine, other, peer_settings[form])
        if not suffix:
            frame = own_frame(trainer, lambda part: on_progress("frame from public text", part), rank=PRIVATE_RANK)
            cases["private_overhead"] = private_cost(model, frame, measured[0].pair()[0], PRIVATE_BATCH)
            cases["gguf_gain"] = gguf_gain(file, layout, measured, ours)
    cases["peak_memory"] = Case(memory, None, "MB")
    return cases
