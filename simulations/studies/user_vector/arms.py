"""What a soft token does to people's held-out texts: the tokens of every arm, their scores, both engines, the cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.examples import make_example
from client.training import Trainer
from client.user_vector import Text, soft_losses
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.answering.user_vector import UserVector, owner_history
from edge_runtime.device import Device
from edge_runtime.models.catalogue import ModelFile
from protocol.user_projection import UserProjection
from simulations.people import Person
from simulations.statistics import mean_interval
from simulations.studies.user_vector.soft_scoring import SoftScorer

TORCH_PEOPLE = 6  # whose texts torch scores too


@dataclass(frozen=True)
class HeldOutText:
    """A held-out message: the request that its token is made for, and the text to score."""

    cue: str
    text: Text


def held_out_texts(trainer: Trainer, person: Person, *, count: int, max_tokens: int) -> list[HeldOutText]:
    """The person's first ``count`` messages after the split, cut to ``max_tokens``, in training's prompt."""
    rows = []
    for message in person.test_messages[:count]:
        example = make_example(trainer.engine, plain_draft(message.cue), message.text)
        ids = example.tokens[:max_tokens]
        if len(ids) > example.prompt_length:
            rows.append(HeldOutText(message.cue, (ids, example.prompt_length)))
    return rows


Soft = NDArray[np.float32] | None
Tokens = dict[str, list[list[Soft]]]  # arm -> person -> text -> (1, n), or None for no token


def tokens_of(homes: Sequence[Path], texts: Sequence[Sequence[HeldOutText]], projection: UserProjection) -> Tokens:
    """The soft token of every arm for every held-out text."""
    tokens: Tokens = {"shared": [], "own": [], "own_mean": [], "stranger": []}
    devices = [Device.open(home) for home in homes]
    base = projection.frame.base_sha256
    try:
        for number, (device, rows) in enumerate(zip(devices, texts, strict=True)):
            stranger = UserVector(devices[(number + 1) % len(devices)], projection, base_sha256=base)
            own, shared = (UserVector(device, projection, base_sha256=base, strength=s) for s in (1.0, 0.0))
            tokens["own"].append([own.soft_prefix(row.cue) for row in rows])
            tokens["own_mean"].append([own.soft_prefix() for _ in rows])
            tokens["shared"].append([shared.soft_prefix() for _ in rows])
            tokens["stranger"].append([stranger.soft_prefix(row.cue) for row in rows])
    finally:
        for device in devices:
            device.close()
    return tokens


def scored(model: ModelFile, texts: Sequence[Sequence[HeldOutText]], tokens: Tokens) -> dict[str, list[float]]:
    """Nats per token for each arm and person, by llama.cpp."""
    with SoftScorer(model) as scorer:
        return {
            arm: [_person_loss(scorer, rows, own) for rows, own in zip(texts, people, strict=True)]
            for arm, people in tokens.items()
        }


def _person_loss(scorer: SoftScorer, rows: Sequence[HeldOutText], soft: Sequence[Soft]) -> float:
    found = []
    for row, token in zip(rows, soft, strict=True):
        ids, prompt = row.text
        found.append(scorer.score(token, ids[:prompt], ids[prompt:]))
    return -float(np.concatenate(found).mean())


def torch_agreement(
    trainer: Trainer, tokens: Sequence[Sequence[Soft]], texts: Sequence[Sequence[HeldOutText]]
) -> dict[str, float]:
    """Nats per token of whole texts in both engines behind the same tokens: mean, mean and largest difference."""
    differences, losses = [], []
    with SoftScorer(trainer.model) as scorer, torch.no_grad():
        for rows, own in list(zip(texts, tokens, strict=True))[:TORCH_PEOPLE]:
            for row, token in zip(rows, own, strict=True):
                summed, counts = soft_losses(trainer.torch_model, [row.text], torch.from_numpy(token))
                ours = _person_loss(scorer, [row], [token])
                differences.append(float(summed / counts) - ours)
                losses.append(ours)
    return {
        "texts": len(losses),
        "llama_loss": float(np.mean(losses)),
        "mean_difference": float(np.mean(differences)),
        "largest_difference": float(np.abs(differences).max()),
    }


def arm_table(losses: dict[str, list[float]], fleet: int) -> dict[str, Any]:
    """Each arm's loss, and what it changes (nats per token, negative is better) against what it should beat; means over
    people with 95 % intervals."""

    def interval(values: NDArray[np.float64]) -> dict[str, float]:
        mean, low, high = mean_interval(list(values))
        return {"mean": mean, "low": low, "high": high}

    table: dict[str, Any] = {}
    for arm, values in losses.items():
        run, _, kind = arm.rpartition("/")
        against = ["none"]
        if run:
            against.append("anchor")
        if kind.startswith("own"):
            against += [f"{run}/shared", f"{run}/stranger"]
        own = np.array(values)
        table[arm] = {
            "loss": interval(own),
            "change": {other: interval(own - losses[other]) for other in against if other != arm},
            "newcomers_change": {
                other: interval(own[fleet:] - np.array(losses[other])[fleet:])
                for other in against
                if other != arm and len(own) - fleet > 1
            },
        }
    return table


def answer_cost(
    model: ModelFile, home: Path, projection: UserProjection, rows: Sequence[HeldOutText], repeats: int = 5
) -> dict[str, float]:
    """Median milliseconds, one thread: to work the token out (request embedded, history read), and to score one text
    without and with it."""
    row = rows[0]
    ids, prompt = row.text
    times: dict[str, list[float]] = {"token": [], "plain": [], "with_token": []}
    with Device.open(home) as device, SoftScorer(model) as scorer:
        vector = UserVector(device, projection, base_sha256=projection.frame.base_sha256)
        for repeat in range(repeats):
            scorer.score(None, [ids[0], ids[0]], ids[:1])  # so that nothing of the text is held
            marks = [time.perf_counter()]
            scorer.score(None, ids[:prompt], ids[prompt:])
            marks.append(time.perf_counter())
            token = vector.soft_prefix(f"{row.cue} {repeat}")
            marks.append(time.perf_counter())
            scorer.score(token, ids[:prompt], ids[prompt:])
            marks.append(time.perf_counter())
            for name, before, after in zip(("plain", "token", "with_token"), marks, marks[1:], strict=False):
                times[name].append(1000 * (after - before))
        memories = len(owner_history(device).ids)
    return {**{name: float(np.median(values)) for name, values in times.items()}, "memories": memories}
