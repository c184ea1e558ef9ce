"""What a question says about where its answer lies: telling words, whose words it asks for, which days, whether it is
about the past. Fixed rules for English; no model."""

from __future__ import annotations

import calendar
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Final

# Words of questions and of every sentence: matching on them alone would call any memory relevant. English, as
# the default model is.
_COMMON = (
    "a about am an and any are as at be been but by can could did do does for from had has have he her him "
    "his how i if in into is it its just me my of on or our remember s say said she should so some t tell "
    "that the their them then there they this to us was we were what when where which who whom whose why "
    "will with would you your"
)
_COMMON_WORDS: Final = frozenset(_COMMON.split())
_WORD = re.compile(r"\w+")
_MOST_WORDS: Final = 64  # what is longer is a text; its vector says what it is about
_FIRST_PERSON = re.compile(r"\b(?:i|i'm|i've|i'd|my|mine|me|myself)\b", re.IGNORECASE)
_PAST = re.compile(
    r"\b(?:used to|did|didn't|was|wasn't|were|weren't|had|before|earlier|former|formerly|previous|previously|"
    r"in the past|back then|once|originally|at first|ago|last (?:week|month|year|spring|summer|autumn|fall|winter))\b",
    re.IGNORECASE,
)
_MONTHS: Final = tuple(name.lower() for name in calendar.month_name)  # "" first
# "14 March 2023", "March 14, 2023", "March 2023", "March". May and March are other words too without their capital.
_MONTH = "|".join(rf"{name.capitalize()}|{name.upper()}" + ("" if name in ("may", "march") else f"|{name}")
                  for name in _MONTHS[1:])  # fmt: skip
_PERIOD = re.compile(
    rf"(?:\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? )?\b(?P<month>{_MONTH})\b"
    r"(?: (?P<day_after>\d{1,2})(?:st|nd|rd|th)?\b)?(?:,? (?P<year>\d{4})\b)?"
)
_ISO_DAY = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")


@dataclass(frozen=True)
class Query:
    """A question as the search sees it.

    `words`: telling words in lower case, each once. `named`: the known speakers it names; `name_words` their words, and
    `text_without_names` the rest of the text. `first_person`: the owner asks about themself. `periods`: first and last
    day (proleptic ordinals) of every date it names. `about_past`: what no longer holds may be the answer.
    """

    text: str
    words: tuple[str, ...]
    named: tuple[str, ...]
    name_words: frozenset[str]
    text_without_names: str
    first_person: bool
    periods: tuple[tuple[int, int], ...]
    about_past: bool

    @property
    def speaker(self) -> str | None:
        """Whose own words are asked for: the one speaker named, "" for the owner, None if that is open."""
        if self.named:
            return self.named[0] if len(self.named) == 1 else None
        return "" if self.first_person else None


def read_query(text: str, speakers: Collection[str] = (), years: Collection[int] = ()) -> Query:
    """Reads `text`. `speakers` are the names that appear as speakers in memory, `years` those of its memories, which
    a month without a year may mean."""
    named = tuple(name for name in speakers if name and _name_pattern(name).search(text))
    without = text
    for name in named:
        without = _name_pattern(name).sub("", without)
    words = telling_words(text)[:_MOST_WORDS]
    return Query(
        text,
        words,
        named,
        frozenset(words) & {word for name in named for word in _WORD.findall(name.lower())},
        " ".join(without.split()) or text,
        _FIRST_PERSON.search(text) is not None,
        _periods(text, years),
        _PAST.search(text) is not None,
    )


def _name_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?:['’]s)?(?!\w)", re.IGNORECASE)


def telling_words(text: str) -> tuple[str, ...]:
    """The words of `text` in lower case, each once, without those that every sentence holds."""
    return tuple(dict.fromkeys(word for word in _WORD.findall(text.lower()) if word not in _COMMON_WORDS))


def _periods(text: str, years: Collection[int]) -> tuple[tuple[int, int], ...]:
    found = []
    for match in _PERIOD.finditer(text):
        month = _MONTHS.index(match["month"].lower())
        day = match["day"] or match["day_after"]
        for year in [int(match["year"])] if match["year"] else sorted(years):
            last = calendar.monthrange(year, month)[1] if 1 <= year <= 9999 else 0
            if last and (day is None or 1 <= int(day) <= last):
                first_day, last_day = (int(day), int(day)) if day else (1, last)
                found.append((date(year, month, first_day).toordinal(), date(year, month, last_day).toordinal()))
    for written in _ISO_DAY.findall(text):
        try:
            ordinal = date.fromisoformat(written).toordinal()
        except ValueError:
            continue
        found.append((ordinal, ordinal))
    return tuple(dict.fromkeys(found))
