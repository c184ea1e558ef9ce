"""Plain text and Markdown: the owner's notes, cut at their headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.ingestion.sections import Section, decode_text, file_day, heading_path, iso_day, read_bytes

_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)\s*#*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-{3,})\s*$")
_FRONT_MATTER = re.compile(r"---\n(.*?\n)(?:---|\.\.\.)(?:\n|$)", re.DOTALL)
_FRONT_DATE = re.compile(r"^(?:date|created)\s*:\s*[\"']?([0-9T:.+\-]{8,})", re.MULTILINE | re.IGNORECASE)
_FRONT_TITLE = re.compile(r"^title\s*:\s*[\"']?(.*?)[\"']?\s*$", re.MULTILINE | re.IGNORECASE)
# Diaries date their entries in the heading.
_DAY_IN_HEADING = re.compile(r"\b(\d{4}-\d{2}-\d{2})\b")


def read_text(path: Path) -> Iterator[Section]:
    """The whole file as one section."""
    yield Section(decode_text(read_bytes(path)), file_day(path))


def read_markdown(path: Path) -> Iterator[Section]:
    """One section per heading (# and underlined ones; none inside code blocks), its cue the path of headings.

    Front matter gives title and date; a heading with an ISO date dates what lies under it.
    """
    text, day = decode_text(read_bytes(path)), file_day(path)
    title, front = "", _FRONT_MATTER.match(text)
    if front:
        found_day, found_title = _FRONT_DATE.search(front[1]), _FRONT_TITLE.search(front[1])
        day = (found_day and iso_day(found_day[1])) or day
        title = found_title[1] if found_title else ""
        text = text[front.end() :]
    position = 0
    for headings, body in _under_headings(text.split("\n")):
        if body.strip():
            dated = [match[1] for heading in headings for match in [_DAY_IN_HEADING.search(heading)] if match]
            said_at = next((found for written in reversed(dated) if (found := iso_day(written))), day)
            yield Section(body, said_at, cue=heading_path([title, *headings]), position=position)
            position += 1


def _under_headings(lines: list[str]) -> Iterator[tuple[list[str], str]]:
    """(headings from the outermost, text below) in order; the text before the first heading has none."""
    path: dict[int, str] = {}
    body: list[str] = []
    fence = ""
    for line in lines:
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
            body.append(line)
            continue
        if mark:
            fence = mark[1]
        heading = _HEADING.match(line)
        underlined = _UNDERLINE.match(line) if body and body[-1].strip() and not fence else None
        if underlined and (len(body) < 2 or not body[-2].strip()) and not re.match(r"\s*([-*+>|]|\d+[.)])", body[-1]):
            level, name = (1 if "=" in underlined[1] else 2), body.pop()
        elif heading and not fence:
            level, name = len(heading[1]), heading[2]
        else:
            body.append(line)
            continue
        yield list(path.values()), "\n".join(body)
        path = {depth: above for depth, above in path.items() if depth < level} | {level: name}
        body = []
    yield list(path.values()), "\n".join(body)
