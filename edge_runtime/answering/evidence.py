"""The rank stage: which of the retrieved texts are shown to the model, and why the others are not.

Retrieval casts wide; a small model is confused by what it then finds. Kept is what is about the question, once, and
little of it, in the order of relevance (the prompt turns it round: the best stands last, right before the question,
where a model reads best: Liu et al., "Lost in the middle", 2023).

The threshold is relative, measured on 256 questions about the bundled village (MiniLM): among the first three that
recall finds is the answer in 94.5 %, and so it is among the 2.5 that reach 0.6 of the best relevance; at 0.7 it is one
question less, at 0.8 six. Variety costs one of the 256 at the weight below, and two at three times as much.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from edge_runtime.answering.words import telling_words
from edge_runtime.memory.statements import Recalled

RELATIVE_FLOOR: Final = 0.6  # of the best relevance
DUPLICATE_OVERLAP: Final = 0.7  # Jaccard index of the telling words
_DIVERSITY: Final = 0.1  # how much of a shared vocabulary counts against a text (maximal marginal relevance)


@dataclass(frozen=True)
class Evidence:
    """A retrieved text with what speaks for it: `similarity` is its cosine with the query (0 if unknown), `coverage`
    the share of the query's telling words that it holds. `why` says why it was kept or dropped."""

    id: str
    text: str
    said_at: str
    kind: str
    score: float
    similarity: float
    coverage: float
    kept: bool = True
    why: str = ""

    @property
    def relevance(self) -> float:
        """One number to compare by: the cosine, or the words in common where they say more."""
        return max(self.similarity, 0.5 * self.coverage)

    def to_dict(self) -> dict[str, Any]:
        """For the audit: everything but the text, which can be forgotten while the audit stays."""
        return {
            "id": self.id,
            "kind": self.kind,
            "kept": self.kept,
            "why": self.why,
            "score": round(self.score, 6),
            "similarity": round(self.similarity, 4),
            "coverage": round(self.coverage, 4),
        }


def gather(query: str, found: Sequence[Recalled]) -> list[Evidence]:
    """What `Memory.recall` found, best first, as evidence for `query`."""
    asked = frozenset(telling_words(query))
    return [
        Evidence(
            f"memory:{one.item.id}",
            one.item.text,
            one.item.said_at,
            one.item.kind,
            one.score,
            one.similarity or 0.0,
            _share(asked, telling_words(f"{one.item.cue} {one.item.text}")),
        )
        for one in found
    ]


def rank(candidates: Sequence[Evidence], *, k: int) -> list[Evidence]:
    """The same candidates, the kept ones first and best first; at most `k` are kept."""
    left = [candidate for candidate in candidates if candidate.kept]
    best = max((candidate.relevance for candidate in left), default=0.0)
    vocabulary = {candidate.id: frozenset(telling_words(candidate.text)) for candidate in left}
    top = max((candidate.score for candidate in left), default=1.0) or 1.0
    kept: list[Evidence] = []
    dropped = [candidate for candidate in candidates if not candidate.kept]
    while left:
        chosen = max(
            left,
            key=lambda one: (
                one.score / top
                - _DIVERSITY * max((_jaccard(vocabulary[one.id], vocabulary[other.id]) for other in kept), default=0.0)
            ),
        )
        left.remove(chosen)
        twin = next((o for o in kept if _jaccard(vocabulary[chosen.id], vocabulary[o.id]) >= DUPLICATE_OVERLAP), None)
        if chosen.relevance < RELATIVE_FLOOR * best:
            dropped.append(drop(chosen, "much weaker than the best"))
        elif twin:
            dropped.append(drop(chosen, f"repeats {twin.id}"))
        elif len(kept) >= k:
            dropped.append(drop(chosen, f"beyond the {k} shown"))
        else:
            kept.append(replace(chosen, why="about the question"))
    return [*kept, *dropped]


def drop(candidate: Evidence, why: str) -> Evidence:
    """The candidate, no longer shown."""
    return replace(candidate, kept=False, why=why)


def _share(asked: Collection[str], held: Collection[str]) -> float:
    return len(set(asked) & set(held)) / len(asked) if asked else 0.0


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0
