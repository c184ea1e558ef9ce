"""How one person's adapter is made and judged in `simulations.studies.history.study`: the product's steps on a device
that holds some history, as functions of a workshop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from client.device_profile import MINIMUM_TEXTS, PRIVATE_RANK
from client.dp_sgd import PrivateSettings, noise_multiplier_for
from client.examples import own_messages
from client.learning_rate import Scheduled
from client.lora_layout import AdapterSpace
from client.objectives.grounded import grounded
from client.objectives.next_token import next_token
from client.objectives.turns import turns
from client.personal_gate import decide, held_out_texts, split_newest, token_losses
from client.personal_plan import BATCH_SIZE, BLIND_EPOCHS, LEARNING_RATE, LORA_LEARNING_RATE
from client.personal_training import own_frame
from client.tiers import bare_footing
from client.training import open_trainer, serving_model
from client.training_work import ObjectivesWork, PrivateObjectivesWork, TextSettings
from edge_runtime.device import Device
from edge_runtime.memory.statements import MemoryItem
from edge_runtime.models.catalogue import read_model_shape, write_atomically
from protocol.frames import Frame, Vector
from simulations.studies.personal_fleet import Workshop, run_work


@dataclass(frozen=True)
class Recipe:
    """Objective, passes over the texts, and Adam's step: ordinary LoRA on all maps, as `penchant train` trains it
    without privacy, but for stopping early. Steps are of ``batch_size`` chats or texts. ``private_rate``,
    ``clip_norm``, ``private_passes`` and ``sampling_rate`` are of DP-SGD in the frame, whose texts come by themselves:
    a chat would carry one text into another's gradient.
    """

    objective: Literal["turns", "next_token", "grounded"] = "turns"
    batch_size: int = BATCH_SIZE
    passes: int = BLIND_EPOCHS
    learning_rate: float = LORA_LEARNING_RATE
    private_rate: float = LEARNING_RATE
    clip_norm: float = 0.5
    private_passes: float = 6.0
    sampling_rate: float = 0.5
    seed: int = 0


@contextmanager
def open_workshop(kept: Path) -> Iterator[Workshop]:
    """The product's model, and the frame for private training that the file ``kept`` holds: that of the product when
    the study began, also if the product has got another since."""
    if not kept.is_file():
        trainer = open_trainer(read_model_shape(serving_model().path).layers)
        made = own_frame(trainer, lambda fraction: None, rank=PRIVATE_RANK)
        write_atomically(kept, made.to_bytes())
    frame = Frame.from_bytes(kept.read_bytes())
    trainer = open_trainer(top_layers_of(frame, read_model_shape(serving_model().path).layers))
    with closing(Workshop(trainer.model, trainer.torch_model, frame)) as shop:
        yield shop


def top_layers_of(frame: Frame, layers: int) -> int:
    """How many of a model's ``layers`` lie above the lowest that the frame adapts, that one included."""
    return layers - min(int(module.split(".")[1]) for module in frame.modules)


def split_history(device: Device) -> tuple[Sequence[MemoryItem], Sequence[MemoryItem]]:
    """(to train on, held out for the gate) of a device's messages, oldest first, as the first `penchant train` splits
    them; below its minimum everything is trained on."""
    messages = own_messages(device)
    return (messages, ()) if len(messages) < MINIMUM_TEXTS else split_newest(messages)


def personal_space(shop: Workshop, epsilon: float | None) -> AdapterSpace:
    """Where a device's numbers live: ordinary LoRA, with privacy the workshop's frame."""
    return shop.lora if epsilon is None else shop.frame


def train_person(shop: Workshop, device: Device, recipe: Recipe, *, epsilon: float | None = None) -> Vector:
    """The numbers (d,) that a device trains from nothing on what it holds; ``epsilon`` None: without privacy, else what
    one text may lose, at a delta of a tenth of one over the texts."""
    training, _ = split_history(device)
    engine, space = shop.engine, personal_space(shop, epsilon)
    start = bare_footing(space, seed=recipe.seed).start
    if epsilon is not None:
        private = PrivateSettings(
            epsilon=epsilon,
            delta=1.0 / (10 * len(training)),
            epochs=recipe.private_passes,
            sampling_rate=recipe.sampling_rate,
            clip_norm=recipe.clip_norm,
            learning_rate=recipe.private_rate,
        )
        noise = noise_multiplier_for(epsilon, private.delta, private.sampling_rate, private.steps)
        texts = next_token(engine, training, [])
        noisy = PrivateObjectivesWork(shop.torch_model, shop.frame, [texts], private, noise)
        return run_work(Scheduled(noisy), start, seed=recipe.seed)
    if recipe.objective == "turns":
        objective = turns(engine, training, [], tellings=recipe.passes)
    elif recipe.objective == "next_token":
        objective = next_token(engine, training, [])
    else:
        objective = grounded(engine, device.memory, training, [])
    settings = TextSettings(recipe.passes, recipe.batch_size, recipe.learning_rate)
    work = ObjectivesWork(shop.torch_model, space, [objective], None, settings)
    return run_work(Scheduled(work), start, seed=recipe.seed)


def gate_verdict(shop: Workshop, device: Device, adapter: bytes) -> dict[str, Any]:
    """What the product's gate says to an adapter on the messages that are held out of a device's history, each behind
    the prompt that would have served it, against no adapter: {"passed", "texts", "gain", "gain_low" (nats per token)}.
    """
    texts = held_out_texts(shop.engine, device, split_history(device)[1], [])
    served = [text.served for text in texts]
    before, after = (token_losses(shop.engine, served, one) for one in (None, adapter))
    found = decide(before, after)
    return {"passed": found.accepted, "texts": found.texts, "gain": found.gain, "gain_low": found.gain_low}
