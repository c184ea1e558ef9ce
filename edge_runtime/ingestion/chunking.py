"""Cutting sections into passages that the embedding model reads whole.

A passage is a span of its section, so that nothing is lost or changed. Blocks (paragraphs, lists, tables, code)
are packed in order up to a budget of word pieces; a block that alone is larger is cut into lines (code, lists,
tables) or sentences (prose, where the last sentence of a passage is also the first of the next), and only what is
still too large into words and characters.

The embedding model reads 256 word pieces, two of them its marks. `count_pieces` estimates them without the model: on
2,344 passages of English novels, blogs and code 1.1 times WordPiece's count in the median, and 0.6 % of the passages
were longer than the model reads. Other languages have more pieces than it counts; there dense ranking may not see the
end of a full passage, while its words are found all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from edge_runtime.ingestion.sections import Section

BUDGET_PIECES: Final = 254
_LEAST_BUDGET: Final = 128  # what a long cue leaves to its text
_MOST_CHARACTERS: Final = 8_000  # far below what one memory holds; a line of spaces has no pieces
_PIECE = re.compile(r"[A-Za-z]+|[0-9]+|\S")
_WORD = re.compile(r"\S+")
_LINE = re.compile(r"[^\n]+")
_SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]|(?=\n\s*\n)|\Z)", re.DOTALL)
_ITEM = re.compile(r"\s*([-*+•]|\d{1,3}[.)]|\|)\s*")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")

Span = tuple[int, int]


def passages(sections: Iterable[Section]) -> Iterator[Section]:
    """The sections, each cut into spans that fit the budget with its cue, numbered in `position` from 0 in
    every part."""
    part, position = "", 0
    for section in sections:
        if section.part != part:
            part, position = section.part, 0
        # a lone half of a character pair, as broken exports hold, cannot be stored
        text = section.text.replace("\x00", "").encode("utf-8", "replace").decode()
        cue = section.cue.replace("\x00", "").encode("utf-8", "replace").decode()
        for start, end in spans(text, max(_LEAST_BUDGET, BUDGET_PIECES - count_pieces(cue))):
            yield replace(section, text=text[start:end], cue=cue, position=position)
            position += 1


def spans(text: str, budget: int = BUDGET_PIECES) -> list[Span]:
    """Spans (start, end) of `text` in order, each of at most `budget` pieces; together they hold everything but
    white space. Only consecutive spans overlap, and only by a sentence of one paragraph."""
    packed: list[Span] = []
    current: Span | None = None
    for block in _blocks(text):
        joined = (current[0], block[1]) if current else block
        if _fits(text, joined, budget):
            current = joined
            continue
        if current:
            packed.append(current)
        current = block
        if not _fits(text, block, budget):
            *whole, current = _cut_block(text, block, budget)
            packed += whole
    return [*packed, current] if current else packed


def count_pieces(text: str) -> int:
    """About how many word pieces `text` has: one per punctuation mark and per character that is not ASCII, more
    for long words and for numbers."""
    total = 0
    for match in _PIECE.finditer(text):
        length = match.end() - match.start()
        total += 1 + (length - 1) // 5 if match[0].isalpha() else (length + 1) // 2
    return total


def _fits(text: str, span: Span, budget: int) -> bool:
    length = span[1] - span[0]
    return length <= budget or (length <= _MOST_CHARACTERS and count_pieces(text[span[0] : span[1]]) <= budget)


def _blocks(text: str) -> Iterator[Span]:
    """Paragraphs, lists with the blank lines between their items, and fenced code, without the white space around
    them."""
    start: int | None = None
    end, fence, in_list = 0, "", False
    for match in _LINE.finditer(text):
        line = match[0]
        if fence:
            end = match.end()
            if line.strip().startswith(fence):
                yield (start or 0, end)
                start, fence = None, ""
            continue
        if not line.strip():
            continue
        mark = _FENCE.match(line)
        apart = start is not None and "\n" in text[end : match.start()].strip(" \t").removeprefix("\n")
        is_item = _ITEM.match(line) is not None
        if start is not None and (mark or (apart and not (in_list and (is_item or line[0] in " \t")))):
            yield (start, end)
            start = None
        if start is None:
            start, in_list = match.start() + len(line) - len(line.lstrip()), is_item
            if mark:
                start, fence = match.start(), mark[1]
        end = match.start() + len(line.rstrip())
    if start is not None:
        yield (start, end)


def _cut_block(text: str, block: Span, budget: int) -> list[Span]:
    """A block that is larger than the budget, by lines or by sentences."""
    content = text[block[0] : block[1]]
    by_lines = bool(_FENCE.match(content) or _ITEM.match(content))
    units = [
        unit
        for match in (_LINE if by_lines else _SENTENCE).finditer(text, *block)
        for unit in _cut_unit(text, _stripped(text, match.span()), budget)
    ]
    cut: list[Span] = []
    first = 0  # of the units of the current span
    for number in range(1, len(units) + 1):
        if number < len(units) and _fits(text, (units[first][0], units[number][1]), budget):
            continue
        cut.append((units[first][0], units[number - 1][1]))
        if number == len(units):
            break
        last = units[number - 1]
        repeats = not by_lines and number - 1 > first and _fits(text, last, budget // 4)
        first = number - 1 if repeats and _fits(text, (last[0], units[number][1]), budget) else number
    return cut


def _cut_unit(text: str, unit: Span, budget: int) -> Iterator[Span]:
    """A line or sentence whole, else runs of its words; a word that is too long in slices of `budget`
    characters, which are at most as many pieces."""
    if unit[0] == unit[1]:
        return
    if _fits(text, unit, budget):
        yield unit
        return
    start, end = unit[0], unit[0]
    pieces = 0
    for match in _WORD.finditer(text, *unit):
        for at in range(match.start(), match.end(), budget):
            word = (at, min(at + budget, match.end()))
            size = count_pieces(text[word[0] : word[1]])
            if end > start and (pieces + size > budget or word[1] - start > _MOST_CHARACTERS):
                yield (start, end)
                pieces = 0
                start = word[0]
            elif end == start:
                start = word[0]
            end = word[1]
            pieces += size
    yield (start, end)


def _stripped(text: str, span: Span) -> Span:
    content = text[span[0] : span[1]]
    inner = content.strip()
    start = span[0] + len(content) - len(content.lstrip())
    return (start, start + len(inner))
