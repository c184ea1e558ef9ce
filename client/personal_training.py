"""`penchant train`: the device's own adapter, trained on its owner's texts and put in place only if it helps.

Example-level differential privacy (``client.dp_sgd``) protects single messages in the adapter; nothing leaves the
device here. Every fourth text is never trained on: the new adapter goes live only if it predicts those
better than what is live now, measured by llama.cpp on the quantised file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from client.dp_sgd import PrivateSettings, train_privately
from client.examples import Example, device_examples, prepare_input, public_examples
from client.frame_builder import build_frame, public_text
from client.local_training import LocalSettings, train_coordinates
from client.training import Trainer, open_trainer
from edge_runtime.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.adapters import AdapterLog, AdapterVersion
from edge_runtime.device import Device
from edge_runtime.engine import Engine
from edge_runtime.models import cache_folder, read_model_shape, write_atomically
from protocol.errors import PenchantError
from protocol.frames import Frame

TOP_LAYERS, FRAME_RANK = 4, 4
FRAME_KINDS = ("attn_output", "ffn_down")
MINIMUM_TEXTS = 12
MAXIMUM_TEXTS = 400
SCORING_CONTEXT = 1024
MAX_TOKENS = 160


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training run did. Losses are nats per held-out token; ``installed`` is None if the gate refused."""

    texts: int
    held_out: int
    epsilon: float
    delta: float
    loss_before: float
    loss_after: float
    installed: AdapterVersion | None


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
    examples = device_examples(trainer.engine, device, messages=MAXIMUM_TEXTS, choices=MAXIMUM_TEXTS)
    if len(examples) < MINIMUM_TEXTS:
        raise PenchantError(
            f"there are {len(examples)} texts to learn from, at least {MINIMUM_TEXTS} are needed: remember more first"
        )
    held_out = [example for number, example in enumerate(examples) if number % 4 == 3]
    training = [example for number, example in enumerate(examples) if number % 4 != 3]
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
        before = _held_out_loss(engine, held_out, live[1] if live else None)
        after = _held_out_loss(engine, held_out, data)
    on_progress("judging on held-out texts", 1.0)
    installed = None
    if after < before:
        note = f"own texts, epsilon {spent:.2f} per text" if np.isfinite(spent) else "own texts, without privacy"
        installed = log.install(data, note=note)
    return TrainingOutcome(len(training), len(held_out), spent, delta, before, after, installed)


def _held_out_loss(engine: Engine, examples: list[Example], adapter: bytes | None) -> float:
    loaded = engine.load_adapter(adapter, sha256=sha256(adapter).hexdigest()) if adapter else None
    engine.use_adapters([(loaded, 1.0)] if loaded else [])
    nll, tokens = 0.0, 0
    for example in examples:
        prompt, reply = example.tokens[: example.prompt_length], example.tokens[example.prompt_length :][:MAX_TOKENS]
        nll -= float(engine.score(prompt, [reply])[0].sum())
        tokens += len(reply)
    engine.use_adapters([])
    if loaded:
        engine.unload_adapter(loaded)
    return nll / tokens
