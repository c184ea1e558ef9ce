"""Best of n: several answers to one prompt, of which the one that the owner would like best is given.

The first candidate is the answer that would be given anyway; the others are sampled. All grow side by side behind one
evaluated prompt (`engine/together.py`). The best by personal reward is taken (Stiennon et al. 2020; its distance from
the model is at most log n - (n - 1) / n nats).

A reward learnt from choices rises with length almost everywhere, and best-of-n would sell length as taste. So the
reward's component along the logarithm of the length is taken out (`slope`: what the reward gains per unit of it in the
owner's own choices), and only candidates whose length is within BAND of the first one's compete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.attributes import log_length
from edge_runtime.answering.lengths import whole_sentences
from edge_runtime.engine.sampling import Sampling
from edge_runtime.engine.together import candidates
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Engine

MOST_CANDIDATES: Final = 32
BAND: Final = math.log(1.25)
_TEMPERATURE: Final = 0.8  # of the candidates beside the first where the owner's own choice is greedy

Judge = Callable[[Sequence[str]], NDArray[np.float64]]  # answers -> their rewards (n,)


@dataclass(frozen=True)
class Best:
    """The answer, which of the candidates it was, and all their rewards after the length control."""

    text: str
    index: int
    rewards: tuple[float, ...]


def best_of(
    engine: Engine,
    prompt: Sequence[int],
    judge: Judge,
    slope: float,
    *,
    count: int,
    max_tokens: int,
    sampling: Sampling,
    sentences: int | None = None,
) -> Generator[str, None, Best]:
    """Return the best of `count` answers to `prompt` (tokens); yields "" while they grow."""
    if not 1 <= count <= MOST_CANDIDATES:
        raise PenchantError(f"best of 1 to {MOST_CANDIDATES} answers can be given")
    made = yield from candidates(engine, prompt, candidate_samplings(sampling, count), max_tokens=max_tokens)
    texts = ["".join(whole_sentences(iter(pieces), max_tokens=max_tokens, sentences=sentences)) for pieces in made]
    distinct = list(dict.fromkeys(text for text in texts if text.strip())) or texts[:1]
    rewards = judge(distinct) if len(distinct) > 1 else np.zeros(1)
    lengths = np.array([log_length(text) for text in distinct])
    scores = length_controlled(rewards, lengths, slope)
    index = int(np.argmax(scores))
    return Best(distinct[index], index, tuple(float(score) for score in scores))


def candidate_samplings(sampling: Sampling, count: int) -> list[Sampling]:
    """The owner's own `sampling`, then `count` - 1 that differ from it and from each other."""
    warm = sampling if sampling.temperature > 0 else replace(sampling, temperature=_TEMPERATURE)
    return [sampling, *(replace(warm, seed=(sampling.seed + number) % (1 << 32)) for number in range(1, count))]


def length_controlled(rewards: NDArray[np.float64], lengths: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
    """(n,) `rewards` of candidates with `lengths` (`log_length`), less what length explains; -inf for a candidate much
    longer or shorter than the first.
    """
    apart = lengths - lengths[0]
    return np.where(np.abs(apart) <= BAND + 1e-9, rewards - slope * apart, -np.inf)
