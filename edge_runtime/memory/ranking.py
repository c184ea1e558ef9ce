"""How memories are ordered for a question: a weighted sum of what their words, their meaning and their circumstances
say, as pure functions over arrays with one entry per memory.

relevance = LEXICAL * coverage + OWN * cosine + AROUND * cosine of the window + PERIOD * nearness to a date named
score     = relevance + SPEAKER * [asked for by name] - ASKING * [a passage that is itself a question] + recency

Coverage is the share of the question's telling words that a memory holds, each weighted by its inverse document
frequency (Robertson and Spaerck Jones): 1 if it holds all, 0 if none. Presence, not frequency and length as in BM25:
memories are short, and BM25's length normalisation prefers small talk. Unlike ranks or scores divided by the best, it
means the same for every question, so that one floor on relevance separates "found" from "nothing is known".

The weights are those of a multinomial logistic regression on three LoCoMo chats (504 questions), divided by the
cosine's and rounded: simulations/bench/recall.py reports on four others. The scores are added as they are; reciprocal
rank fusion (Cormack et al. 2009), used before, forgets how much better the first is. Bundled village (256 questions,
the first evidence message first / among three / among five): .74 .92 .96, without the floor .74 .93 .97; rank fusion
.70 .92 .96.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

RANKERS: Final = ("bm25", "dense", "recency")

LEXICAL: Final = 0.6
OWN_COSINE: Final = 0.25
WINDOW_COSINE: Final = 0.75
PERIOD: Final = 0.32
SPEAKER: Final = 0.09
ASKING: Final = 0.13
# Recency decides between near equals and lifts nothing else.
RECENCY: Final = 0.01

# A word in the cue (what was asked or answered) says less than one in the statement.
CUE_PRESENCE: Final = 0.7
# A memory is relevant from here on. Of 256 questions about the village 1.5 % lose their evidence among the first five
# to it; 30 questions of general knowledge find nothing in 86 % of cases in the village, in 71 % in the tuning chats.
RELEVANCE_FLOOR: Final = 0.35
# From this cosine on, two memories say the same.
NEAR_DUPLICATE: Final = 0.95
_FEWEST: Final = 50
_PERIOD_DAYS: Final = 7.0  # what happened on a day is told within a week or so

Floats = NDArray[np.float32]


def word_weight(memories: int, holding: int) -> float:
    """Inverse document frequency of a word that `holding` of `memories` hold; always positive. Few memories say
    nothing about how common a word is."""
    memories = max(memories, _FEWEST)
    return float(np.log1p((memories - holding + 0.5) / (holding + 0.5)))


def nearness(days: NDArray[np.int64], periods: Sequence[tuple[int, int]]) -> Floats:
    """exp(-distance / 7 days) of every day (n,) to the nearest of `periods`; 0 without periods."""
    nearest = np.full(len(days), np.inf)
    for first, last in periods:
        nearest = np.minimum(nearest, np.maximum(np.maximum(first - days, days - last), 0))
    return np.exp(-nearest / _PERIOD_DAYS).astype(np.float32)


def age_ranks(days: NDArray[np.int64], today: int) -> NDArray[np.int64]:
    """Rank (n,) by age on day `today`, newest first; equal ages share a rank, later days count as today."""
    _, rank = np.unique(np.maximum(today - days, 0), return_inverse=True)
    return rank.astype(np.int64) + 1


def ranks(values: Floats) -> NDArray[np.int64]:
    """Rank (n,) by value, 1 the largest; equal values share the better rank."""
    ordered = np.sort(-values)
    return np.searchsorted(ordered, -values, side="left") + 1


def diverse_order(order: Sequence[int], vectors: Floats, k: int) -> list[int]:
    """The first `k` of `order` (rows of unit `vectors`, best first), where what repeats one already taken comes after
    all that does not."""
    taken: list[int] = []
    repeats: list[int] = []
    for row in order:
        if len(taken) == k:
            break
        known = taken and float((vectors[taken] @ vectors[row]).max()) >= NEAR_DUPLICATE
        (repeats if known else taken).append(row)
    return [*taken, *repeats][:k]
