"""PDF: text, title and author; damaged, locked and hostile files end in one line."""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path

import pypdf
import pytest

from edge_runtime.ingestion.pdf_files import read_pdf
from protocol.errors import PenchantError
from tests.edge_runtime.ingestion.pdf_help import pdf_bytes, pdf_with_streams

INFO = "/Title (Kiln handbook) /Author (Bea Moss) /ModDate (D:20240506070809Z)"


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "a.pdf"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_pages_with_title_author_and_date(tmp_path: Path, compress: bool) -> None:
    pages = [["The kiln stands in the gar-", "den."], [], ["Glaze na\xefve."]]
    found = list(read_pdf(written(tmp_path, pdf_bytes(pages, info=INFO, compress=compress))))
    assert [section.text for section in found] == ["The kiln stands in the garden.", "Glaze naïve."]
    assert [section.cue for section in found] == ["Kiln handbook > page 1", "Kiln handbook > page 3"]
    assert {(section.speaker, section.said_at) for section in found} == {("Bea Moss", "2024-05-06")}


def test_without_an_author_the_file_speaks_not_the_owner(tmp_path: Path) -> None:
    assert next(read_pdf(written(tmp_path, pdf_bytes([["I live in Ghent."]])))).speaker == "a.pdf"


def test_running_titles_and_page_numbers_are_dropped(tmp_path: Path) -> None:
    pages = [["Handbook of kilns", f"Text number {word}.", f"{number}"] for number, word in enumerate("abcdef", 7)]
    found = list(read_pdf(written(tmp_path, pdf_bytes(pages))))
    assert [section.text for section in found] == [f"Text number {word}." for word in "abcdef"]


def locked(password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=BytesIO(pdf_bytes([["secret"]])))
    writer.encrypt(user_password=password, owner_password="other", algorithm="AES-256")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def test_an_empty_password_is_none(tmp_path: Path) -> None:
    assert next(read_pdf(written(tmp_path, locked("")))).text == "secret"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%PDF-1.4\n garbage", "damaged"),
        (pdf_bytes([["hello"]])[:300], "damaged|no text"),
        (b"not a pdf", "damaged"),
        (locked("pass"), "password"),
        (pdf_bytes([[], []]), "no text"),
        (pdf_with_streams([zlib.compress(b"(a) Tj " * 20_000_000)], compressed=True), "damaged"),
    ],
    ids=["garbage", "truncated", "other", "locked", "scan", "bomb"],
)
def test_what_cannot_be_read_ends_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(PenchantError, match=message) as caught:
        list(read_pdf(written(tmp_path, data)))
    assert "\n" not in str(caught.value)
