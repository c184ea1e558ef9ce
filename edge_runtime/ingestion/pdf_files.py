"""PDF files by pypdf: one section per page, without the lines that repeat on every page.

Damaged files, passwords and streams that unpack to gigabytes end in one line; pypdf bounds what a stream may
unpack to (75 MB), and the text taken is bounded here.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from edge_runtime.ingestion.sections import (
    MAXIMUM_TEXT_BYTES,
    Section,
    clean_line,
    file_day,
    heading_path,
    read_bytes,
)
from protocol.errors import PenchantError

MAXIMUM_PDF_BYTES = 200_000_000
_HYPHENATED = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_A-Z])")
_DIGITS = re.compile(r"\d+")


def read_pdf(path: Path) -> Iterator[Section]:
    """The pages that hold text. The speaker is the author the file names, else the file: who reads a PDF has
    seldom written it, and it must not be taken for the owner's word."""
    data = read_bytes(path, at_most=MAXIMUM_PDF_BYTES)
    pages, title, author, day = _extracted(data)
    repeated = _repeated_lines(pages)
    said_at = day or file_day(path)
    for number, page in enumerate(pages, 1):
        lines = [line for line in page.split("\n") if _masked(line) not in repeated]
        text = _HYPHENATED.sub("", "\n".join(lines)).strip()
        if text:
            cue = heading_path([title or path.stem, f"page {number}"])
            yield Section(text, said_at, speaker=author or path.name, cue=cue, position=number - 1)


def _extracted(data: bytes) -> tuple[list[str], str, str, str | None]:
    """Texts of the pages, title, author, day of the last change."""
    try:
        import pypdf
    except ImportError:
        raise PenchantError("PDF files need pypdf: pip install pypdf") from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every oddity of every file
    try:
        reader = pypdf.PdfReader(BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise PenchantError("the PDF has a password; save it without one")
        pages, size = [], 0
        for page in reader.pages:
            pages.append(page.extract_text().replace("\x00", ""))
            size += len(pages[-1])
            if size > MAXIMUM_TEXT_BYTES:
                raise PenchantError(f"the PDF unpacks to more than {MAXIMUM_TEXT_BYTES / 1e6:.0f} MB of text")
        about = reader.metadata
        title, author = (clean_line(str(value or "")) for value in ((about.title, about.author) if about else ("", "")))
        changed = _changed(about)
    except PenchantError:
        raise
    except (Exception, RecursionError) as error:  # a damaged file may fail anywhere in pypdf
        raise PenchantError(f"the PDF is damaged or not a PDF ({type(error).__name__})") from None
    if not any(page.strip() for page in pages):
        raise PenchantError("the PDF holds no text (a scan?); make it searchable first")
    return [page.encode("utf-8", "replace").decode() for page in pages], title, author, changed


def _changed(about: object) -> str | None:
    for name in ("modification_date", "creation_date"):
        try:
            value = getattr(about, name, None)
        except ValueError:  # the date is malformed
            continue
        if value is not None:
            return str(value.date().isoformat())
    return None


def _repeated_lines(pages: list[str]) -> set[str]:
    """First and last lines, digits masked, that stand on more than half of at least four pages: running titles
    and page numbers."""
    edges: Counter[str] = Counter()
    for page in pages:
        lines = [line for line in page.split("\n") if line.strip()]
        edges.update({_masked(line) for line in (*lines[:1], *lines[-1:])})
    return {line for line, count in edges.items() if count > max(3, len(pages)) / 2} if len(pages) >= 4 else set()


def _masked(line: str) -> str:
    return _DIGITS.sub("0", clean_line(line))
