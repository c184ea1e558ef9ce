"""Which sources an answer draws on: none, the profile, memories, documents (after UniMS-RAG, Wang et al. 2024, whose
model writes the plan; here cheap evidence does, since a model of 135M parameters cannot).

First the kind of question, from its words: about the owner ("my dog", "did I"), advice ("what should I cook"),
about a document ("according to the manual"), small talk, or general knowledge. Then the evidence that one search has
found. A question about the owner needs little of it; a general question is answered from notes only if they are
plainly about it, else the model is left alone: notes that are beside the point cost a small model its answer.

Measured with MiniLM: the best cosine of 95 % of the questions about the village exceeds 0.34, that of 98 % of general
questions to the same memories lies below 0.35.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from edge_runtime.answering.evidence import Evidence, drop
from edge_runtime.answering.words import names_in, telling_words
from edge_runtime.memory.ranking import RELEVANCE_FLOOR

SourceKind = Literal["none", "profile", "memory", "documents"]
QuestionKind = Literal["owner", "advice", "document", "small talk", "general"]

WEAK: Final = 0.25  # relevance that suffices where the question is about the owner
STRONG: Final = 0.42  # relevance that a general question needs
# What a preference has in common with a question that it matters for is little: "I hate horror films" and "what could
# we watch". PrefEval's four tuning topics, one preference of each of twelve topics remembered: the right one is found
# first in 70 % of the questions above recall's own floor, in 84 % above this one, in 86 % without any.
ADVICE_FLOOR: Final = 0.2

_SMALL_TALK: Final = re.compile(
    r"^\W*(?:hi|hello|hey|good (?:morning|evening|night|afternoon)|thanks?|thank you|bye|goodbye|ok|okay|great|cool|"
    r"how are you|how do you do|who are you|what can you do|nice)\b[\w\s,']{0,24}[.!?\s]*$",
    re.IGNORECASE,
)
_DOCUMENT: Final = re.compile(
    r"\b(?:document|documents|report|manual|contract|lease|policy|pdf|paper|article|chapter|handbook|guide|minutes|"
    r"invoice|letter|file|attachment|page|section|clause|according to)\b",
    re.IGNORECASE,
)
_ADVICE: Final = re.compile(
    r"\b(?:(?:should|could|can|shall|might) (?:i|we)\b|recommend\w*|suggest\w*|advice|advise|ideas?|"
    r"what would you|which \w+ would|i(?:'m| am) (?:looking|planning|thinking|considering|trying|interested|going)|"
    r"i(?:'d| would) like|i (?:want|need|plan|hope)|help me (?:choose|find|plan|pick|decide)|"
    r"best (?:way|place|option))",
    re.IGNORECASE,
)
_OWNER: Final = re.compile(
    r"\b(?:my|mine|our|ours|myself|(?:did|do|am|was|have|had|were|are|will) (?:i|we)|(?:i|we) (?:\w+ )?(?:was|were|did|"
    r"said|told|wrote|have|had|am|are|do|like|love|hate|prefer|keep|live|work|own|use|play|bought|put|parked|promised|"
    r"met|ate|read|saw|visit\w*|start\w*|plan\w*)|about me|know (?:about )?me|remember me|who am i)\b",
    re.IGNORECASE,
)
# "How do I boil an egg", "tell me a joke": a first person that is not the subject of the question.
_GENERAL: Final = re.compile(
    r"^\W*(?:please )?(?:how (?:do|can|would|to|does) (?:i|we|you|one)\b|how to\b|"
    r"(?:tell|give|show|teach|explain to) me\b"
    r"(?! (?:about )?(?:what|when|where|who|which|my|our))|what (?:do|can) (?:i|we) (?:call|say)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Plan:
    """The sources an answer draws on, and the reason in words that hold nothing of the owner's."""

    sources: tuple[SourceKind, ...]
    reason: str


def question_kind(question: str) -> QuestionKind:
    """What a question asks for, from its words alone."""
    if _SMALL_TALK.match(question):
        return "small talk"
    if re.search(r"\b(?:my|our|mine|ours)\b", question, re.IGNORECASE):
        return "advice" if _ADVICE.search(question) else "owner"
    if _DOCUMENT.search(question) and not _GENERAL.match(question):
        return "document"
    if _GENERAL.match(question):
        return "general"
    if _ADVICE.search(question):
        return "advice"
    return "owner" if _OWNER.search(question) else "general"


def recall_floor(question: str) -> float:
    """The least relevance that retrieval asks of a memory for this question."""
    return ADVICE_FLOOR if question_kind(question) == "advice" else RELEVANCE_FLOOR


def plan_sources(question: str, candidates: Sequence[Evidence], *, profile: bool) -> Plan:
    """The plan for `question`, given what one search found and whether the profile has something to say."""
    kind = question_kind(question)
    if kind == "small talk":
        return Plan(("none",), "small talk")
    needed = {"general": STRONG, "advice": ADVICE_FLOOR}.get(kind, WEAK)
    sources: list[SourceKind] = []
    if profile and kind in ("owner", "advice"):
        sources.append("profile")
    if any(_suffices(question, one, needed) for one in candidates if one.kind != "passage"):
        sources.append("memory")
    passages = WEAK if kind == "document" else STRONG
    if any(_suffices(question, one, passages) for one in candidates if one.kind == "passage"):
        sources.append("documents")
    if not sources:
        return Plan(("none",), f"{_NAMED[kind]}, and nothing found is about it")
    return Plan(tuple(sources), _NAMED[kind])


def drop_unplanned(candidates: Sequence[Evidence], question: str, plan: Plan) -> list[Evidence]:
    """The candidates with those dropped whose source has no part in the plan, or that are too weak for a general
    question."""
    general = question_kind(question) == "general"
    planned = []
    for one in candidates:
        source = "documents" if one.kind == "passage" else "memory"
        if source not in plan.sources:
            planned.append(drop(one, f"the plan leaves {source} out"))
        elif general and not _suffices(question, one, STRONG):
            planned.append(drop(one, "too weak for a general question"))
        else:
            planned.append(one)
    return planned


_NAMED: Final[dict[QuestionKind, str]] = {
    "owner": "about the owner",
    "advice": "asks for advice",
    "document": "about a document",
    "small talk": "small talk",
    "general": "general knowledge",
}


def _suffices(question: str, evidence: Evidence, needed: float) -> bool:
    """Whether a text is relevant enough: by its cosine, or because it holds a name of the question or most of its
    telling words."""
    if evidence.similarity >= needed:
        return True
    names = {word for name in names_in(question) for word in telling_words(name)}
    if names & set(telling_words(evidence.text)) and evidence.similarity >= WEAK:
        return True
    return evidence.coverage >= (0.3 if needed <= WEAK else 0.75) and len(telling_words(question)) >= (
        1 if needed <= WEAK else 2
    )
