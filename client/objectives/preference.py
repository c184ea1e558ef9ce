"""Direct preference optimisation (DPO; Rafailov et al. 2023, equation 7) on the owner's choices and edits.

For prompt x, preferred reply y+ and rejected reply y-, with the adapter at theta and at the start theta_0:

    margin(theta) = [log p_theta(y+|x) - log p_theta0(y+|x)] - [log p_theta(y-|x) - log p_theta0(y-|x)]
    loss          = -log sigmoid(beta margin)

log p are sums over the reply's tokens. The reference values are computed once, from the same prepared batch. An edit is
a pair: what the owner wrote instead is preferred to what they edited. At theta_0 the margin is 0 and the loss log 2.

One pair is one example: its loss depends on no other pair, so example-level private training takes it as it is (the
unit is then a pair).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from client.examples import make_example, prepare_input
from client.lora_layout import AdapterSpace
from client.objectives.objective import Objective, Pair
from client.torch_model import Batch, TorchModel, as_theta
from edge_runtime.answering.answering import build_messages
from edge_runtime.engine.engine import Engine
from edge_runtime.feedback.preferences import Preference
from protocol.errors import PenchantError
from protocol.frames import Vector

BETA: Final = 0.1


@dataclass(frozen=True)
class PreparedPairs:
    """``batch``: the replies' rows, chosen and rejected by turns; ``reference`` (m, 2): their negative log-likelihoods
    (nats, summed) at the start; ``beta``."""

    batch: Batch
    reference: Tensor
    beta: float

    def __len__(self) -> int:
        return len(self.reference)


def preference(engine: Engine, choices: Sequence[Preference], *, weight: float = 1.0) -> Objective:
    """The choices as pairs, in the prompt that answers without notes."""
    pairs = []
    for choice in choices:
        prompt = build_messages(choice.prompt, [])
        pairs.append(Pair(make_example(engine, prompt, choice.chosen), make_example(engine, prompt, choice.rejected)))
    return Objective("preference", pairs=tuple(pairs), weight=weight)


def prepare_pairs(
    model: TorchModel,
    frame: AdapterSpace,
    pairs: Sequence[Pair],
    start: Vector,
    *,
    max_tokens: int,
    beta: float = BETA,
) -> PreparedPairs:
    """Cache what the steps need of the pairs, of which ``max_tokens`` must leave something. No number of a pair depends
    on another pair (``Batch.apart``): else the reference values would be of other losses than the steps'."""
    rows = prepare_input([text for pair in pairs for text in (pair.chosen, pair.rejected)])
    if not rows:
        raise PenchantError("there is no pair to train on; prefer one answer to another first")
    batch = model.prepare(rows, max_tokens=max_tokens, apart=True)
    model.set_frame(frame)
    reference = []
    with torch.no_grad():
        for index in torch.split(torch.arange(len(rows)), 8):
            model.set_coordinates(frame, as_theta(start))
            reference.append(model.losses(batch.rows(index))[0])
    model.set_frame(None)
    return PreparedPairs(batch, torch.cat(reference).reshape(-1, 2), beta)


def margins(model: TorchModel, frame: AdapterSpace, pairs: PreparedPairs, index: Tensor, theta: Tensor) -> Tensor:
    """The margins (m,) of the pairs ``index`` (m,) under ``theta`` (1, d) or (m, d), one per pair; the frame must be
    installed."""
    model.set_coordinates(frame, theta if len(theta) == 1 else theta.repeat_interleave(2, 0))
    summed, _ = model.losses(pairs.batch.rows(torch.stack([2 * index, 2 * index + 1], 1).flatten()))
    gain = pairs.reference[index] - summed.reshape(-1, 2)  # log p_theta - log p_theta0
    return gain[:, 0] - gain[:, 1]


def pair_losses(model: TorchModel, frame: AdapterSpace, pairs: PreparedPairs, index: Tensor, theta: Tensor) -> Tensor:
    """-log sigmoid(beta margin) (m,), as ``margins``."""
    return torch.nn.functional.softplus(-pairs.beta * margins(model, frame, pairs, index, theta))
