"""What a reader gives: the parts of one file in their order, each with what is known about it.

Readers are functions `read(path) -> Iterator[Section]`. They raise PenchantError with one line that says what to
do if the file cannot be read, and never quote the file's text in it.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from edge_runtime.memory.statements import Kind
from protocol.errors import PenchantError

# No file of text is longer: a mailbox or a chat export may be, and says so where it is read.
MAXIMUM_TEXT_BYTES: Final = 20_000_000
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CUE_CHARACTERS = 200
# Marks of writing direction and of width say nothing and break comparisons.
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\x00]")


@dataclass(frozen=True)
class Section:
    """Text that belongs together: what lies under a heading, a page, a mail, a turn of a chat.

    `said_at` is an ISO date. `speaker` is a name or an address; "" is the owner, who kept or wrote the file.
    `cue` is the heading path or the subject. `source` is "file", "mail" or "chat"; `kind` is "statement" only for
    what the owner had told a device before. `part` tells apart what does not belong together inside one
    file (mails, conversations) and stays the same in a newer copy of it; `position` is the order inside a part.
    """

    text: str
    said_at: str
    speaker: str = ""
    cue: str = ""
    source: str = "file"
    kind: Kind = "passage"
    part: str = ""
    position: int = 0


def read_bytes(path: Path, *, at_most: int = MAXIMUM_TEXT_BYTES) -> bytes:
    """The whole file; PenchantError if it is larger than `at_most` or cannot be read."""
    try:
        size = path.stat().st_size
        if size > at_most:
            raise PenchantError(f"it has {size / 1e6:.0f} MB; files of this kind are read up to {at_most / 1e6:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise PenchantError(f"it cannot be opened ({error.strerror})") from None


def decode_text(data: bytes, encoding: str = "utf-8") -> str:
    """`data` as text in Unicode form NFC with "\\n" line ends: by its byte order mark, else in `encoding`."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), encoding)
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        raise PenchantError("it is not UTF-8 text; save it as UTF-8") from None
    if "\x00" in text:
        raise PenchantError("it holds binary data, not text")
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def clean_line(text: str) -> str:
    """`text` on one line without invisible characters: for names, headings and subjects."""
    return " ".join(_INVISIBLE.sub("", text).split())


def heading_path(headings: Iterable[str]) -> str:
    """Headings from the outermost to the innermost as one cue, the innermost kept if all are too long."""
    path = " > ".join(filter(None, map(clean_line, headings)))
    return path if len(path) <= _CUE_CHARACTERS else "..." + path[3 - _CUE_CHARACTERS :]


def part_name(identity: object) -> str:
    """A short name for a part of a file, from what identifies it there (a message id, a chat's number)."""
    return hashlib.sha256(str(identity).encode("utf-8", "replace")).hexdigest()[:16]


def file_day(path: Path) -> str:
    """The day the file was last changed, the fallback for everything that carries no date of its own."""
    return date.fromtimestamp(max(path.stat().st_mtime, 0)).isoformat()


def iso_day(value: object) -> str | None:
    """The day of an ISO date or time, or of seconds (or milliseconds) since 1970 in UTC; None if `value` is neither."""
    text = str(value).strip()
    try:
        if re.fullmatch(r"\d{9,13}(\.\d+)?", text):
            seconds = float(text)
            return datetime.fromtimestamp(seconds / 1000 if seconds > 1e11 else seconds, UTC).date().isoformat()
        return datetime.fromisoformat(text).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return None
