"""Steering an answer token by token towards attributes that a person likes, without training (Drift).

With h the logits after the request and h_a those after the request with attribute a's sentence, of the same answer so
far, the next token is drawn from softmax(h + strength * sum_a w_a (h_a - h)): the answer that a reward sum_a w_a r_a
asks for (`attributes.py`) at a price of 1 / strength per nat of distance from the model (Kim et al. 2025, section 3).

Two guards are ours. A steered token must be plausible unsteered: at least PLAUSIBLE times as probable as the likeliest
one, or a small model leaves the language. And steering chooses words, never the end: the probability of ending the
answer here stays the model's own, so that no taste is served by longer or shorter answers.

All prompts are sequences of one context (`engine/together.py`): a token costs one batch of as many rows. So only
the few attributes that matter most to the person take part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.attributes import ATTRIBUTES, asking_for
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.sampling import Sampling
from edge_runtime.engine.together import composed_answer

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Engine

PLAUSIBLE: Final = 0.1
PROMPTS: Final = 5  # attributes that steer at once, at most
_NEGLIGIBLE: Final = 0.05  # a weight below it does not pay for its row


def steered(
    engine: Engine,
    messages: Sequence[ChatMessage],
    weights: NDArray[np.float64],
    strength: float,
    *,
    max_tokens: int,
    sampling: Sampling,
) -> Iterator[str]:
    """The answer to `messages` in pieces, steered by `weights` (ATTRIBUTES,) times `strength`; where none of them
    matters, the model's own.
    """
    chosen = strongest(weights)
    prompt = engine.tokenise(engine.chat_prompt(messages))
    if not chosen or strength == 0.0:
        return engine.generate(prompt, max_tokens=max_tokens, sampling=sampling)
    others = [engine.tokenise(engine.chat_prompt(asking_for(messages, ATTRIBUTES[one]))) for one in chosen]
    compose = composer(strength * weights[chosen], engine.end_of_turn)
    return composed_answer(engine, prompt, others, compose, max_tokens=max_tokens, sampling=sampling)


def strongest(weights: NDArray[np.float64]) -> list[int]:
    """Which attributes take part: at most PROMPTS, the largest weights first."""
    order = np.argsort(-np.abs(weights), kind="stable")[:PROMPTS]
    return [int(one) for one in order if abs(weights[one]) >= _NEGLIGIBLE]


def composer(weights: NDArray[np.float64], ends: Sequence[int]) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Composed log-probabilities (vocabulary,) from logits (1 + weights, vocabulary), the plain ones first; `ends` are
    the tokens that end an answer.
    """
    ending = np.asarray(ends, dtype=np.int64)
    own = weights.astype(np.float32)

    def compose(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        plain = _log_softmax(logits[0])
        # plain + w @ (others - plain); what a row adds to all tokens alike falls out below
        composed: NDArray[np.float32] = (1.0 - own.sum()) * plain + own @ logits[1:]
        words = plain.copy()
        words[ending] = -np.inf
        composed[words < words.max() + np.log(PLAUSIBLE)] = -np.inf
        going_on = np.log1p(-min(float(np.exp(plain[ending]).sum()), 1.0 - 1e-6))
        composed = _log_softmax(composed) + np.float32(going_on)
        composed[ending] = plain[ending]
        return composed

    return compose


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    highest = logits.max()
    shifted: NDArray[np.float32] = logits - highest
    result: NDArray[np.float32] = shifted - np.float32(np.log(np.exp(shifted).sum(dtype=np.float64)))
    return result
