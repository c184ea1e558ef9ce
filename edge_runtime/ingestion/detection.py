"""Which reader a file needs: by what it holds where that is unmistakable, else by its extension."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_runtime.ingestion.chats import WHATSAPP_LINE, read_chatgpt, read_json, read_telegram, read_whatsapp
from edge_runtime.ingestion.html_pages import read_html
from edge_runtime.ingestion.json_lines import is_json_line, read_json_lines
from edge_runtime.ingestion.mail import is_maildir, read_eml, read_maildir, read_mbox
from edge_runtime.ingestion.pdf_files import read_pdf
from edge_runtime.ingestion.sections import Section, decode_text
from edge_runtime.ingestion.text_files import read_markdown, read_text
from protocol.errors import PenchantError

SUPPORTED: Final = (
    "text, Markdown, PDF, saved web pages, mail (.eml, mbox, Maildir), WhatsApp .txt, Telegram result.json, "
    "ChatGPT conversations.json and JSON lines"
)
_HEAD_BYTES = 65_536
_HTML_START = re.compile(rb"\s*(<!--.{0,2000}?-->\s*)*(<!doctype html|<html\b)", re.IGNORECASE | re.DOTALL)
_MAIL_START = re.compile(rb"(?:[A-Za-z][A-Za-z0-9\-]*:[^\n]*\n(?:[ \t][^\n]*\n)*){2,}")
_MAIL_HEADERS = re.compile(
    rb"^(received|return-path|message-id|mime-version|delivered-to):", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True)
class Reader:
    """A kind of file and the function that reads it."""

    kind: str
    read: Callable[[Path], Iterator[Section]]


_TEXT, _MARKDOWN, _HTML = Reader("text", read_text), Reader("markdown", read_markdown), Reader("web page", read_html)
_PDF, _EML, _MBOX = Reader("pdf", read_pdf), Reader("mail", read_eml), Reader("mailbox", read_mbox)
_MAILDIR, _LINES = Reader("maildir", read_maildir), Reader("json lines", read_json_lines)
_WHATSAPP, _TELEGRAM = Reader("whatsapp chat", read_whatsapp), Reader("telegram chat", read_telegram)
_CHATGPT = Reader("chatgpt chats", read_chatgpt)

_BY_EXTENSION: Final = {
    **dict.fromkeys((".md", ".markdown", ".mkd"), _MARKDOWN),
    **dict.fromkeys((".txt", ".text", ".rst", ".org", ""), _TEXT),
    **dict.fromkeys((".htm", ".html", ".xhtml"), _HTML),
    **dict.fromkeys((".jsonl", ".ndjson"), _LINES),
    ".pdf": _PDF,
    ".eml": _EML,
    ".mbox": _MBOX,
}


def detect_reader(path: Path) -> Reader:
    """The reader for the file or Maildir folder `path`; PenchantError that names what is supported if there is
    none."""
    if is_maildir(path):
        return _MAILDIR
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise PenchantError(f"it cannot be opened ({error.strerror})") from None
    if not head:
        raise PenchantError("it is empty")
    extension = path.suffix.lower()
    if extension == ".json":
        return _json_reader(path)
    found = _by_content(head, extension)
    if found is None:
        raise PenchantError(f"this kind of file is not supported; supported are {SUPPORTED}")
    return found


def _by_content(head: bytes, extension: str) -> Reader | None:
    by_extension = _BY_EXTENSION.get(extension)
    if b"%PDF-" in head[:1024]:
        return _PDF
    if by_extension not in (None, _TEXT):
        return by_extension
    if head.startswith(b"From ") and _MAIL_START.match(head.partition(b"\n")[2].replace(b"\r\n", b"\n")):
        return _MBOX
    if _HTML_START.match(head):
        return _HTML
    start = _MAIL_START.match(head.replace(b"\r\n", b"\n"))
    if start and _MAIL_HEADERS.search(start[0]):
        return _EML
    if by_extension is _TEXT and extension == ".txt" and _looks_like_whatsapp(head):
        return _WHATSAPP
    return by_extension


def _looks_like_whatsapp(head: bytes) -> bool:
    """Whether the first line, and at least two lines where there are more, begin like turns."""
    try:
        lines = [line for line in decode_text(head[: head.rfind(b"\n") + 1] or head).split("\n") if line.strip()]
    except PenchantError:
        return False
    return bool(lines) and all(WHATSAPP_LINE.match(line) for line in lines[:1]) and ": " in "".join(lines[:5])


def _json_reader(path: Path) -> Reader:
    value: Any = read_json(path, object) if not _is_lines(path) else None
    if value is None:
        return _LINES
    if isinstance(value, dict) and (isinstance(value.get("messages"), list) or isinstance(value.get("chats"), dict)):
        return _TELEGRAM
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        if "mapping" in value[0]:
            return _CHATGPT
        if is_json_line(value[0]):
            return _LINES
    raise PenchantError(f"its JSON is of no supported chat; supported are {SUPPORTED}")


def _is_lines(path: Path) -> bool:
    """Whether the first line alone is an object that can be read as one of JSON lines."""
    with path.open("rb") as file:
        first = file.readline(_HEAD_BYTES)
    try:
        return is_json_line(json.loads(first))
    except (ValueError, RecursionError):
        return False
