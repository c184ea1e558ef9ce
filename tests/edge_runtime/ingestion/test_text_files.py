"""Text and Markdown: headings, dates, encodings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.ingestion.sections import MAXIMUM_TEXT_BYTES
from edge_runtime.ingestion.text_files import read_markdown, read_text
from protocol.errors import PenchantError


def written(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def test_markdown_headings_are_the_cue(tmp_path: Path) -> None:
    text = "intro\n# Kiln\nabout\n## Shelves ##\nthree\n```\n# no heading\n```\n### Deep\nx\n"
    text += "## Glaze\ny\nTitle\n=====\nz\n\n- item\n---\n"
    found = list(read_markdown(written(tmp_path / "a.md", text)))
    assert [section.cue for section in found] == ["", "Kiln", "Kiln > Shelves", "Kiln > Shelves > Deep", "Kiln > Glaze"]
    assert "# no heading" in found[2].text and "---" in found[4].text
    assert {section.said_at for section in found} == {"2023-11-14"} and {section.speaker for section in found} == {""}


def test_underlined_headings(tmp_path: Path) -> None:
    found = list(read_markdown(written(tmp_path / "a.md", "Kiln\n====\nhot\n\nShelf\n-----\nold\n\n- a\n---\n")))
    assert [(section.cue, section.text.strip()) for section in found] == [
        ("Kiln", "hot"),
        ("Kiln > Shelf", "old\n\n- a\n---"),
    ]


def test_front_matter_and_dated_headings(tmp_path: Path) -> None:
    text = "---\ntitle: 'Diary'\ndate: 2025-01-02T10:00\n---\nhello\n"
    text += "# 2025-03-14 Friday\nrain\n## Evening\nsoup\n# 2025-99-99\nx\n"
    found = list(read_markdown(written(tmp_path / "a.md", text)))
    assert [section.said_at for section in found] == ["2025-01-02", "2025-03-14", "2025-03-14", "2025-01-02"]
    assert found[2].cue == "Diary > 2025-03-14 Friday > Evening"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_unicode_form(tmp_path: Path, encoding: str) -> None:
    (section,) = read_text(written(tmp_path / "a.txt", "cafe\u0301 漢字 🙂\r\nend".encode(encoding)))
    assert section.text == "café 漢字 🙂\nend"


@pytest.mark.parametrize(
    ("data", "message"), [("Müller".encode("latin-1"), "UTF-8"), (b"text\x00more", "binary")], ids=["latin-1", "nul"]
)
def test_what_is_no_text_is_refused_without_quoting_it(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(PenchantError, match=message) as caught:
        list(read_text(written(tmp_path / "a.txt", data)))
    assert "\n" not in str(caught.value) and "more" not in str(caught.value)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(100_000_000)  # one line, without using the disk
    with pytest.raises(PenchantError, match=f"100 MB; .* up to {MAXIMUM_TEXT_BYTES // 1_000_000} MB"):
        list(read_text(tmp_path / "a.txt"))
