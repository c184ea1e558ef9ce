"""The language model's case of `penchant bench fleet`: the default model in the default fleet's frame, against pfl.

Both sides train the same coordinates of the same file in the same number format, everybody for one pass over their
newest messages with Adam, and release the clipped, noised mean. pfl takes one person after the other through an
ordinary transformers model (all layers, the whole output layer, padded batches). Ours takes a block of people at once
through the adapted layers alone; the layers below were passed once per person and their results lie on disk, which is
counted apart (``preparation`` seconds per person; ``ours_with_preparation`` spreads it over the rounds measured).

``held_out_loss``: nats per token, over the whole vocabulary, of messages the same people wrote later, after the same
rounds; ``difference`` is ours less pfl's, with its interval over people.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from client.examples import prepare_input, public_examples
from client.frame_builder import build_frame, public_text
from client.local_training import evaluate_coordinates
from client.torch_model import IGNORED, Text, TorchModel
from client.training import Trainer, TrainingPlan, open_trainer
from protocol.frames import Frame, Vector
from simulations.bench.case import Case
from simulations.bench.fleet_turns import Rival, in_turns
from simulations.bench.runner import OnProgress
from simulations.bench.training import Texts, village_texts
from simulations.experiments.shared_fleet import SharedSettings
from simulations.fleets.fleet import FleetPlan
from simulations.fleets.hidden_files import HiddenFiles
from simulations.fleets.language_model import FrameLearner, LocalTraining
from simulations.statistics import mean_interval

PEOPLE, COHORT, ROUNDS, MESSAGES, HELD_OUT = 24, 12, 5, 10, 3
NOISE_COHORT: Final = 100  # noise as on the mean of so many people at z = 1: twelve would drown in it on both sides
CLIP_NORM, NOISE_MULTIPLIER, DELTA, SEED = 0.6, COHORT / NOISE_COHORT, 1e-3, 0
_TORCH_NAMES: Final = {"attn_output": "self_attn.o_proj", "ffn_down": "mlp.down_proj"}


def language_model_case(rival: Rival, python: Path, on_progress: OnProgress) -> dict[str, Case]:
    """``lm_pfl`` and ``lm_held_out_loss``."""
    settings, training = SharedSettings(), TrainingPlan()
    trainer = open_trainer(settings.top_layers)
    model = trainer.torch_model
    on_progress("frame from public text", 0.0)
    frame = build_frame(
        model,
        trainer.model.sha256,
        [(each.tokens, each.prompt_length) for each in public_examples(trainer.engine, public_text())],
        kinds=settings.kinds,
        rank=settings.rank,
    )
    people = village_texts(trainer.engine, PEOPLE)
    texts = [prepare_input(each.training[-MESSAGES:]) for each in people]
    plan = FleetPlan(PEOPLE, COHORT, ROUNDS, CLIP_NORM, NOISE_MULTIPLIER, "fixed", seed=SEED)
    local = LocalTraining(training.epochs, training.batch_size, training.learning_rate)
    with tempfile.TemporaryDirectory() as cache:
        files = HiddenFiles(model, trainer.model.sha256, training.max_tokens, Path(cache))
        preparation = _prepare(files, texts, on_progress)
        learner = FrameLearner(model, frame, texts, files, local)
        task = peer_task(Path(cache), trainer, frame, texts, local, training.max_tokens)
        start = np.zeros(frame.dimension)
        turns = in_turns(
            plan, learner, start, rival, python, Path(cache), task,
            lambda part: on_progress(f"the language model, {rival.name}", part),
        )  # fmt: skip
    before, after, of_peer = (
        held_out_losses(model, frame, people, theta, training.max_tokens)
        for theta in (start, turns.theta, turns.theirs)
    )
    more = {
        "population": PEOPLE,
        "cohort": COHORT,
        "numbers": frame.dimension,
        "number_format": str(model.dtype).removeprefix("torch."),
        "ours_seconds": turns.ours,
        "peer_seconds": turns.peers,
        "preparation": preparation / PEOPLE,
        "ours_with_preparation": COHORT * len(turns.ours) / (sum(turns.ours) + preparation),
        "noise_multiplier": plan.noise_multiplier,
        "noise_as_of_people": NOISE_COHORT,
        "epsilon": plan.epsilon(DELTA),
    }
    difference, low, high = mean_interval([one - other for one, other in zip(after, of_peer, strict=True)])
    losses: dict[str, Any] = {
        "before": statistics.fmean(before),
        "difference": difference,
        "difference_interval": [low, high],
    }
    return {
        "lm_pfl": Case(*turns.rates(COHORT), "people/s", more),
        "lm_held_out_loss": Case(statistics.fmean(after), statistics.fmean(of_peer), "nats/token", losses),
    }


def held_out_losses(
    model: TorchModel, frame: Frame, people: Sequence[Texts], theta: Vector, max_tokens: int
) -> list[float]:
    """Of each person's later messages."""
    batches = [model.prepare(prepare_input(each.held_out[:HELD_OUT]), max_tokens=max_tokens) for each in people]
    return [evaluate_coordinates(model, frame, batch, theta) for batch in batches]


def _prepare(files: HiddenFiles, texts: Sequence[Sequence[Text]], on_progress: OnProgress) -> float:
    """Seconds to pass everybody's texts through the layers below and write the result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = 0.0
    for done, each in enumerate(texts):
        began = time.perf_counter()
        files.batch(each)
        seconds += time.perf_counter() - began
        on_progress("layers below the adapted ones", (done + 1) / len(texts))
    torch.set_num_threads(threads)
    return seconds


def peer_task(
    folder: Path,
    trainer: Trainer,
    frame: Frame,
    texts: Sequence[Sequence[Text]],
    local: LocalTraining,
    max_tokens: int,
) -> dict[str, Any]:
    """The same comparison for the peer: padded tokens and labels of each person, the frame by transformers' names."""
    for person, own in enumerate(texts):
        width = min(max_tokens, max(len(text[0]) for text in own))
        tokens, labels = np.zeros((len(own), width), np.int64), np.full((len(own), width), IGNORED)
        there = np.zeros((len(own), width), np.int64)
        for row, text in enumerate(own):
            cut = np.array(text[0][:width])
            tokens[row, : len(cut)], there[row, : len(cut)] = cut, 1
            labels[row, text[1] : len(cut)] = cut[text[1] :]
        np.savez(folder / f"person{person}.npz", tokens=tokens, there=there, labels=labels)
    sides = {f"{side}{place}": part for side, parts in (("u", frame.left), ("v", frame.right))
             for place, part in enumerate(parts)}  # fmt: skip
    scaled = {name: part * frame.scale if name[0] == "u" else part for name, part in sides.items()}
    np.savez(folder / "frame.npz", **scaled)  # type: ignore[arg-type]
    names = [name.split(".") for name in frame.modules]
    return {
        "task": "language_model",
        "model": str(trainer.model.path),
        "number_format": str(trainer.torch_model.dtype).removeprefix("torch."),
        "frame": {"modules": [f"model.layers.{layer}.{_TORCH_NAMES[kind]}" for _, layer, kind in names]},
        "optimiser": "adam",
        "rate": local.learning_rate,
        "epochs": local.epochs,
        "batch_size": local.batch_size,
    }
