"""`penchant train`: the device's own adapter, trained on its owner's texts and put in place only if it helps.

The training is a run that may be paused, killed and resumed (``client.training_run``): the same call goes on where the
last one stopped, and starts over, saying why, if texts, settings or model have changed since.

Example-level differential privacy (``client.dp_sgd``) protects single messages in the adapter; nothing leaves the
device here. The newest quarter of the messages and of the choices is never trained on: the new adapter goes live
only if it surely predicts those better than what is live now, measured by llama.cpp on the quantised file. Surely:
the mean gain over these texts, each against itself, has a one-sided 90 % interval (Student t) above zero. The noise of
8-bit activations, and one lucky text, do not pass that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain

import cbor2
import numpy as np

from client.dp_sgd import MICRO_BATCH, PrivateSettings, epsilon_spent, noise_multiplier_for
from client.examples import Example, choice_examples, message_examples, prepare_input, public_examples
from client.frame_builder import build_frame, public_text
from client.training import Trainer, open_trainer
from client.training_ledger import TrainingLedger
from client.training_run import (
    RunPlan,
    TrainingPaused,
    check_kept,
    drop_state,
    is_out_of_memory,
    open_run,
    result_of,
    run_training,
)
from client.training_work import PrivateWork, TextSettings, TextWork
from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.adapters.log import AdapterLog, AdapterVersion
from edge_runtime.adapters.versions import record_losses
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import cache_folder, read_model_shape, write_atomically
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector

TOP_LAYERS, FRAME_RANK = 4, 4
FRAME_KINDS = ("attn_output", "ffn_down")
MINIMUM_TEXTS = 12
MAXIMUM_TEXTS = 400
SCORING_CONTEXT = 1024
MAX_TOKENS = 160
CONFIDENCE = 0.9
EARLY_STOP_TEXTS, STOP_PARTS = 24, 6  # fewer texts tell too little to choose a step by a sixth of them
FIXED_EPOCHS, MOST_EPOCHS = 3, 8  # passes without and with early stopping


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training run did. Losses are nats per token, means over the held-out texts; ``gain`` is what the second
    is lower by, ``gain_low`` the lower end of its one-sided 90 % interval. ``installed`` is None if the gate refused.

    ``texts`` gave gradients, ``stop_texts`` decided when to stop (0: all steps were taken). ``epsilon`` is of this run,
    ``epsilon_so_far`` of all trainings of this device together, had all their results been shown.
    """

    texts: int
    held_out: int
    epsilon: float
    delta: float
    loss_before: float
    loss_after: float
    gain: float
    gain_low: float
    installed: AdapterVersion | None
    stop_texts: int
    steps: int
    seconds: float
    epsilon_so_far: float


def split_newest(examples: Sequence[Example], parts: int = 4) -> tuple[list[Example], list[Example]]:
    """(older ones, newest ``parts``-th, rounded up) of examples in the order of their dates.

    A single example is trained on: a kind of text of which there is nothing else says nothing about itself.
    """
    held_out = -(-len(examples) // parts) if len(examples) > 1 else 0
    cut = len(examples) - held_out
    return list(examples[:cut]), list(examples[cut:])


def paired_gain(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """(mean of before - after, lower end of its one-sided interval at ``CONFIDENCE``), paired over texts.

    Student's t; fewer than two texts bound nothing: the lower end is minus infinity.
    """
    from scipy import stats

    gains = np.asarray(before, dtype=np.float64) - np.asarray(after, dtype=np.float64)
    mean = float(gains.mean())
    if len(gains) < 2:
        return mean, float("-inf")
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return mean, mean - float(stats.t.ppf(CONFIDENCE, len(gains) - 1)) * error


def own_frame(trainer: Trainer, on_progress: Callable[[float], None]) -> Frame:
    """The frame of this model from public text, built once and kept beside the models."""
    name = f"frame-{trainer.model.sha256[:12]}-{TOP_LAYERS}x{len(FRAME_KINDS)}r{FRAME_RANK}.cbor"
    path = cache_folder() / name
    if path.is_file():
        try:
            frame = Frame.from_bytes(path.read_bytes())
            if frame.base_sha256 == trainer.model.sha256:
                return frame
        except PenchantError:
            path.unlink(missing_ok=True)  # damaged: made again below
    examples = prepare_input(public_examples(trainer.engine, public_text()))
    made = build_frame(
        trainer.torch_model,
        trainer.model.sha256,
        examples,
        kinds=FRAME_KINDS,
        rank=FRAME_RANK,
        on_progress=on_progress,
    )
    write_atomically(path, made.to_bytes())
    return Frame.from_bytes(made.to_bytes())


def train_device(
    device: Device,
    *,
    epsilon: float | None,
    created: str,
    on_progress: Callable[[str, float], None],
    on_notice: Callable[[str], None] = lambda line: None,
    wants_pause: Callable[[], str | None] = lambda: None,
    fresh: bool = False,
) -> TrainingOutcome:
    """Train, judge, and install if better. ``epsilon`` None trains without privacy (said in the adapter's note).

    A run that was interrupted goes on, unless ``fresh``; ``on_notice`` gets a line about it. ``wants_pause`` is asked
    often, and a reason other than None ends the call with TrainingPaused. Raises PenchantError if there are too few
    texts, if memory does not suffice, or if something is forgotten meanwhile.
    """

    def progress(stage: str, fraction: float) -> None:
        on_progress(stage, fraction)
        if reason := wants_pause():
            raise TrainingPaused(reason)

    with _memory_errors():
        progress("opening the model", 0.0)
        trainer = open_trainer(TOP_LAYERS)
        progress("opening the model", 1.0)
        training, stop_texts, held_out = _split_texts(trainer, device, private=epsilon is not None)
        frame = own_frame(trainer, lambda fraction: progress("frame from public text", fraction))
        progress("reading the texts", 0.0)
        delta = 1.0 / (10 * len(training))
        plan, spent = _plan(trainer, frame, training, stop_texts, epsilon, delta)
        state = open_run(device.vault, plan, np.zeros(frame.dimension), fresh=fresh, on_notice=on_notice)
        on_progress("training", state.step / plan.work.steps)
        state = run_training(
            state,
            plan.work,
            device.vault,
            on_progress=lambda fraction: on_progress("training", fraction),
            wants_pause=wants_pause,
        )
        theta = result_of(state)
        if not theta.any():
            drop_state(device.vault)
            raise PenchantError("training moved no number; the frame does not fit this model")
        log = AdapterLog(device.vault)
        live = log.live()
        data = _adapter_bytes(trainer, frame, theta, spent, live[0].sha256 if live else "", created)
        progress("judging on held-out texts", 0.0)
        with Engine.open(trainer.model, context_tokens=SCORING_CONTEXT) as engine:
            before = text_losses(engine, held_out, live[1] if live else None)
            progress("judging on held-out texts", 0.5)
            after = text_losses(engine, held_out, data)
        on_progress("judging on held-out texts", 1.0)
    gain, gain_low = paired_gain(before, after)
    names = [_digest([list(example.tokens), example.prompt_length]) for example in held_out]
    installed = None
    with device.vault.transaction():
        check_kept(device.vault)
        record_losses(device.vault, live[0].id if live else None, dict(zip(names, before, strict=True)))
        if gain_low > 0:
            note = f"own texts, epsilon {spent:.2f} per text" if np.isfinite(spent) else "own texts, without privacy"
            installed = log.install(data, note=note)
            record_losses(device.vault, installed.id, dict(zip(names, after, strict=True)))
        drop_state(device.vault)
    return TrainingOutcome(
        texts=len(training),
        held_out=len(held_out),
        epsilon=spent,
        delta=delta,
        loss_before=float(np.mean(before)),
        loss_after=float(np.mean(after)),
        gain=gain,
        gain_low=gain_low,
        installed=installed,
        stop_texts=len(stop_texts),
        steps=state.step,
        seconds=state.seconds,
        epsilon_so_far=TrainingLedger(device.vault).epsilon(delta),
    )


def _split_texts(
    trainer: Trainer, device: Device, *, private: bool
) -> tuple[list[Example], list[Example], list[Example]]:
    """(to train on, to stop by, held out for the gate), each from older to newer; PenchantError if too few."""
    kinds = [
        message_examples(trainer.engine, device, MAXIMUM_TEXTS),
        choice_examples(trainer.engine, device, MAXIMUM_TEXTS),
    ]
    if (texts := sum(map(len, kinds))) < MINIMUM_TEXTS:
        raise PenchantError(
            f"there are {texts} texts to learn from, at least {MINIMUM_TEXTS} are needed: remember more first"
        )
    older, held_out = _split_each(kinds, 4)
    training, stop_texts = older, [list[Example]()]
    if not private and sum(map(len, older)) >= EARLY_STOP_TEXTS:
        training, stop_texts = _split_each(older, STOP_PARTS)
    return list(chain(*training)), list(chain(*stop_texts)), list(chain(*held_out))


def _split_each(kinds: Sequence[list[Example]], parts: int) -> tuple[list[list[Example]], list[list[Example]]]:
    """`split_newest` of each kind: (the older ones, the newest)."""
    pairs = [split_newest(kind, parts) for kind in kinds]
    return [older for older, _ in pairs], [newest for _, newest in pairs]


def _plan(
    trainer: Trainer,
    frame: Frame,
    training: list[Example],
    stop_texts: list[Example],
    epsilon: float | None,
    delta: float,
) -> tuple[RunPlan, float]:
    """The run that these texts and this privacy make, and the epsilon that one text loses to it."""
    model, texts, kept_out = trainer.torch_model, prepare_input(training), prepare_input(stop_texts)
    texts_sha256 = _digest([[[list(tokens), prompt] for tokens, prompt in part] for part in (texts, kept_out)])

    def plan_sha256(settings: object) -> str:
        return _digest([repr(settings), MAX_TOKENS, trainer.model.sha256, frame.digest, str(model.dtype)])

    if epsilon is None:
        settings = TextSettings(MOST_EPOCHS if stop_texts else FIXED_EPOCHS)
        work = TextWork(model, frame, texts, kept_out, settings, max_tokens=MAX_TOKENS)
        return RunPlan(work, texts_sha256, plan_sha256(settings), settings.batch_size), math.inf
    private = PrivateSettings(
        epsilon=epsilon, delta=delta, epochs=6.0, sampling_rate=0.5, clip_norm=0.5, learning_rate=0.05
    )
    rate, steps = private.sampling_rate, private.steps
    noise = noise_multiplier_for(epsilon, delta, rate, steps)
    noisy = PrivateWork(model, frame, texts, private, noise, max_tokens=MAX_TOKENS)
    plan = RunPlan(noisy, texts_sha256, plan_sha256(private), MICRO_BATCH, noise, rate)
    return plan, epsilon_spent(noise, rate, steps, delta)


def _adapter_bytes(trainer: Trainer, frame: Frame, theta: Vector, epsilon: float, parent: str, created: str) -> bytes:
    """The adapter's file."""
    shape = read_model_shape(trainer.model.path)
    return write_adapter(
        frame.lora_factors(theta),
        alpha=float(frame.rank),
        metadata=AdapterMetadata(
            base_sha256=trainer.model.sha256,
            frame_sha256=frame.digest,
            parent_sha256=parent,
            epsilon=epsilon if np.isfinite(epsilon) else None,
            created=created,
        ),
        architecture=shape.architecture,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
    )


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


def _digest(value: object) -> str:
    return sha256(cbor2.dumps(value, canonical=True)).hexdigest()


def text_losses(engine: Engine, examples: Sequence[Example], adapter: bytes | None) -> list[float]:
    """Nats per token of each text under an adapter (None: the model alone)."""
    loaded = engine.load_adapter(adapter, sha256=sha256(adapter).hexdigest()) if adapter else None
    engine.use_adapters([(loaded, 1.0)] if loaded else [])
    losses = []
    for example in examples:
        prompt, reply = example.tokens[: example.prompt_length], example.tokens[example.prompt_length :][:MAX_TOKENS]
        losses.append(-float(engine.score(prompt, [reply])[0].mean()))
    engine.use_adapters([])
    if loaded:
        engine.unload_adapter(loaded)
    return losses
