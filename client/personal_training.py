"""`penchant train`: the device's own adapter, trained on its owner's texts and put in place only if it helps.

Example-level differential privacy (``client.dp_sgd``) protects single messages in the adapter; nothing leaves the
device here. The newest quarter of the messages and of the choices is never trained on: the new adapter goes live
only if it surely predicts those better than what is live now, measured by llama.cpp on the quantised file. Surely:
the mean gain over these texts, each against itself, has a one-sided 90 % interval (Student t) above zero. The noise of
8-bit activations, and one lucky text, do not pass that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from client.dp_sgd import PrivateSettings, train_privately
from client.examples import Example, choice_examples, message_examples, prepare_input, public_examples
from client.frame_builder import build_frame, public_text
from client.local_training import LocalSettings, train_coordinates
from client.training import Trainer, open_trainer
from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.adapters.log import AdapterLog, AdapterVersion
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import cache_folder, read_model_shape, write_atomically
from protocol.errors import PenchantError
from protocol.frames import Frame

TOP_LAYERS, FRAME_RANK = 4, 4
FRAME_KINDS = ("attn_output", "ffn_down")
MINIMUM_TEXTS = 12
MAXIMUM_TEXTS = 400
SCORING_CONTEXT = 1024
MAX_TOKENS = 160
CONFIDENCE = 0.9


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training run did. Losses are nats per token, means over the held-out texts; ``gain`` is what the second
    is lower by, ``gain_low`` the lower end of its one-sided 90 % interval. ``installed`` is None if the gate refused.
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


def split_newest(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(older three quarters, newest quarter, rounded up) of examples in the order of their dates.

    A single example is trained on: a kind of text of which there is nothing else says nothing about itself.
    """
    held_out = -(-len(examples) // 4) if len(examples) > 1 else 0
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
) -> TrainingOutcome:
    """Train, judge, and install if better. ``epsilon`` None trains without privacy (said in the adapter's note).

    Raises PenchantError if there are too few texts.
    """
    on_progress("opening the model", 0.0)
    trainer = open_trainer(TOP_LAYERS)
    on_progress("opening the model", 1.0)
    messages = message_examples(trainer.engine, device, MAXIMUM_TEXTS)
    choices = choice_examples(trainer.engine, device, MAXIMUM_TEXTS)
    texts = len(messages) + len(choices)
    if texts < MINIMUM_TEXTS:
        raise PenchantError(
            f"there are {texts} texts to learn from, at least {MINIMUM_TEXTS} are needed: remember more first"
        )
    training, held_out = (
        older + newer for older, newer in zip(split_newest(messages), split_newest(choices), strict=True)
    )
    frame = own_frame(trainer, lambda fraction: on_progress("frame from public text", fraction))
    on_progress("training", 0.0)
    delta = 1.0 / (10 * len(training))
    start = np.zeros(frame.dimension)
    if epsilon is None:
        batch = trainer.torch_model.prepare(prepare_input(training), max_tokens=MAX_TOKENS)
        theta = train_coordinates(trainer.torch_model, frame, batch, start, LocalSettings(epochs=3)).theta
        spent = float("inf")
    else:
        result = train_privately(
            trainer.torch_model,
            frame,
            prepare_input(training),
            start,
            PrivateSettings(
                epsilon=epsilon, delta=delta, epochs=6.0, sampling_rate=0.5, clip_norm=0.5, learning_rate=0.05
            ),
            max_tokens=MAX_TOKENS,
        )
        theta, spent = result.theta, result.epsilon
    on_progress("training", 1.0)
    shape = read_model_shape(trainer.model.path)
    data = write_adapter(
        frame.lora_factors(theta),
        alpha=float(frame.rank),
        metadata=AdapterMetadata(
            base_sha256=trainer.model.sha256,
            frame_sha256=frame.digest,
            epsilon=spent if np.isfinite(spent) else None,
            created=created,
        ),
        architecture=shape.architecture,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
    )
    on_progress("judging on held-out texts", 0.0)
    log = AdapterLog(device.vault)
    with Engine.open(trainer.model, context_tokens=SCORING_CONTEXT) as engine:
        live = log.live()
        before = _held_out_losses(engine, held_out, live[1] if live else None)
        after = _held_out_losses(engine, held_out, data)
    on_progress("judging on held-out texts", 1.0)
    gain, gain_low = paired_gain(before, after)
    installed = None
    if gain_low > 0:
        note = f"own texts, epsilon {spent:.2f} per text" if np.isfinite(spent) else "own texts, without privacy"
        installed = log.install(data, note=note)
    return TrainingOutcome(
        len(training),
        len(held_out),
        spent,
        delta,
        float(np.mean(before)),
        float(np.mean(after)),
        gain,
        gain_low,
        installed,
    )


def _held_out_losses(engine: Engine, examples: Sequence[Example], adapter: bytes | None) -> list[float]:
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
