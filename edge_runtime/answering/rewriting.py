"""Follow-up questions made searchable: "And when?", "What about Ana?", "Is she older?" mean nothing to a search
without the questions before them.

Deterministic, in three cases, each tried on the question as it stands after the earlier ones were resolved in turn:
a pronoun without an antecedent in its own question is replaced by the last person or thing spoken of; "what about X"
puts X in the place of what the last question was about; an ellipsis ("and why?") is asked together with the last
whole question. A question that stands on its own is not touched. Only what was said is used, nothing is invented;
the model is still shown the owner's own words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from edge_runtime.answering.words import COMMON_WORDS, names_in, telling_words, words
from edge_runtime.engine.chat_template import ChatMessage

_LOOK_BACK: Final = 8  # turns of a conversation; older ones are seldom meant
_OPENING: Final = re.compile(
    r"^\s*(?:(?:and|but|so|ok(?:ay)?|then|also|or)\b[,\s]*)?(?P<about>(?:what|how) about\s+)?", re.IGNORECASE
)
_BARE_AND: Final = re.compile(r"^\s*(?:and|or)\s+(?P<topic>[^?]*[^?\s])\s*\?*\s*$", re.IGNORECASE)
_BE = frozenset(["is", "are", "was", "were", "am"])
_ASKING = "what when where which who whom whose why how"
_AUXILIARIES = "am is are was were do does did have has had can could will would shall should may might must"
_QUESTION_WORDS: Final = frozenset(_ASKING.split())
_VERBS: Final = frozenset(_AUXILIARIES.split())
_SUBJECT: Final = re.compile(r"\b(?:he|she|him|they|them)\b", re.IGNORECASE)
_POSSESSIVE: Final = re.compile(r"\b(?:his|her|hers|their|theirs)\b", re.IGNORECASE)
_THING: Final = re.compile(r"\b(?:it|this one|that one|this|that|these|those|the latter|one|there)\b", re.IGNORECASE)
_ITS: Final = re.compile(r"\bits\b", re.IGNORECASE)
_KIN: Final = re.compile(
    r"\b(?:[Mm]y|[Yy]our)\s+(?:(?:little|big|older|elder|younger|best|former|new|old)\s+)?"
    r"(?P<noun>mother|mum|mom|father|dad|sister|brother|aunt|uncle|niece|nephew|cousin|daughter|son|wife|husband|partner|"
    r"boyfriend|girlfriend|friend|neighbour|neighbor|boss|manager|colleague|teacher|doctor|dentist|landlord|landlady|"
    r"grandmother|grandfather|gran|grandma|grandpa|flatmate|roommate|parents|children|kids|cat|dog|horse|rabbit|"
    r"hamster|parrot|pony|kitten|puppy)\b(?:\s+(?P<name>[A-Z][\w’'-]*))?"
)
_POSSESSED: Final = re.compile(r"\b(?:my|your|our|the)(?=\s)", re.IGNORECASE)
_PLACE_BEFORE: Final = re.compile(r"\b(?:in|at|to|from|on|near|of)\s+$", re.IGNORECASE)
_PHRASE_WORDS: Final = 3
# Words that say nothing in a search but belong to what they stand before.
_ADJECTIVES: Final = frozenset(["old", "new", "little", "long", "first", "last", "next", "other", "same", "own"])


def rewrite(question: str, earlier: Sequence[ChatMessage]) -> str:
    """`question` as it would be asked on its own, given the turns `earlier` (oldest first). Unchanged if it needs
    nothing from them."""
    base, spoken = "", ""
    for turn in earlier[-_LOOK_BACK:]:
        if turn.role == "user":
            alone, keeps_base = _resolve(turn.content, base, spoken)
            base = base if keeps_base else alone
            spoken = f"{spoken}\n{alone}"
        elif turn.role == "assistant":
            spoken = f"{spoken}\n{turn.content}"
    return _resolve(question, base, spoken)[0]


def _resolve(question: str, base: str, spoken: str) -> tuple[str, bool]:
    """(the question on its own, whether the next ellipsis is still about `base` and not about this)."""
    text = " ".join(question.split())
    if not base:
        return text, False
    topic = _topic(text)
    if topic:
        return _exchange(base, topic), False
    resolved = _without_pronouns(text, base, spoken)
    if resolved != text:
        return resolved, False
    if _is_elliptic(text):
        rest = _OPENING.sub("", text)
        return f"{base.rstrip('?.! ')}, {rest}", True
    return text, False


def _topic(text: str) -> str:
    """X in "what about X?", "and X?"; empty if the question is of another form."""
    opening = _OPENING.match(text)
    if opening and opening["about"]:
        return text[opening.end() :].rstrip("?.! ")
    bare = _BARE_AND.match(text)
    if bare and len(bare["topic"].split()) <= 4:
        first = words(bare["topic"])[:1]
        if first and first[0] not in _QUESTION_WORDS | _VERBS and telling_words(bare["topic"]):
            return bare["topic"]
    return ""


def _exchange(base: str, topic: str) -> str:
    """`base` with `topic` in the place of what it asked about: a name for a name, "my X" for "my Y", else for its
    last telling word; a time is only added."""
    if re.match(r"(?:on|in|at|during|next|last|this|tomorrow|yesterday|tonight)\b", topic, re.IGNORECASE):
        return f"{base.rstrip('?.! ')}, {topic}?"
    kin = list(_KIN.finditer(base))
    names = [name for name in names_in(base) if name in base]
    if kin:
        span = kin[-1].span()
    elif names and (names_in(f"About {topic}") or topic.lower().startswith(("my ", "our "))):
        at = base.rindex(names[-1])
        span = (at, at + len(names[-1]))
    else:
        phrases = _noun_phrases(base)
        if not phrases or not topic.lower().startswith(("my ", "our ", "the ", "your ")):
            return f"{base.rstrip('?.! ')}, {topic}?"
        span = phrases[-1]
    return f"{base[: span[0]]}{topic}{base[span[1] :]}"


def _without_pronouns(text: str, base: str, spoken: str) -> str:
    """`text` with its pronouns replaced by what was spoken of last; untouched where it names a person or thing
    itself."""
    named = bool(names_in(text) or _KIN.search(text))
    resolved = text
    if not named and (_SUBJECT.search(text) or _POSSESSIVE.search(text)):
        person = _last_person(spoken)
        if person:
            resolved = _POSSESSIVE.sub(f"{person}'s", _SUBJECT.sub(person, text))
    if (
        not named
        and not _noun_phrases(text)
        and (_ITS.search(text) or (_THING.search(text) and len(telling_words(text)) <= 2))
    ):
        thing = _last_thing(base, spoken)
        if thing:
            resolved = _ITS.sub(f"{thing}'s", resolved)
            resolved = _THING.sub(thing, resolved, count=1)
    return resolved


def _last_person(spoken: str) -> str:
    """The last person or animal named: "my brother", "my sister Ana", or a bare name that is not a place."""
    found = [(match.start(), match.end(), "my " + match[0].split(maxsplit=1)[1]) for match in _KIN.finditer(spoken)]
    position = 0
    for name in names_in(spoken):
        position = spoken.find(name, position)
        inside = any(start <= position < end for start, end, _ in found)
        if not inside and not _PLACE_BEFORE.search(spoken[:position]):
            found.append((position, position + len(name), name))
    return max(found, default=(0, 0, ""))[2]


def _last_thing(base: str, spoken: str) -> str:
    """The last thing spoken of as "my X" or "the X" in a question, else what the last whole question was about."""
    for said in (base, spoken):
        phrases = _noun_phrases(said)
        if phrases:
            article, noun = said[slice(*phrases[-1])].split(maxsplit=1)
            return f"{'my' if article.lower() == 'your' else article.lower()} {noun}"
    return " ".join(telling_words(base))


def _noun_phrases(text: str) -> list[tuple[int, int]]:
    """Spans of "my X", "the old X": the article and up to three words behind it, up to a function word, without the
    verb that ends a question ("does my dog sleep", "is my bike locked")."""
    spans = []
    for article in _POSSESSED.finditer(text):
        ends = [article.end()]
        for word in re.finditer(r"\s+([^\W\d_][\w’'-]*)", text[article.end() :]):
            adjoins = article.end() + word.start() == ends[-1]
            if not adjoins or len(ends) > _PHRASE_WORDS or word[1].lower() in (COMMON_WORDS - _ADJECTIVES) | _VERBS:
                break
            ends.append(article.end() + word.end())
        before = words(text[: article.start()])
        asks = bool(before) and before[-1] in _VERBS and (before[-1] not in _BE or len(before) == 1)
        if asks and len(ends) > 2:
            ends.pop()
        if len(ends) > 1:
            spans.append((article.start(), ends[-1]))
    return spans


def _is_elliptic(text: str) -> bool:
    """Whether a question lacks what it is about: "And when exactly?", "Why?", "How much then?"."""
    told = [word for word in words(text) if word not in COMMON_WORDS]
    return not told and len(words(text)) <= 6 and bool(set(words(text)) & (_QUESTION_WORDS | _VERBS | {"and", "else"}))
