"""How memories are ordered for a query: three rankings and their fusion, as pure functions.

Reciprocal rank fusion (Cormack, Clarke, Buettcher, SIGIR 2009): score(i) = sum over rankings of weight / (c +
rank of i), rank 1 being the best. Only ranks count, so BM25 scores, cosines and days need no common scale.
The paper's c = 60 is for lists of a thousand; one person's memories are dozens to thousands, and c = 10 lets
the first ranks count. The newest memory's bonus, 0.05 / 11, is less than one step between the first two
ranks, 1/11 - 1/12: recency decides between near equals and lifts nothing else. (256 questions about the
bundled village, an evidence message first / among three / among five: c = 10 .69 .93 .96, BM25 alone .66 .87
.94, dense alone .66 .89 .93, recency with weight 0.25 and c = 60 .62 .93 .96.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

RANK_CONSTANT: Final = 10
RANKER_WEIGHTS: Final[Mapping[str, float]] = {"bm25": 1.0, "dense": 1.0, "recency": 0.05}

# Words of questions and of every sentence: matching on them alone would call any memory relevant. English, as
# the default model is.
_COMMON = (
    "a about am an and any are as at be been but by can could did do does for from had has have he her him "
    "his how i if in into is it its just me my of on or our remember s say said she should so some t tell "
    "that the their them then there they this to us was we were what when where which who whom whose why "
    "will with would you your"
)
_COMMON_WORDS = frozenset(_COMMON.split())
_WORD = re.compile(r"\w+", re.UNICODE)


def match_expression(query: str) -> str:
    """The FTS5 expression for `query`: its telling words, quoted, joined by OR; empty if it has none."""
    words = dict.fromkeys(word for word in _WORD.findall(query.lower()) if word not in _COMMON_WORDS)
    return " OR ".join(f'"{word}"' for word in words)


def rank_by_similarity(similarities: NDArray[np.float32], floor: float, limit: int) -> NDArray[np.intp]:
    """Positions of the at most `limit` highest of `similarities` (n,) that reach `floor`, best first."""
    reached = np.flatnonzero(similarities >= floor)
    if len(reached) > limit:
        reached = reached[np.argpartition(-similarities[reached], limit - 1)[:limit]]
    return reached[np.argsort(-similarities[reached], kind="stable")]


def ranks_by_age(days: Mapping[int, int], today: int) -> dict[int, int]:
    """Rank of every item by its age in days on day `today`, newest first; equal ages share a rank, later days
    count as today."""
    ages = {item: max(0, today - day) for item, day in days.items()}
    place = {age: 1 + index for index, age in enumerate(sorted(set(ages.values())))}
    return {item: place[age] for item, age in ages.items()}


def ranks_in_order(items: Sequence[int]) -> dict[int, int]:
    """1 for the first item, 2 for the second, and so on."""
    return {item: 1 + index for index, item in enumerate(items)}


def fuse_ranks(rankings: Mapping[str, Mapping[int, int]]) -> list[tuple[int, float]]:
    """(item, fused score) of every item in any of `rankings` (name -> item -> rank), best first; ties go to
    the newer item id."""
    scores: dict[int, float] = {}
    for name, ranks in rankings.items():
        for item, rank in ranks.items():
            scores[item] = scores.get(item, 0.0) + RANKER_WEIGHTS[name] / (RANK_CONSTANT + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], -pair[0]))
