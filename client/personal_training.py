"""`penchant train`: the device's own adapter, trained on its owner's texts and put in place only if it helps.

    open the model -> (private: frame from public text) -> plan (``personal_plan``) -> run (``training_run``)
    -> gate (``personal_gate``) -> install (``personal_install``)

The training is a run that may be paused, killed and resumed: the same call goes on where the last one stopped, and
starts over, saying why, if texts, settings or model have changed since. The newest quarter of the messages and of the
choices (40 of each at most) is never trained on: the new adapter goes live only if it surely predicts those better than
what is live now, with what memory recalls for them in the prompt, measured by llama.cpp on the quantised file. Below
``MINIMUM_TEXTS`` texts nothing is trained: retrieval alone serves such a device better.

Nothing leaves the device here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from client.device_profile import KINDS, MINIMUM_TEXTS, RANK, TrainingProfile
from client.examples import prepare_input, public_examples
from client.frame_builder import build_frame, public_text
from client.heap import drop_unused, give_back_large_blocks
from client.lifelong import LifelongRecord, record_of
from client.lora_layout import AdapterSpace, LoraLayout
from client.personal_gate import SCORING_CONTEXT, GateDecision, held_out_texts, judge
from client.personal_install import adapter_file, conclude
from client.personal_plan import (
    FEWEST_NEW,
    OwnTexts,
    Privacy,
    TextParts,
    digest,
    layers_of,
    own_texts,
    plan_run,
    profile_of,
    record_for,
    split_texts,
)
from client.tiers import bare_footing, combined, fleet_tier, footing
from client.training import Trainer, open_trainer, serving_model
from client.training_ledger import TrainingLedger
from client.training_run import (
    TrainingPaused,
    drop_state,
    is_kept,
    is_out_of_memory,
    open_run,
    result_of,
    run_training,
)
from edge_runtime.adapters.log import AdapterLog, AdapterVersion, Task
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile, cache_folder, write_atomically
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.errors import PenchantError
from protocol.frames import Frame

_FROM_NOTHING: Final = f"{LEARNT_PREFIX}training/from_nothing"
_JUDGING: Final = "judging on held-out texts"


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training run did: ``numbers`` trained with the ``objective`` on ``texts``, of which ``new_texts`` had not
    been trained on, in the ``increment``-th training of this adapter; ``stop_texts`` decided when to stop (0: all steps
    were taken). What one of the ``units`` loses is ``epsilon`` at ``delta`` (infinite: no privacy) to this run and
    ``epsilon_so_far`` to all trainings of this device together, had all their results been shown.

    ``served`` is the gate's decision on the held-out texts of each task with retrieval, ``plain`` that on all without,
    which decides nothing. ``installed`` is None if the gate refused; ``lost`` are the tasks that what is live serves
    and this adapter would not.
    """

    objective: str
    numbers: int
    increment: int
    texts: int
    new_texts: int
    units: int
    stop_texts: int
    epsilon: float
    delta: float
    epsilon_so_far: float
    steps: int
    seconds: float
    served: Mapping[Task, GateDecision]
    plain: GateDecision
    lost: tuple[Task, ...]
    installed: AdapterVersion | None


@dataclass(frozen=True)
class NothingNew:
    """There are ``texts`` new texts since the last training, fewer than the ``needed``: nothing was trained."""

    texts: int
    needed: int = FEWEST_NEW


@dataclass(frozen=True)
class RetrievalOnly:
    """There are ``texts`` texts, fewer than the ``needed``: nothing was trained."""

    texts: int
    needed: int = MINIMUM_TEXTS


def own_frame(
    trainer: Trainer,
    on_progress: Callable[[float], None],
    *,
    kinds: Sequence[str] = KINDS,
    rank: int = RANK,
) -> Frame:
    """The frame of this model's adapted layers from public text, built once and kept beside the models."""
    made_of = [trainer.model.sha256, trainer.torch_model.module_names(kinds), rank, public_text()]
    path = cache_folder() / f"frame-{digest(made_of)[:24]}.cbor"
    if path.is_file():
        try:
            frame = Frame.from_bytes(path.read_bytes())
            if frame.base_sha256 == trainer.model.sha256:
                return frame
        except PenchantError:
            path.unlink(missing_ok=True)  # damaged: made again below
    examples = prepare_input(public_examples(trainer.engine, public_text()))
    made = build_frame(
        trainer.torch_model, trainer.model.sha256, examples, kinds=kinds, rank=rank, on_progress=on_progress
    )
    write_atomically(path, made.to_bytes())
    return Frame.from_bytes(made.to_bytes())


def train_device(
    device: Device,
    *,
    privacy: Privacy | None,
    created: str,
    on_progress: Callable[[str, float], None],
    on_notice: Callable[[str], None] = lambda line: None,
    wants_pause: Callable[[], str | None] = lambda: None,
    fresh: bool = False,
    memory_bytes: int | None = None,
) -> TrainingOutcome | RetrievalOnly | NothingNew:
    """Train, judge, and install if better. ``privacy`` None trains without noise (said in the adapter's note).

    A run that was interrupted goes on, and so does the live adapter, with what is new; ``fresh`` starts both from
    nothing. ``on_notice`` gets a line about it. ``wants_pause`` is asked often, and a reason other than None ends the
    call with TrainingPaused. What is trained follows from the device, with ``memory_bytes`` at most, and from how many
    texts there are (``device_profile``). Raises PenchantError if memory does not suffice, or if something is forgotten
    meanwhile.
    """

    listener = _Listener(on_progress, on_notice, wants_pause)
    texts, private = own_texts(device), privacy is not None
    if len(texts) < MINIMUM_TEXTS:
        return RetrievalOnly(len(texts))
    model = serving_model()
    give_back_large_blocks()
    profile = profile_of(model, len(texts), private=private, memory_bytes=memory_bytes)
    with _memory_errors(), _threads(profile.threads):
        live = AdapterLog(device.vault).live()
        if live and live[0].base_sha256 != model.sha256:  # it serves with another model
            live = None
        made = _train(device, model, texts, privacy, profile, live, listener, created=created, fresh=fresh)
        if isinstance(made, NothingNew):
            return made
        open_trainer.cache_clear()  # its weights need not be in memory beside those that judge
        drop_unused()
        listener.reached(_JUDGING, 0.0)
        with Engine.open(model, context_tokens=SCORING_CONTEXT) as engine:
            held_out = held_out_texts(engine, device, made.parts.held_out.messages, made.parts.held_out.choices)
            before = live[1] if live else None
            verdict = judge(
                engine,
                held_out,
                before,
                made.data,
                lambda fraction: listener.reached(_JUDGING, fraction),
                serves=live[0].serves if live else (),
            )
    note = _note(made.record, privacy)
    installed = conclude(device.vault, live[0].id if live else None, made.data, verdict, made.record, note=note)
    return TrainingOutcome(
        objective=made.objective,
        numbers=made.numbers,
        increment=made.parts.number,
        texts=len(made.parts.training),
        new_texts=made.parts.new,
        units=made.units,
        stop_texts=len(made.parts.stop),
        epsilon=made.epsilon,
        delta=made.delta,
        epsilon_so_far=TrainingLedger(device.vault).epsilon(made.delta),
        steps=made.steps,
        seconds=made.seconds,
        served=verdict.served,
        plain=verdict.plain,
        lost=verdict.lost,
        installed=installed,
    )


@dataclass(frozen=True)
class _Listener:
    """Who follows a training, and may pause it."""

    on_progress: Callable[[str, float], None]
    on_notice: Callable[[str], None]
    wants_pause: Callable[[], str | None]

    def reached(self, stage: str, fraction: float) -> None:
        """Outside the steps, which are paused by ``run_training``. Raises TrainingPaused if a pause is wanted."""
        self.on_progress(stage, fraction)
        if reason := self.wants_pause():
            raise TrainingPaused(reason)


@dataclass(frozen=True)
class _Made:
    """What came of a run, without the model that it needed: the adapter's file, its record, and what is said of it."""

    data: bytes
    record: LifelongRecord
    parts: TextParts
    objective: str
    numbers: int
    units: int
    epsilon: float
    delta: float
    steps: int
    seconds: float


def _train(
    device: Device,
    model: ModelFile,
    texts: OwnTexts,
    privacy: Privacy | None,
    profile: TrainingProfile,
    live: tuple[AdapterVersion, bytes] | None,
    listener: _Listener,
    *,
    created: str,
    fresh: bool,
) -> _Made | NothingNew:
    """From the texts to the adapter's file; the run is kept until ``conclude``."""
    fleet = fleet_tier(device.vault, model.sha256)
    listener.reached("opening the model", 0.0)
    trainer = open_trainer(max(profile.layers, layers_of(fleet[0], model) if fleet else 0))
    listener.reached("opening the model", 1.0)
    space: AdapterSpace
    if profile.tier == "lora":
        space = LoraLayout.of(trainer.torch_model.module_shapes(profile.kinds), profile.rank)
    else:
        space = own_frame(
            trainer,
            lambda fraction: listener.reached("frame from public text", fraction),
            kinds=profile.kinds,
            rank=profile.rank,
        )
    stand = footing(*fleet, space) if fleet else bare_footing(space)
    listener.reached("reading the texts", 0.0)
    unit = privacy.unit if privacy else ""
    anew = fresh or _begun_from_nothing(device.vault)
    past = None if anew or not live else record_of(device.vault, live[0].sha256, space, unit=unit)
    parts = split_texts(texts, private=privacy is not None, record=past)
    if past is not None and parts.new < FEWEST_NEW:
        return NothingNew(parts.new)
    plan = plan_run(trainer, space, parts, privacy, stand, past, rows=profile.rows)
    work = plan.run.work
    _note_beginning(device.vault, from_nothing=anew)
    state = open_run(device.vault, plan.run, plan.start, fresh=fresh, on_notice=listener.on_notice)
    listener.on_notice(profile.line())
    listener.on_progress("training", state.step / work.steps)
    state = run_training(
        state,
        work,
        device.vault,
        on_progress=lambda fraction: listener.on_progress("training", fraction),
        wants_pause=listener.wants_pause,
    )
    theta = result_of(state)
    if np.array_equal(theta, plan.start):
        drop_state(device.vault)
        raise PenchantError("training moved no number; the adapter does not fit this model")
    record = record_for(plan, parts, privacy, past, space, theta)
    factors, alpha = combined(space, theta, stand.beside)
    data = adapter_file(
        model,
        factors,
        alpha=alpha,
        frame_sha256="" if isinstance(space, LoraLayout) else space.digest,
        parent_sha256=live[0].sha256 if live else "",
        epsilon=record.epsilon,
        created=created,
    )
    return _Made(
        data=data,
        record=record,
        parts=parts,
        objective=plan.objective,
        numbers=space.dimension,
        units=plan.units,
        epsilon=plan.epsilon,
        delta=plan.delta,
        steps=state.step,
        seconds=state.seconds,
    )


def _begun_from_nothing(vault: Vault) -> bool:
    """Whether the run that was interrupted was asked to start from nothing: then it goes on so."""
    return is_kept(vault) and vault.get_blob(_FROM_NOTHING) is not None


def _note_beginning(vault: Vault, *, from_nothing: bool) -> None:
    if from_nothing:
        vault.put_blob(_FROM_NOTHING, b"1")
    else:
        vault.delete_blob(_FROM_NOTHING)


def _note(record: LifelongRecord, privacy: Privacy | None) -> str:
    increment = f"increment {record.increments}, " if record.increments > 1 else ""
    if privacy is None:
        return f"own texts, {increment}without privacy"
    return f"own texts, {increment}epsilon {record.epsilon:.2f} per {privacy.unit}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch with this many threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turns failed allocations into one line that says what to do; what was trained so far is kept."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise PenchantError(
            "training needs more memory than it may take: raise --memory, or close other programs"
        ) from error
