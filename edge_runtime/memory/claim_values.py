"""The value of a claim, cut out of what follows its verb: where it ends, its tails, and listings cut into items."""

from __future__ import annotations

import re

from edge_runtime.memory.claim_vocabulary import EMPTY_VALUE, VALUE_END, VALUE_TAIL

_FIXED_PAIRS = re.compile(
    r"\b(fish and chips|rock and roll|mac and cheese|bread and butter|gin and tonic|black and white|salt and vinegar|"
    r"drum and bass|r and b|country and western|peanut butter and jelly)\b",
    re.IGNORECASE,
)
# "games with guns or knives", "the smell of fish and chips": the "and" belongs to the phrase
_MODIFIED = re.compile(
    r" (?:with|of|in|on|from|for|that|like|involving|about|at|to|without)\b|^\w+ing \w", re.IGNORECASE
)
_ADJECTIVE = re.compile(
    r"[\w-]+(?:ive|al|ic|ed|ful|ous|ant|able|ible|y-free)|long|short|big|small|old|new|hot|cold", re.I
)
_NEW_CLAUSE = re.compile(
    r"(?:i|we|my|our|he|she|it|its|they|the|am|is|are|have|has|do|then|now|not|never|want|need|will|was|had|that|"
    r"this|also|get|"
    r"got|went|go|make|feel|think|hope|live|work|always|usually|it's|both)\b",
    re.IGNORECASE,
)
_LONGEST_VALUE = 200  # characters; more is a story


def trimmed(value: str, *, whole: bool = True) -> str:
    """`value` up to where its clause ends, without tails like "these days"; empty if it only points ("it", "that")."""
    value = re.sub(r"^(?:both|a (?:bit|little) of|some|a little) ", "", before_end(value))
    if whole:
        value = re.split(
            r",\s|\s+and\s+(?=(?:i|we|my|it|he|she|they|am|have|was|then|now|want|need|do|will)\b)", value
        )[0]
    if len(value) > _LONGEST_VALUE:
        return ""
    while (shorter := VALUE_TAIL.sub("", value).strip(" ,.!")) != value:
        value = shorter
    return "" if EMPTY_VALUE.fullmatch(value) or re.search(r"\byou(?:r|rs)?\b", value, re.IGNORECASE) else value


def role_of(value: str) -> str:
    """The trade alone: "nurse" of "nurse in a hospice"."""
    return re.split(r",? (?:in|at|for|with|on|by|and)\b", value)[0]


def before_end(value: str) -> str:
    """`value` up to the first mark or word that begins another clause."""
    end = VALUE_END.search(value)
    return (value[: end.start()] if end else value).strip(" ,.!")


def items_of(value: str) -> list[str]:
    """A plain listing cut into its items; a value that only looks like one stays whole."""
    protected = _FIXED_PAIRS.sub(lambda found: found[0].replace(" ", "\x00"), value)
    parts = re.split(r"\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|nor)\s+", protected)
    items: list[str] = []
    for part in parts:
        item = trimmed(part.replace("\x00", " "))
        if not item or (items and (_NEW_CLAUSE.match(item) or len(item.split()) > 4)):
            break
        items.append(item)
    if len(items) > 1 and (any(_MODIFIED.search(item) for item in items) or _ADJECTIVE.fullmatch(items[0])):
        end = re.search(r",\s|\s(?:and|or|nor)\s+(?=\S+$|\S)", value)
        tail = parts[len(items) :]
        whole = value if not tail or not end else value[: value.find(tail[0].replace("\x00", " "))]
        return [re.sub(r"(?:,|\s+and|\s+or|\s+nor|\s)+$", "", whole)]
    return items
