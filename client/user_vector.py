"""What a device computes for a round on the fleet's user projection: a few steps on R and b, on its own texts.

Each of the newest texts is predicted, after its request, behind the soft token made of all that the owner said
*besides it*; what has the same words is left out of the history too, or the token could carry the answer. The token
stands below all layers, so its gradient comes back through all of them: with the weights frozen that is one pass
forward and one backward over activations alone. What it has in common with the adapters' training is the file
(``client.torch_model``, all layers "adapted", no adapter in them); the loss here is over the full vocabulary, which
costs less than a sixth of such a pass, so nothing is approximated.

Steps have a fixed length along the negative gradient: R and b share one scale by construction (``pull_back`` gives R
the gradient of b times a vector of at most unit length), and somebody whose texts are long or odd moves no further.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.examples import make_example
from client.local_training import LocalResult
from client.torch_model import IGNORED, TorchModel
from client.training import Settings, Trainer, _training_lock, open_trainer, read_plan
from client.work import LocalUpdate
from edge_runtime.answering.drafting import DEFAULT_CUE, plain_draft
from edge_runtime.answering.user_vector import check_embedder, owner_history
from edge_runtime.device import Device
from edge_runtime.models.catalogue import find_model, read_model_shape
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Vector
from protocol.messages import RoundTask
from protocol.user_projection import ProjectionFrame, UserProjection

WORK = "user_vector"  # a task's settings["work"]

Text = tuple[Sequence[int], int]  # tokens, and how many of the first are the prompt


@dataclass(frozen=True)
class UserVectorPlan:
    """Public settings of a task: how many texts of at most ``max_tokens``, how many steps of which length."""

    messages: int = 4
    max_tokens: int = 80
    epochs: int = 1
    batch_size: int = 4
    step: float = 0.25

    @staticmethod
    def of(settings: Settings) -> UserVectorPlan:
        """Read a task's settings, which name the work as well."""
        return read_plan(UserVectorPlan, {name: value for name, value in settings.items() if name != "work"})

    def settings(self) -> dict[str, float | int | str]:
        """The plan as a task's settings, with the name of the work."""
        return {"work": WORK, **asdict(self)}


@dataclass(frozen=True, eq=False)
class PersonalText:
    """A text of the owner's and x (r_in,) of everything else they said."""

    text: Text
    person: Vector


def personal_texts(trainer: Trainer, device: Device, frame: ProjectionFrame, newest: int) -> list[PersonalText]:
    """The owner's ``newest`` statements, each with the vector of the others as its request weighs them."""
    history = owner_history(device)
    items = [device.memory.item(number) for number in history.ids[max(0, len(history.ids) - newest) :]]
    cues = [item.cue or DEFAULT_CUE for item in items]
    examples = [
        make_example(trainer.engine, plain_draft(cue), item.text) for cue, item in zip(cues, items, strict=True)
    ]
    if not examples:
        raise PenchantError("there is no text to train on; remember something first")
    queries = device.embedder.embed(cues)
    return [
        PersonalText((example.tokens, example.prompt_length), frame.person(history.without(item.text), query))
        for example, item, query in zip(examples, items, queries, strict=True)
    ]


def soft_losses(model: TorchModel, texts: Sequence[Text], soft: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood (nats) and number of the tokens after each prompt, behind one soft token per text.

    soft (b, n) -> both (b,). Positions count from the soft token, as llama.cpp counts them.
    """
    if model.first_adapted:
        raise PenchantError("a soft token needs the gradient of every layer: open the model with all of them")
    if any(not 1 <= prompt < len(ids) for ids, prompt in texts):
        raise PenchantError("a text needs a prompt and at least one token after it")
    width = max(len(ids) for ids, _ in texts)
    tokens = torch.zeros(len(texts), width, dtype=torch.int64)
    targets = torch.full((len(texts), width), IGNORED, dtype=torch.int64)
    for row, (ids, prompt) in enumerate(texts):
        tokens[row, : len(ids)] = torch.tensor(list(ids))
        targets[row, prompt - 1 : len(ids) - 1] = tokens[row, prompt : len(ids)]
    hidden = torch.cat([soft[:, None].to(model.dtype), model.lower_hidden(tokens)], 1)  # (b, 1 + t, n)
    used = targets != IGNORED
    top = model.top_hidden(hidden)[:, 1:][used]
    nll = torch.nn.functional.cross_entropy((top @ model.output_weight.T).float(), targets[used], reduction="none")
    summed = torch.zeros(len(texts)).index_add(0, torch.nonzero(used)[:, 0], nll)
    return summed, used.sum(1)


def token_gradients(
    model: TorchModel, texts: Sequence[Text], soft: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """(summed losses (b,), target tokens (b,), gradient of each loss for its own soft token (b, n))."""
    leaf = torch.from_numpy(soft.astype(np.float32)).requires_grad_(True)
    losses, counts = soft_losses(model, texts, leaf)
    (gradients,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach().double().numpy(), counts.numpy(), gradients.double().numpy()


def train_projection(
    model: TorchModel,
    frame: ProjectionFrame,
    texts: Sequence[PersonalText],
    start: Vector,
    plan: UserVectorPlan,
    *,
    seed: int,
) -> LocalResult:
    """Steps of length ``plan.step`` on theta (d,) from ``start``, over one person's texts in batches.

    Raises PenchantError if no text is left after cutting, or a gradient is not finite.
    """
    cut = [PersonalText((one.text[0][: plan.max_tokens], one.text[1]), one.person) for one in texts]
    cut = [one for one in cut if len(one.text[0]) > one.text[1]]
    if not cut:
        raise PenchantError("no text is longer than its prompt within max_tokens; raise max_tokens")
    model.set_frame(None)
    theta, order = start.copy(), np.random.default_rng(seed)
    loss_sum, token_count = 0.0, 0
    for epoch in range(plan.epochs):
        shuffled = order.permutation(len(cut))
        for first in range(0, len(cut), plan.batch_size):
            batch = [cut[index] for index in shuffled[first : first + plan.batch_size]]
            soft = np.stack([frame.token(theta, one.person) for one in batch])
            losses, counts, gradients = token_gradients(model, [one.text for one in batch], soft)
            pulled = [frame.pull_back(theta, one.person, row) for one, row in zip(batch, gradients, strict=True)]
            gradient = np.sum(pulled, axis=0)
            length = float(np.linalg.norm(gradient))
            if not np.isfinite(length):
                raise PenchantError("training diverged; lower the step")
            if length > 0.0:
                theta = theta - plan.step * gradient / length
            if epoch == 0:
                loss_sum += float(losses.sum())
                token_count += int(counts.sum())
    return LocalResult(theta, loss_sum / max(token_count, 1), token_count)


class UserVectorWork:
    """``client.work.LocalWork`` for rounds whose settings name this work."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def compute(self, task: RoundTask, artefacts: Mapping[str, bytes]) -> LocalUpdate:
        """Train for one round. Raises PenchantError if task, model and artefacts do not belong together."""
        plan = UserVectorPlan.of(task.settings)
        frame = ProjectionFrame.from_bytes(artefacts["frame"])
        if frame.base_sha256 != task.base_sha256 or frame.dimension != task.dimension:
            raise PenchantError("the round's projection was made for another model; this device takes no part")
        shared = Coordinates.from_bytes(artefacts["shared"], frame_sha256=frame.digest, dimension=frame.dimension).rows
        check_embedder(self._device, UserProjection(frame, shared[0]))
        with _training_lock:
            trainer = open_full_trainer()
            if trainer.model.sha256 != task.base_sha256:
                raise PenchantError("the fleet trains another model file than the one on this device")
            texts = personal_texts(trainer, self._device, frame, plan.messages)
            result = train_projection(trainer.torch_model, frame, texts, shared[0], plan, seed=task.round)
        return LocalUpdate(result.theta - shared[0], result.loss, 1)


def open_full_trainer() -> Trainer:
    """The process's trainer with every layer within reach of gradients."""
    return open_trainer(_layers_of(os.environ.get("PENCHANT_MODEL")))


@lru_cache(maxsize=1)
def _layers_of(chosen: str | None) -> int:
    return read_model_shape((find_model(chosen) if chosen else find_model()).path).layers
