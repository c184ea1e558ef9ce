"""Which reader: by content where it is unmistakable, else by extension; else the error names what there is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edge_runtime.ingestion.detection import detect_reader
from edge_runtime.ingestion.folders import find_files
from protocol.errors import PenchantError
from tests.edge_runtime.ingestion.pdf_help import pdf_bytes

TURN = {"date": "2025-03-14", "author": "Ana", "text": "x"}
MAIL = "Received: from x\nFrom: a@b.c\nSubject: x\n\nbody\n"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.md", "# x", "markdown"),
        ("a.txt", "x", "text"),
        ("README", "x", "text"),
        ("a.txt", "14/03/2025, 09:30 - Ana: hello\n", "whatsapp chat"),
        ("a.txt", "14/03/2025 is the day\n", "text"),
        ("a.bin", pdf_bytes([["x"]]), "pdf"),
        ("a.eml", MAIL, "mail"),
        ("1234.host", MAIL, "mail"),
        ("Inbox", f"From x\n{MAIL}", "mailbox"),
        ("a.txt", "From here on it is text\nand more", "text"),
        ("page", "<!-- saved -->\n<html><body>x</body></html>", "web page"),
        ("a.jsonl", json.dumps(TURN), "json lines"),
        ("a.json", json.dumps([TURN]), "json lines"),
        ("a.json", json.dumps(TURN) + "\n" + json.dumps(TURN), "json lines"),
        ("result.json", json.dumps({"name": "Ana", "messages": []}), "telegram chat"),
        ("conversations.json", json.dumps([{"mapping": {}}]), "chatgpt chats"),
    ],
)
def test_kinds(tmp_path: Path, name: str, content: str | bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert detect_reader(tmp_path / name).kind == kind


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"\x89PNG\x00", "supported are text, Markdown, PDF"),
        ("a.py", b"x = 1", "supported are"),
        ("a.json", b"{}", "supported are"),
        ("a.json", b"[[[", "not valid JSON"),
        ("a.txt", b"", "empty"),
    ],
)
def test_what_is_not_supported_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PenchantError, match=message):
        detect_reader(tmp_path / name)


def test_folders_leave_out_what_nobody_means(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside.txt"
    outside.write_text("x")
    for folder in ("b/deep", ".git", "node_modules", "mail/cur", "mail/new", "mail/tmp", "mail/.Trash/cur"):
        (home / folder).mkdir(parents=True)
    for name in ("z.txt", "b/deep/a.md", ".git/config", "node_modules/readme.md", "mail/cur/1", ".hidden"):
        (home / name).write_text("x")
    (home / "link.txt").symlink_to(outside)
    (home / "loop").symlink_to(home)
    os.mkfifo(home / "pipe")
    for name in ("new", "tmp"):
        (home / "mail" / ".Trash" / name).mkdir()
    found = find_files([home, home / "z.txt", tmp_path / "missing"])
    assert [str(path.relative_to(home)) for path in found.paths] == ["b/deep/a.md", "mail", "z.txt"]
    assert {(path.name, reason) for path, reason in found.skipped} == {
        (".git", "hidden"),
        (".hidden", "hidden"),
        ("link.txt", "a link"),
        ("loop", "a link"),
        (".Trash", "mail that was thrown away"),
        ("node_modules", "installed software"),
        ("pipe", "not an ordinary file"),
        ("missing", "there is no such file or folder"),
    }
