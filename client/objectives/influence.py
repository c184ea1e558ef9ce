"""Token weights from what the owner's history does to the prediction of each token (NextQuill: Causal
Preference Modeling for Enhancing LLM Personalization).

For token t of reply y to request x, with h the notes that recall finds in the owner's history, the frozen base model
gives the causal effect of the history on the token

    d_t = log p(y_t | h, x, y_<t) - log p(y_t | x, y_<t)

(an intervention: the same text with and without h). Tokens that the history makes likelier carry the owner's ways;
they get more of the loss:

    u_t = FLOOR + min(max(d_t, 0), CAP),    w_t = u_t / mean_t(u)

FLOOR > 0 keeps every token in the loss, CAP (nats) bounds what one surprising token gets, and the mean of 1 per text
keeps texts of equal length equally heavy. NextQuill concentrates the loss on preference-bearing tokens; this weight,
its floor and its cap are ours. The effect is computed once, before training.

The weights of a message depend on earlier messages: not for private training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.examples import Example
from client.objectives.objective import Objective
from client.torch_model import TorchModel
from protocol.errors import PenchantError

FLOOR: Final = 0.5
CAP: Final = 2.0
# Natural-log probability of every token after the prompt, by the frozen base: (reply tokens,)
LogProbabilities = Callable[[Example], NDArray[np.floating]]


def token_weights(
    with_history: NDArray[np.floating],
    without: NDArray[np.floating],
    *,
    floor: float = FLOOR,
    cap: float = CAP,
) -> tuple[float, ...]:
    """The weights w (t,) of one reply's tokens from its two log-probabilities (t,); mean 1."""
    if with_history.shape != without.shape or not (floor > 0 and cap > 0):
        raise PenchantError("token weights need two log-probabilities per token, a floor and a cap above 0")
    effect = np.clip(with_history - without, 0.0, cap)
    raw = floor + effect
    return tuple(float(value) for value in raw / raw.mean()) if len(raw) else ()


def base_log_probabilities(model: TorchModel, example: Example) -> NDArray[np.floating]:
    """``LogProbabilities`` of the frozen ``model``, in torch: the full vocabulary, no adapter."""
    model.set_frame(None)
    return model.log_probabilities(example.tokens)[example.prompt_length - 1 :]


def influence(
    plain: Sequence[Example],
    with_notes: Sequence[Example],
    log_probabilities: LogProbabilities,
    *,
    weight: float = 1.0,
) -> Objective:
    """The ``plain`` examples, weighted by the effect of the notes in ``with_notes`` (the same replies)."""
    texts = []
    for short, grounded in zip(plain, with_notes, strict=True):
        if short.tokens[short.prompt_length :] != grounded.tokens[grounded.prompt_length :]:
            raise PenchantError("the weighted example and the one with notes must have the same reply")
        texts.append(replace(short, weights=token_weights(log_probabilities(grounded), log_probabilities(short))))
    return Objective("influence", tuple(texts), weight=weight)
