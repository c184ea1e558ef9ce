"""What studies of a person's own training have in common: people with a long history, a device that holds part of it,
the product's training on it, and losses on the file that serves.

The parts of a person's file are put together and split anew, so that histories are long: the newest ``held_out`` texts
are held out, the ``history`` before them are what a device may hold. A smaller history is the newest part of it: the
same person, the same held-out texts, and less to learn from.

People are put into groups by a seed: ``judged`` (in the tables), ``tuning`` (settings are chosen on them) and ``fleet``
(everybody else with enough text: they train the shared adapter). No text is in two groups.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch

from client.device_profile import ALL_KINDS, LORA_RANK
from client.examples import Example
from client.lora_layout import AdapterSpace, LoraLayout
from client.personal_gate import SCORING_CONTEXT, token_losses
from client.torch_model import TorchModel
from client.training_run import RunPlan, Work, advance, is_finished, new_state, result_of
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import TextEmbedder
from edge_runtime.memory.statements import Statement
from edge_runtime.models.catalogue import ModelFile, read_model_shape
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector
from simulations.datasets.writing import Selection, blogger, dated_texts, novel, plain_texts, read_records
from simulations.experiments.arms import HeldOut, adapter_bytes, held_out_texts
from simulations.people import Message, Person

FILES: Final = {"blogs": "blogs/fleet.jsonl.gz", "novels": "novels/novels.jsonl.gz"}
ROWS_AT_ONCE: Final = 16  # texts differentiated at once: bounds memory, changes no result
SINGLE_TEXTS: Final = 4  # in a step of a study whose objective is not of chats


@dataclass(frozen=True)
class HistorySplit:
    """How people are chosen and cut. ``fleet_history``: the fewest texts that a member of the fleet needs."""

    source: str
    judged: int = 60
    tuning: int = 8
    fleet: int = 60
    history: int = 60
    held_out: int = 2
    fleet_history: int = 8
    minimum_words: int = 30
    cue_words: int = 10
    max_words: int = 28
    seed: int = 0

    def selection(self, history: int) -> Selection:
        """For people with at least ``history`` texts."""
        return Selection(
            train_messages=self.history,
            test_messages=self.held_out,
            minimum_train_messages=history,
            minimum_test_messages=self.held_out,
            minimum_words=self.minimum_words,
            cue_words=self.cue_words,
            max_words=self.max_words,
        )


@dataclass(frozen=True)
class Groups:
    """People in the order of the seed; ``candidates``: how many people of the file have the full history."""

    judged: tuple[Person, ...]
    tuning: tuple[Person, ...]
    fleet: tuple[Person, ...]
    candidates: int


def load_groups(folder: Path, split: HistorySplit) -> Groups:
    """The people of a source below ``folder``. Raises PenchantError if too few have the history that is asked for."""
    if split.source not in FILES:
        raise PenchantError(f"there is no source {split.source!r}: take one of {', '.join(FILES)}")
    records = list(read_records(folder / FILES[split.source]))
    random.Random(f"history {split.source} {split.seed}").shuffle(records)
    long = list(_unlike(_people(records, split, split.history), set()))
    wanted = split.judged + split.tuning
    if len(long) < wanted:
        raise PenchantError(
            f"{split.source}: {len(long)} people have {split.history} texts and {split.held_out} to hold out, "
            f"not {wanted}: ask for fewer people, or for a shorter history"
        )
    chosen = long[:wanted]
    taken = {text for _, texts in chosen for text in texts}
    others = _unlike(_people(records, split, split.fleet_history), taken)
    fleet = [person for person, _ in others][: split.fleet]
    people = [person for person, _ in chosen]
    return Groups(tuple(people[: split.judged]), tuple(people[split.judged :]), tuple(fleet), len(long))


def _people(
    records: Sequence[dict[str, Any]], split: HistorySplit, history: int
) -> Iterator[tuple[Person | None, set[str]]]:
    """Person (None: too little text) and longer texts of each record, cut anew."""
    selection = split.selection(history)
    for record in records:
        if split.source == "blogs":
            rows = [row for part in ("train", "val", "test") for row in dated_texts(record, part)]
            rows.sort(key=lambda row: row[0])
            cut = cut_of([text for _, text in rows], split)
            parts = {"train": [list(row) for row in rows[:cut]], "test": [list(row) for row in rows[cut:]]}
            yield blogger({**record, **parts, "val": []}, "fleet", selection)
        else:
            passages = [text for part in ("train", "test") for text in plain_texts(record, part)]
            cut = cut_of(passages, split)
            yield novel({**record, "train": passages[:cut], "test": passages[cut:]}, "fleet", selection)


def cut_of(texts: Sequence[str], split: HistorySplit) -> int:
    """Where the held-out part of texts in order of time begins: it holds exactly ``held_out`` long enough ones."""
    long = [place for place, text in enumerate(texts) if len(text.split()) >= split.minimum_words]
    return long[-split.held_out] if len(long) >= split.held_out else len(texts)


def _unlike(candidates: Iterator[tuple[Person | None, set[str]]], taken: set[str]) -> Iterator[tuple[Person, set[str]]]:
    """Those with enough text of which none is in ``taken``, or in the text of one before."""
    seen = set(taken)
    for person, texts in candidates:
        if person is not None and not texts & seen:
            seen |= texts
            yield person, texts


@contextmanager
def device_of(history: Sequence[Message], embedder: TextEmbedder) -> Iterator[Device]:
    """A device of its own that remembers ``history``, gone afterwards."""
    with (
        TemporaryDirectory(prefix="penchant-study-") as home,
        Device.open(Path(home) / "home", create=True, key_method="file", embedder=embedder) as device,
    ):
        device.memory.remember_many(Statement(message.text, message.cue, message.date) for message in history)
        yield device


class Workshop:
    """One model, open in torch and in llama.cpp. One thread each. People train in ``lora``, the product's space without
    privacy, or in ``frame``."""

    def __init__(self, model: ModelFile, torch_model: TorchModel, frame: Frame | None = None) -> None:
        if frame is not None and frame.base_sha256 != model.sha256:
            raise PenchantError(f"the frame was made for another model file than {model.name}")
        torch.set_num_threads(1)
        self.model, self.torch_model, self._frame = model, torch_model, frame
        self.lora = LoraLayout.of(torch_model.module_shapes(ALL_KINDS), LORA_RANK)
        self.shape = read_model_shape(model.path)
        self.engine = Engine.open(model, context_tokens=SCORING_CONTEXT, threads=1)

    @property
    def frame(self) -> Frame:
        """The frame. Raises PenchantError if the workshop was opened without one."""
        if self._frame is None:
            raise PenchantError("this workshop has no frame")
        return self._frame

    def close(self) -> None:
        """Free llama.cpp's part."""
        self.engine.close()

    def adapter(self, theta: Vector, space: AdapterSpace) -> bytes:
        """The GGUF of numbers (d,) in a space of this model."""
        return adapter_bytes(space, theta, self.model, self.shape, round=0, epsilon=None)

    def texts(self, person: Person, split: HistorySplit, memory_of: Device | None) -> list[Example]:
        """The person's held-out texts behind the prompt of drafting, with what a memory recalls for each request."""
        limits = HeldOut(messages=split.held_out, facts=0, choices=0)
        rows = held_out_texts(self.engine, person, limits, memory_of)
        return [Example(row.prompt + row.reply, len(row.prompt)) for row in rows]

    def loss(self, texts: Sequence[Example], adapter: bytes | None) -> float:
        """Nats per token over all the texts under an adapter, None: the model alone; by llama.cpp."""
        return float(np.concatenate(token_losses(self.engine, texts, adapter)).mean())


def run_work(work: Work, start: Vector, *, seed: int = 0) -> Vector:
    """What `penchant train` makes of this work from ``start`` (d,), without the checkpoints in between."""
    state = new_state(RunPlan(work, "", "", ROWS_AT_ONCE), start, run=0, seed=seed)
    while not is_finished(state, work):
        state = advance(state, work)
    theta = result_of(state)
    if np.array_equal(theta, np.asarray(start)):
        raise PenchantError("training moved no number; the frame does not fit this model")
    return theta
