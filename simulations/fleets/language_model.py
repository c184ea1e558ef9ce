"""People of a fleet in the shared frame of a language model, a block of them trained in one batch.

U and V are everybody's, R is each person's own: a batch in which every text carries its person's coordinates gives all
their gradients in one backward pass (``client.framed_linear``), so a block's local training is that of one person with
longer batches:

    theta_p <- theta_p - Adam( grad of sum over p's texts of nll / p's target tokens ) ,   delta_p = theta_p - theta

Texts of a person are taken in order, ``batch_size`` at a time, ``epochs`` times; whoever has fewer is done earlier.
Adam (Kingma and Ba 2015) starts afresh for everybody. The output layer is sampled (``client.output_words``) with one
draw per round and step, from public numbers alone, and the words of one text take no part in another's loss: what
somebody offers depends on nobody else. Layers below the adapted ones are read from disk (``hidden_files``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Final

import torch
from torch import Tensor

from client.heap import drop_unused
from client.output_words import draw_of
from client.packed_texts import ATTENTION, attend
from client.torch_model import IGNORED, Batch, Text, TorchModel
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector
from simulations.fleets.blocks import BlockSum, People, sum_clipped
from simulations.fleets.hidden_files import HiddenFiles

PEOPLE_AT_ONCE: Final = 8  # with five texts each as fast per person as more on one thread, and 0.3 GB
_BETAS: Final = (0.9, 0.999)
_TINY: Final = 1e-8
_PLACES: Final = 2**16  # more batches in a pass than anybody has: a draw depends on nobody else's number of texts


@dataclass(frozen=True)
class LocalTraining:
    """Everybody's own training: ``epochs`` passes in batches of ``batch_size`` texts with Adam at
    ``learning_rate``."""

    epochs: int = 1
    batch_size: int = 5
    learning_rate: float = 0.05


class FrameLearner:
    """``people``: the texts of each; ``files`` prepares them for ``model``."""

    def __init__(
        self,
        model: TorchModel,
        frame: Frame,
        people: Sequence[Sequence[Text]],
        files: HiddenFiles,
        local: LocalTraining,
    ) -> None:
        if not all(people):
            raise PenchantError("everybody in a fleet needs a text to train on")
        self._model, self._frame, self._people, self._files, self._local = model, frame, people, files, local

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker process, where nobody has loaded a model yet."""
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, attend)
        self.__dict__.update(state)

    @property
    def dimension(self) -> int:
        """See ``Learner``."""
        return self._frame.dimension

    @property
    def people_at_once(self) -> int:
        """See ``Learner``."""
        return PEOPLE_AT_ONCE

    @cached_property
    def digest(self) -> str:
        """See ``Learner``."""
        whole = hashlib.sha256(f"{self._files.version} {self._frame.digest} {self._local}".encode())
        for texts in self._people:
            whole.update(self._files.path(texts).name.encode())
        return whole.hexdigest()

    def clipped_sum(self, people: People, theta: Vector, clip_norm: float) -> BlockSum:
        """See ``Learner``."""
        drop_unused()  # tensors of every length leave holes in the heap: 1.5 GB after a thousand people
        return sum_clipped(*self.deltas(people, theta), clip_norm)

    def deltas(self, people: People, theta: Vector) -> tuple[Tensor, Tensor]:
        """Everybody's offer (b, d), and their loss (b,) over the first pass, nats per token, before each step."""
        local, draw = self._local, draw_of(theta)
        batches = [self._files.batch(self._people[person]) for person in people]
        start = torch.from_numpy(theta).float()
        own = start.expand(len(people), -1).clone()
        first, second = torch.zeros_like(own), torch.zeros_like(own)  # Adam's moments
        nll, tokens = torch.zeros(len(people)), torch.zeros(len(people))
        counts = [len(batch.lengths) for batch in batches]
        per_pass = -(-max(counts) // local.batch_size)
        taken = torch.zeros(len(people))  # steps so far, by person
        self._model.set_frame(self._frame)
        for epoch, place in product(range(local.epochs), range(per_pass)):
            begin = place * local.batch_size
            index = [torch.arange(count)[begin : begin + local.batch_size] for count in counts]
            active = torch.tensor([len(each) > 0 for each in index])  # whoever has no text left takes no step
            gradient, losses, used = self._gradients(batches, index, own, draw + _PLACES * epoch + place)
            if epoch == 0:
                nll, tokens = nll + losses, tokens + used
            g, powers = gradient[active], (taken := taken + active)[active, None]
            first[active] = _BETAS[0] * first[active] + (1 - _BETAS[0]) * g
            second[active] = _BETAS[1] * second[active] + (1 - _BETAS[1]) * g.square()
            size = (second[active] / (1 - _BETAS[1] ** powers)).sqrt() + _TINY
            own[active] -= local.learning_rate * first[active] / (1 - _BETAS[0] ** powers) / size
        self._model.set_frame(None)
        return own - start, nll / tokens.clamp(min=1)

    def _gradients(
        self, batches: Sequence[Batch], index: Sequence[Tensor], own: Tensor, draw: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each person's mean loss over their texts ``index``: (b, d), summed losses (b,) and target tokens (b,)."""
        batch, person = _together(batches, index)
        tokens = (batch.targets != IGNORED).sum(1)
        per_person = torch.zeros(len(own)).index_add(0, person, tokens.float())
        gradient, nll = torch.zeros_like(own), torch.zeros(len(own))
        for piece in self._model.pieces(batch, torch.arange(len(person)), len(person)):
            theta = own[person[piece]].requires_grad_(True)
            self._model.set_coordinates(self._frame, theta)
            losses, _ = self._model.losses(batch.rows(piece), draw=draw)
            (losses / per_person[person[piece]]).sum().backward()  # type: ignore[no-untyped-call]
            assert theta.grad is not None
            gradient.index_add_(0, person[piece], theta.grad)
            nll.index_add_(0, person[piece], losses.detach())
        return gradient, nll, per_person


def _together(batches: Sequence[Batch], index: Sequence[Tensor]) -> tuple[Batch, Tensor]:
    """The texts ``index`` of each person's batch in one, and whose each is (n,)."""
    parts = [batch.rows(rows) for batch, rows in zip(batches, index, strict=True)]
    lengths = torch.cat([part.lengths for part in parts])
    width, size = int(lengths.max()), parts[0].hidden.shape[2]
    hidden = torch.zeros(len(lengths), width, size, dtype=parts[0].hidden.dtype)
    targets = torch.full((len(lengths), width), IGNORED)
    at = 0
    for part in parts:
        rows, places = slice(at, at + len(part.lengths)), slice(0, part.hidden.shape[1])
        hidden[rows, places], targets[rows, places] = part.hidden, part.targets
        at += len(part.lengths)
    person = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part.lengths) for part in parts]))
    return Batch(hidden, lengths, targets, None, True), person
