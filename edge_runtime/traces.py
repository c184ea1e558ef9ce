"""What is a trace of a forgotten statement: a text that repeats it, or holds one of its distinctive words.

A word is distinctive if nothing that stays remembered holds it and it is not one of the few hundred words that
every English text is made of. In doubt a text counts as a trace: a forget had better take a chat too many than leave
the word that it was about.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

_COMMON_TEXT: Final = (
    "a able about above across actually after again against ago all almost along already also although always am among "
    "an and another any anybody anyone anything anyway are around as ask asked at away back bad be became because "
    "become been before began begin behind being believe below best better between big both bring but by call called "
    "came can cannot case change come comes coming could course day days did didn different do does doesn doing don "
    "done down during each early either else end enough even ever every everybody everyone everything far feel felt "
    "few find first five for found four from full gave get gets getting give given gives go goes going gone good got "
    "great had half happen happened hard has have having he hear heard help her here hers herself him himself his how "
    "however i if important in instead into is isn it its itself just keep keeps kept kind knew know known knows large "
    "last late later least left less let like liked likes little ll long longer look looked looking lot lots made main "
    "make makes making man many matter may maybe me mean means men might mine moment more most mostly much must my "
    "myself name named near need needed needs never new next nice no nobody none nor not nothing now number of off "
    "often oh ok okay old on once one only onto or other others ought our ours out over own part people perhaps person "
    "place please possible put quite rather re ready real really reason remember right said same saw say saying says "
    "second see seem seems seen several shall she should show side since small so some somebody someone something "
    "sometimes soon sort start started still stop such sure take taken takes taking talk tell than thank thanks that "
    "the their theirs them themselves then there these they thing things think third this those though thought three "
    "through time times to today together told tomorrow tonight too took toward tried try trying turn two under until "
    "up upon us use used uses using usually ve very want wanted wants was way we week weeks well went were what "
    "whatever when where whether which while who whole whom whose why will with within without woman women won word "
    "words work would wrong year years yes yesterday yet you young your yours yourself"
)
_COMMON: Final = frozenset(_COMMON_TEXT.split())
_WORD: Final = re.compile(r"[^\W_]+")
_ENDINGS: Final = ("ing", "es", "ed", "s", "d", "e")
# Scripts written without spaces: a word is whatever part of a run repeats it.
_UNSPACED: Final = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff]")
_YEAR: Final = re.compile(r"(?:19|20)\d\d")


class Traces(Protocol):
    """A part of a device that keeps the owner's words or anything derived from them. Both methods work inside a
    transaction of the vault and return how many entries went."""

    def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Drops what was derived from the memories `item_ids`, and all whose text `is_trace`."""
        ...

    def forget_all(self) -> int:
        """Drops everything of the owner's."""
        ...


def trace_finder(forgotten: Iterable[str], still_known: Collection[str]) -> Callable[[str], bool]:
    """A test for traces of the `forgotten` texts; `still_known` are the `words_of` what stays remembered. It takes the
    time of reading the text once, however much is forgotten."""
    telling: set[str] = set()
    phrases: set[str] = set()  # what has to be found as a whole
    for text in forgotten:
        words = {word for word in words_of(text) if word not in still_known and _may_tell(word)}
        telling |= {_stem(word) for word in words if not _UNSPACED.search(word)}
        phrases |= {word for word in words if _UNSPACED.search(word)}
        if not words and text.strip():
            phrases.add(_canonical(text))

    def is_trace(text: str) -> bool:
        canonical = _canonical(text)
        return not telling.isdisjoint(map(_stem, _WORD.findall(canonical))) or any(p in canonical for p in phrases)

    return is_trace


def words_of(text: str) -> set[str]:
    """The words of `text`, in one spelling."""
    return set(_WORD.findall(_canonical(text)))


def _may_tell(word: str) -> bool:
    if _UNSPACED.search(word):
        return True
    return len(word) > 1 and word not in _COMMON and not _YEAR.fullmatch(word)


def _stem(word: str) -> str:
    """One form for walnut and walnuts; where it takes two words for one, a text too many is a trace."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) > 2:
            return word[: -len(ending)]
    return word


def _canonical(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
