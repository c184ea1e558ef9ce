"""What `penchant train` trains on, and the run that makes of it.

    texts      the owner's messages and choices, older to newer:   | trained on | stop by | held out for the gate |
    objective  without privacy: three texts to a chat, as turns (``objectives.turns``), grouped anew for every pass
               private: each text by itself, as a chat would carry one into another's gradient
    size       ordinary LoRA, or with privacy a thin frame; layers from the device's memory (``device_profile``)
    tiers      on top of the adapter that the fleet shares, if this device is in one (``tiers``)
    increments a training goes on from the live adapter with what is new, held near it by an anchor (``lifelong``)
    run        texts, settings, model and frame as digests, so that a kept state goes on with its own run only

Privacy is what the owner asks for: a personal adapter stays on the device, and an encrypted memory there holds the very
same texts. What leaves a device is private always (``client.contribution``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, TypeVar

import cbor2

from client.device_profile import MAX_TOKENS, TrainedShape, TrainingProfile, device_profile
from client.dp_sgd import MICRO_BATCH, PrivateSettings, epsilon_spent, noise_multiplier_for
from client.examples import own_choices, own_messages
from client.learning_rate import WARM_UP, Scheduled
from client.lifelong import (
    Increment,
    LifelongRecord,
    LifelongSettings,
    anchored,
    name_of,
    next_increment,
    record_after,
)
from client.lora_layout import AdapterSpace, LoraLayout
from client.objectives.next_token import next_token
from client.objectives.objective import Objective
from client.objectives.turns import MAX_TOKENS as CHAT_TOKENS
from client.objectives.turns import turns
from client.personal_gate import split_newest
from client.privacy_units import Units, conversation_of, units_of
from client.tiers import Footing, TieredWork
from client.torch_model import fast_dtype
from client.training import Trainer
from client.training_run import RunPlan, Work
from client.training_work import ObjectivesWork, PrivateObjectivesWork, TextSettings
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.statements import MemoryItem
from edge_runtime.models.catalogue import ModelFile, read_model_shape
from edge_runtime.models.resources import probe
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector

MAXIMUM_TEXTS: Final = 400  # of each kind, the newest
HELD_OUT_TEXTS: Final = 40  # of each kind, at most: they are scored twice under two adapters
EARLY_STOP_TEXTS, STOP_PARTS = 24, 6  # fewer texts tell too little to choose a step by a sixth of them
EPOCHS: Final = 3  # passes at most, where texts are kept out to stop by: the first that makes nothing better ends it
BLIND_EPOCHS: Final = 2  # passes where none are: a third was worse for five of six tuning people (at rate 0.003)
BATCH_SIZE: Final = 1  # chats of three texts
LEARNING_RATE: Final = 0.02  # of a frame of all layers; 0.05 is too much (``simulations.studies.frames.study``)
LORA_LEARNING_RATE: Final = 0.005
LIFELONG: Final = LifelongSettings()
FEWEST_NEW: Final = 4  # texts since the last training, from which on the next is worth while

Unit = Literal["text", "conversation"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Privacy:
    """What the owner asked for: at most ``epsilon`` lost by one ``unit`` to the adapter."""

    epsilon: float
    unit: Unit = "text"


@dataclass(frozen=True)
class OwnTexts:
    """Messages and choices of the owner, each in the order of their dates."""

    messages: tuple[MemoryItem, ...] = ()
    choices: tuple[Preference, ...] = ()

    def __len__(self) -> int:
        return len(self.messages) + len(self.choices)

    def split(self, parts: int, most: int | None = None) -> tuple[OwnTexts, OwnTexts]:
        """(older, newest ``parts``-th but ``most`` at most), each kind by itself."""
        messages, choices = split_newest(self.messages, parts, most), split_newest(self.choices, parts, most)
        return OwnTexts(tuple(messages[0]), tuple(choices[0])), OwnTexts(tuple(messages[1]), tuple(choices[1]))


@dataclass(frozen=True)
class TextParts:
    """To train on, to stop by (none: all steps are taken), held out for the gate. ``new`` of those that are trained on
    have not been before; ``names`` are theirs all, for the record of increment ``number``."""

    training: OwnTexts
    stop: OwnTexts
    held_out: OwnTexts
    new: int
    names: frozenset[str]
    number: int


def own_texts(device: Device) -> OwnTexts:
    """The newest ``MAXIMUM_TEXTS`` of each kind."""
    return OwnTexts(tuple(own_messages(device)[-MAXIMUM_TEXTS:]), tuple(own_choices(device)[-MAXIMUM_TEXTS:]))


def split_texts(
    texts: OwnTexts, *, private: bool, record: LifelongRecord | None = None, lifelong: LifelongSettings = LIFELONG
) -> TextParts:
    """The parts of a training that goes on from ``record`` (None: from nothing). Private runs stop by nothing: their
    noise was sized for all their steps."""
    older, held_out = texts.split(4, HELD_OUT_TEXTS)

    def increment(kind: Sequence[Item], name: Callable[[Item], str]) -> Increment[Item]:
        return next_increment(kind, name, record, lifelong, private=private)

    messages, choices = increment(older.messages, _message_name), increment(older.choices, _choice_name)
    new, old = OwnTexts(messages.new, choices.new), OwnTexts(messages.old, choices.old)
    stop, number = OwnTexts(), messages.number
    if not private and len(new) >= EARLY_STOP_TEXTS:
        new, stop = new.split(STOP_PARTS)
    training = OwnTexts(old.messages + new.messages, old.choices + new.choices)
    unseen = OwnTexts(
        increment(held_out.messages, _message_name).new,  # written late and dated early: it may have been learnt
        increment(held_out.choices, _choice_name).new,
    )
    names = frozenset(map(_message_name, training.messages)) | frozenset(map(_choice_name, training.choices))
    return TextParts(training, stop, unseen, len(new), names, number)


def _message_name(item: MemoryItem) -> str:
    return name_of(item.text)


def _choice_name(choice: Preference) -> str:
    return name_of(choice.prompt, choice.chosen)


def objective_of(engine: Engine, texts: OwnTexts, *, private: bool, tellings: int = 1) -> Objective:
    """What is minimised over these texts, told so many times where that makes a difference."""
    if private:
        return next_token(engine, texts.messages, texts.choices)
    return turns(engine, texts.messages, texts.choices, tellings=tellings)


def profile_of(model: ModelFile, texts: int, *, private: bool, memory_bytes: int | None) -> TrainingProfile:
    """What this device trains of this model, in ``memory_bytes`` at most. Raises PenchantError if that is nothing."""
    facts = probe()
    limits = [limit for limit in (facts.memory_bytes, memory_bytes) if limit is not None]
    profile = device_profile(
        min(limits, default=None),
        facts.cores,
        TrainedShape.of(model.path),
        texts,
        private=private,
        max_tokens=MAX_TOKENS if private else CHAT_TOKENS,
        bytes_per_number=fast_dtype().itemsize,
    )
    if profile.tier == "none":
        raise PenchantError(f"{profile.line()[:-1]}; raise --memory, or close other programs")
    return profile


def layers_of(frame: Frame, model: ModelFile) -> int:
    """How many layers from the top a frame reaches down."""
    return read_model_shape(model.path).layers - min(int(module.split(".")[1]) for module in frame.modules)


@dataclass(frozen=True)
class PersonalPlan:
    """A run from ``start`` (d,) with what is said about it: the name of its ``objective``, how many ``units`` the
    promise counts, and what one of them loses (``epsilon`` infinite: no promise) at ``delta``."""

    run: RunPlan
    start: Vector
    objective: str
    units: int
    epsilon: float
    delta: float


def plan_run(
    trainer: Trainer,
    space: AdapterSpace,
    parts: TextParts,
    privacy: Privacy | None,
    stand: Footing,
    record: LifelongRecord | None = None,
    *,
    rows: int = MICRO_BATCH,
) -> PersonalPlan:
    """The run that these texts and this privacy make, on top of the fleet's tier (``stand``) and of ``record`` (None:
    nothing was trained before), differentiating at most ``rows`` texts at a time. With privacy ``space`` is a frame."""
    private, engine = privacy is not None, trainer.engine
    stop = objective_of(engine, parts.stop, private=private) if len(parts.stop) else None
    epochs = EPOCHS if stop else BLIND_EPOCHS
    objective = objective_of(engine, parts.training, private=private, tellings=epochs)
    delta = 1.0 / (10 * len(parts.training))
    texts_sha256 = digest([objective.content, stop.content if stop else None])

    start = stand.start if record is None else record.theta
    beside = [[name, left.tobytes(), right.tobytes()] for name, (left, right) in sorted(stand.beside.items())]
    past = digest([start.tobytes(), beside, record.digest if record else ""])

    def on_what_stands(work: Work) -> Work:
        held = anchored(work, record, LIFELONG)
        return Scheduled(TieredWork(trainer.torch_model, stand.beside, held) if stand.beside else held)

    def plan_sha256(settings: object) -> str:
        model = [trainer.model.sha256, space.digest, str(trainer.torch_model.dtype)]
        return digest([repr(settings), repr(LIFELONG), WARM_UP, past, *model])

    if privacy is None:
        rate = LORA_LEARNING_RATE if isinstance(space, LoraLayout) else LEARNING_RATE
        settings = TextSettings(epochs, BATCH_SIZE, rate, patience=1)
        work = ObjectivesWork(trainer.torch_model, space, [objective], stop, settings, start=start)
        rows = min(rows, settings.batch_size)
        run = RunPlan(on_what_stands(work), texts_sha256, plan_sha256(settings), rows)
        return PersonalPlan(run, start, objective.name, len(parts.training), math.inf, delta)
    if isinstance(space, LoraLayout):
        raise PenchantError("private training needs a frame: ordinary LoRA has too many numbers for its noise")
    units = units_for(parts.training, privacy.unit)
    private_settings = PrivateSettings(
        epsilon=privacy.epsilon,
        delta=delta,
        epochs=6.0,
        sampling_rate=0.5,
        clip_norm=0.5,
        learning_rate=LEARNING_RATE,
    )
    sampling, steps = private_settings.sampling_rate, private_settings.steps
    noise = noise_multiplier_for(privacy.epsilon, delta, sampling, steps)
    noisy = PrivateObjectivesWork(
        trainer.torch_model, space, [objective], private_settings, noise, units=units, start=start
    )
    plan = plan_sha256([private_settings, privacy.unit, [members.tolist() for members in units.members]])
    run = RunPlan(on_what_stands(noisy), texts_sha256, plan, rows, noise, sampling)
    return PersonalPlan(run, start, objective.name, units.count, epsilon_spent(noise, sampling, steps, delta), delta)


def record_for(
    plan: PersonalPlan,
    parts: TextParts,
    privacy: Privacy | None,
    record: LifelongRecord | None,
    space: AdapterSpace,
    theta: Vector,
) -> LifelongRecord:
    """What the next increment must know of ``theta``, with the epsilon that one unit has lost to all increments: a text
    is in the noise of one of them (so the most that one took counts), a conversation may be in that of each."""
    spent, unit = (plan.epsilon, privacy.unit) if privacy else (None, "")
    if spent is not None and unit == "conversation" and record is not None and record.epsilon is not None:
        spent += record.epsilon
    return record_after(record, parts.number, parts.names, space, theta, epsilon=spent, unit=unit)


def units_for(texts: OwnTexts, unit: Unit) -> Units:
    """What is protected as one, of messages and then choices."""
    items: Sequence[MemoryItem | Preference] = [*texts.messages, *texts.choices]
    return units_of(range(len(items)) if unit == "text" else [conversation_of(item) for item in items])


def digest(value: object) -> str:
    """SHA-256 (hex) of plain values."""
    return sha256(cbor2.dumps(value, canonical=True)).hexdigest()
