"""How far a text leans towards what its owner likes and away from what they dislike, by fixed rules and the embedder.

A small model reads "I hate X" as a reason to say X: what a stated dislike adds to the log-probability of an answer
points the wrong way. So the sign is read from the statement itself. A statement falls into parts with a sign: its
claims (`memory/claims.py`: "I dislike podcasts" is likes podcasts with polarity False), or, where it makes none, its
clauses, negative if one of a short list of words says so. With phi the unit vectors of the embedding model,

    leaning(text) = sum over parts of sign * phi(part) . phi(text)        in [-parts, parts]

(the attributes of Drift, arXiv 2502.14289, with stated signs in place of fitted weights). English, as claims are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.memory.claims import claims_of
from edge_runtime.memory.memory import TextEmbedder

# What is claimed to be avoided or harmful is a dislike although the claim itself is affirmed.
_AVERSE_ATTRIBUTES: Final = frozenset({"avoids", "allergic_to", "intolerant_to"})
_NEGATIVE: Final = re.compile(
    r"\b(?:no|not|never|without|cannot|\w+n't|avoid\w*|dislik\w*|hat(?:e|es|ed|red)|detest\w*|avers\w*|allerg\w*|"
    r"intoleran\w*|afraid|fear\w*|phobia|anxi\w*|uncomfortable|overwhelm\w*|bor(?:ed|ing)|difficult\w*|ineffective|"
    r"struggl\w*|frustrat\w*|annoy\w*|stress\w*|tired|reluctant|refus\w*|against|opposed|s[ck]eptical|distrust\w*|"
    r"boycott\w*|unappealing|sensitive|too|over|unless|except|other than|rather than|instead of)\b",
    re.IGNORECASE,
)
_BREAK: Final = re.compile(
    r"[,;.:]|\b(?:and|but|so|because|since|while|due to|as)\b|"
    r"(?=\b(?:rather than|instead of|over|unless|without|except|other than)\b)",
    re.IGNORECASE,
)


def signed_parts(statement: str) -> list[tuple[str, int]]:
    """(part, +1 or -1) of an owner's statement: its claims, else its clauses of two words or more."""
    claims = [
        (claim.value, 1 if claim.polarity != (claim.attribute in _AVERSE_ATTRIBUTES) else -1)
        for claim in claims_of(statement)
        if claim.value and not claim.subject
    ]
    if claims:
        return claims
    clauses = [clause.strip() for clause in _BREAK.split(statement)]
    return [(clause, -1 if _NEGATIVE.search(clause) else 1) for clause in clauses if len(clause.split()) > 1]


def leanings(statements: Sequence[str], texts: Sequence[str], embedder: TextEmbedder) -> NDArray[np.float64]:
    """The leaning of each text (n,) under all `statements` together; zeros where they say nothing."""
    parts = [part for statement in statements for part in signed_parts(statement)]
    if not parts or not texts:
        return np.zeros(len(texts))
    vectors = embedder.embed([*texts, *(part for part, _ in parts)]).astype(np.float64)
    signs = np.array([sign for _, sign in parts], dtype=np.float64)
    result: NDArray[np.float64] = vectors[: len(texts)] @ vectors[len(texts) :].T @ signs
    return result
