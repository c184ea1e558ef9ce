"""Saved web pages: what a reader of the page sees, under its headings; and the text of mails written in HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from edge_runtime.ingestion.sections import Section, clean_line, decode_text, file_day, heading_path, read_bytes

_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?([A-Za-z0-9_\-]+)", re.IGNORECASE)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
# Their text is not part of what the page says.
_LEFT_OUT = frozenset(
    ("script", "style", "noscript", "template", "svg", "nav", "header", "footer", "aside", "form", "button", "head")
)
_QUOTED = frozenset(("blockquote",))
_BLOCKS = frozenset(
    ("p", "div", "section", "article", "main", "ul", "ol", "table", "blockquote", "pre", "figure", "dl", "hr")
).union(_HEADINGS)
_LINES = frozenset(("br", "tr", "dt", "dd"))
_SPACES = re.compile(r"[ \t\xa0]+")


def read_html(path: Path) -> Iterator[Section]:
    """One section per heading; the speaker is the page, since somebody else wrote it."""
    data = read_bytes(path)
    declared = _CHARSET.search(data[:4096])
    parser = _PageText(_LEFT_OUT)
    parser.feed(decode_text(data, declared[1].decode() if declared else "utf-8"))
    parser.close()
    parser.end_section()
    title = clean_line("".join(parser.title))
    position = 0
    for headings, body in parser.sections:
        if body:
            # the first heading usually repeats the title
            names = headings if headings[:1] == [title] else [title, *headings]
            yield Section(body, file_day(path), speaker=title or path.name, cue=heading_path(names), position=position)
            position += 1


def text_of_html(html: str, *, quotes: bool = True) -> str:
    """The visible text of a piece of HTML; without what it quotes if `quotes` is False."""
    parser = _PageText(_LEFT_OUT - {"header", "footer", "form"} | (frozenset() if quotes else _QUOTED))
    parser.feed(html)
    parser.close()
    parser.end_section()
    return "\n\n".join("\n\n".join((*headings[-1:], body)).strip() for headings, body in parser.sections)


class _PageText(HTMLParser):
    """Collects (headings, text) pairs and the title."""

    def __init__(self, left_out: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: list[tuple[list[str], str]] = []
        self.title: list[str] = []
        self._left_out = left_out
        self._skipping: list[str] = []  # open elements that are left out
        self._in_title = self._verbatim = False
        self._path: dict[int, str] = {}
        self._heading: int | None = None
        self._parts: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = not self.title
        elif tag == "body":
            self._skipping.clear()  # pages forget to close their head
        elif tag in self._left_out:
            self._skipping.append(tag)
        elif not self._skipping:
            if tag in _HEADINGS:
                self.end_section()
                self._heading = _HEADINGS[tag]
            elif tag == "li":
                self._parts.append("\n- ")
            elif tag in _LINES or tag in _BLOCKS:
                self._parts.append("\n" if tag in _LINES else "\n\n")
            elif tag in ("td", "th"):
                self._parts.append(" ")
            self._verbatim = self._verbatim or tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._skipping:
            del self._skipping[self._skipping.index(tag) :]
        elif not self._skipping:
            if tag in _HEADINGS and self._heading is not None:
                level, self._heading = self._heading, None
                name = clean_line("".join(self._parts))
                self._path = {depth: above for depth, above in self._path.items() if depth < level} | {level: name}
                self._parts = []
            elif tag in _BLOCKS:
                self._parts.append("\n\n")
            self._verbatim = self._verbatim and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._skipping:
            self._parts.append(data if self._verbatim else re.sub(r"\s+", " ", data))

    def end_section(self) -> None:
        lines = (_SPACES.sub(" ", line).strip() for line in "".join(self._parts).replace("\x00", "").split("\n"))
        body = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
        self._parts, self._heading = [], None
        if body or self._path:
            self.sections.append((list(self._path.values()), body))
