"""Guiding an answer token by token with a personal reward (PAD).

Chen et al., "PAD: Personalized Alignment of LLMs at Decoding-Time" (2024) re-weight the likeliest next tokens by
exp(strength * reward), with one reward model whose token-level reward a person's preference selects. Here that model
is the base model itself with a small linear head: the owner's direction in the bank, of which the part on the "hidden"
source reads off any hidden state what a text made of such states would be worth (`Taste.token_head`).

Of the next tokens at most BREADTH, each plausible, are evaluated as sequences of one batch, which gives the state of
each and the logits behind it: where the model is sure of the next token that costs nothing, else a batch of up to four
rows. Where the answer ends is left to the model, as in `steering.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.steering import PLAUSIBLE
from edge_runtime.engine.sampling import Sampling
from edge_runtime.engine.together import guided_answer
from protocol.errors import PenchantError
from protocol.feature_map import FeatureMap

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Engine

BREADTH: Final = 4


def token_head(feature_map: FeatureMap, direction: NDArray[np.float64], width: int) -> NDArray[np.float32]:
    """(width,) so that head . state is, up to a constant, what `direction` (k,) gives an answer whose pooled hidden
    state is `state` (width,). PenchantError if the map has no hidden states.
    """
    if "hidden" not in feature_map.sources:
        raise PenchantError("This release knows nothing of hidden states, which guiding needs.")
    # the first source, so the first rows
    head: NDArray[np.float32] = (feature_map.projection[:width] @ direction).astype(np.float32)
    return head


def guided(
    engine: Engine,
    prompt: Sequence[int],
    head: NDArray[np.float32],
    strength: float,
    *,
    max_tokens: int,
    sampling: Sampling,
) -> Iterator[str]:
    """The answer to `prompt` (tokens) in pieces, greedy, guided by `head` (n_embd,) times `strength`."""
    return guided_answer(
        engine,
        prompt,
        lambda states: strength * (states @ head).astype(np.float64),
        breadth=BREADTH,
        plausible=PLAUSIBLE,
        max_tokens=max_tokens,
        repeat_penalty=sampling.repeat_penalty,
    )
