"""What the stages of an answer share about English text: telling words, names, sentences."""

from __future__ import annotations

import re
from typing import Final

# Words that say nothing about what a sentence is about.
_COMMON = (
    "a about actually again ago all already also always am an and any anyone anything are as at away back be been "
    "before being both but by can could day days did do does doing done down each else ever every exactly few first "
    "for from get give go going got had has have having he hello her here hers him his how i if in into is it its "
    "just keep kind know last let like little long made make many may me mean might mine more most much must my name "
    "named need never new next no not now of off often ok okay old on one only or other our ours out over please put "
    "really right said same say says see shall she should show since so some someone something soon still such sure "
    "take tell than thanks that the their theirs them then there these they thing things think this those though "
    "through till time times to today told too under until up upon us use used very want was way we well went were "
    "what when where which while who whom whose why will with without would yes yet you your yours "
    "call called calls i'm i've it's that's don't didn't doesn't isn't what's who's where's when's how's"
)
COMMON_WORDS: Final = frozenset(_COMMON.split())
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_AFTER_A_NAME = [[verb] for verb in ("is", "was", "has", "had", "will", "and", "lives", "plays", "works", "likes")]
_SUFFIXES = ("ies", "es", "s", "ing", "ed")
# A capital does not make a name of these.
_CAPITALISED = (
    "monday tuesday wednesday thursday friday saturday sunday january february march april june july august september "
    "october november december english french german spanish dutch welsh italian portuguese i i'm i've i'll i'd"
)
_NOT_NAMES = frozenset(_CAPITALISED.split())
_NAME = re.compile(r"\b[A-Z][\w’'-]*(?:\s+[A-Z][\w’'-]*)*")
# A mark that ends a sentence, its closing quotes, and the space behind it (or the end of the text).
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|vs|etc|e\.g|i\.e|No|[A-Z])|(?:^|\s)\d{1,3})\.$")


def words(text: str) -> list[str]:
    """All words in lower case, in order."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def telling_words(text: str) -> tuple[str, ...]:
    """The stems of the words that say what `text` is about, in order, each once."""
    stems = dict.fromkeys(_stem(word.removesuffix("'s")) for word in words(text) if word not in COMMON_WORDS)
    return tuple(stem for stem in stems if len(stem) > 1 or stem.isdigit())


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith("ss"):
            return word[: -len(suffix)] + ("y" if suffix == "ies" else "")
    return word


def names_in(text: str) -> tuple[str, ...]:
    """Capitalised names in order. A lone word that begins a sentence is one only if a verb of a name follows it."""
    found = []
    for match in _NAME.finditer(text):
        parts = match[0].split()
        while parts and parts[0].lower().replace("’", "'") in COMMON_WORDS | _NOT_NAMES:
            parts.pop(0)
        begins = text[: match.start()].rstrip()[-1:] in (".", "!", "?", ":", "")
        lone = begins and len(parts) == 1 and parts[0] == match[0]
        if parts and not (lone and words(text[match.end() :])[:1] not in _AFTER_A_NAME):
            found.append(" ".join(part.removesuffix("'s").removesuffix("’s") for part in parts))
    return tuple(found)


def sentence_end(text: str, start: int = 0) -> int:
    """The position behind the last complete sentence in `text` that ends after `start`; `start` if there is none."""
    end = start
    for match in _SENTENCE_END.finditer(text, start):
        if not _ABBREVIATION.search(text[: match.start() + 1]):
            end = match.end()
    return end


def sentences(text: str) -> list[str]:
    """The sentences of `text`; lines are sentences of their own."""
    found = []
    for line in text.splitlines():
        start = 0
        for match in _SENTENCE_END.finditer(line):
            if not _ABBREVIATION.search(line[: match.start() + 1]):
                found.append(line[start : match.end()].strip())
                start = match.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]
