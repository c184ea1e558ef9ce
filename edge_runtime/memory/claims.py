"""What an owner says about themself, read from English text by fixed rules: no model, the same result every time.

`claims_of("I moved to Lyon with my cat Minou")` gives the owner's home and the cat's name. What is said of somebody
else ("my sister Ana likes tea") is a claim about that person and never about the owner. Text that is not the
owner's own word (another speaker, a quotation, a question, a condition, an instruction) gives nothing. Rules prefer
silence to a wrong claim; measured precision and recall stand with the test
(tests/edge_runtime/memory/test_claims.py).

One attribute has one meaning with a sign: "I hate olives" is likes olives with polarity False, so that a change of
mind is a contradiction (`contradicts`) and closes what was said before.
"""

from __future__ import annotations

import re

from edge_runtime.memory.claim_clauses import asserted_sentences
from edge_runtime.memory.claim_predicates import PREDICATES
from edge_runtime.memory.claim_subjects import claims_of_clause
from edge_runtime.memory.claim_verbs import Claim
from edge_runtime.memory.claim_vocabulary import PLURAL_RELATIVES, SEVERAL_RELATIVES

__all__ = ["Claim", "claims_of", "contradicts", "sentences_with_claims", "single_valued"]

_SINGLE = frozenset(predicate.attribute for predicate in PREDICATES if predicate.single) | {
    "name", "birthday", "native language", "mother tongue", "first language", "hometown", "blood type", "shoe size",
}  # fmt: skip


def claims_of(text: str, *, speaker: str = "") -> tuple[Claim, ...]:
    """The claims of `text` in order, each once; none if another `speaker` than the owner ("") said it."""
    if speaker:
        return ()
    return tuple(dict.fromkeys(claim for _, claims in sentences_with_claims(text) for claim in claims))


def sentences_with_claims(text: str, *, speaker: str = "") -> list[tuple[str, tuple[Claim, ...]]]:
    """The sentences of `text` that make claims, as written, each with its claims."""
    if speaker:
        return []
    found = []
    for sentence, clauses in asserted_sentences(text):
        claims = tuple(dict.fromkeys(claim for clause in clauses for claim in claims_of_clause(clause)))
        if claims:
            found.append((sentence, claims))
    return found


def single_valued(attribute: str) -> bool:
    """Whether only one value of an owner's `attribute` holds at a time."""
    if attribute.endswith("'s name"):
        return re.search(rf"(?:{SEVERAL_RELATIVES}|{PLURAL_RELATIVES})'s name$", attribute, re.IGNORECASE) is None
    return attribute in _SINGLE or attribute.startswith("favourite ")


def contradicts(newer: Claim, older: Claim) -> bool:
    """Whether `older` cannot hold any longer once `newer` is said: the same value denied or affirmed, or another value
    where only one holds. Plans and what "used to" be contradict nothing (but "I used to live in Lyon" ends living
    there)."""
    if (newer.subject.casefold(), newer.attribute.casefold()) != (older.subject.casefold(), older.attribute.casefold()):
        return False
    same_value = newer.value.casefold() == older.value.casefold()
    if newer.temporal == "past":
        return older.temporal == "now" and same_value and older.polarity
    if newer.temporal != older.temporal:
        return False
    if same_value:
        return newer.polarity != older.polarity
    return newer.single and newer.temporal == "now" and newer.polarity and older.polarity
