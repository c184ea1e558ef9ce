"""Which files a folder offers: all of them, in the order of their names, but for what a person would not mean.

Left out, each with its reason: hidden files, links (what they point to inside the folder is read there; what lies
outside was not asked for), folders of installed software, and what is no ordinary file (a pipe would block).
Size and content are judged by the readers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_runtime.ingestion.mail import is_maildir

_SOFTWARE: Final = frozenset(("node_modules", "__pycache__", "site-packages", "venv"))
_THROWN_AWAY: Final = frozenset(("spam", "junk", "trash"))


@dataclass
class Found:
    """What to read and what was left out: (path, reason)."""

    paths: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def find_files(paths: Iterable[Path]) -> Found:
    """The files below `paths`, each once; a Maildir folder counts as one file. Paths that are given outright may be
    hidden or links."""
    found, seen = Found(), set()
    for path in paths:
        path = path.expanduser()
        if not path.exists():
            found.skipped.append((path, "there is no such file or folder"))
            continue
        inside = Found()
        if path.is_dir():
            _walk(path, inside)
        elif path.is_file():
            inside.paths.append(path)
        else:
            inside.skipped.append((path, "not an ordinary file"))
        found.skipped += inside.skipped
        for file in inside.paths:
            place = file.resolve()
            if place not in seen:
                seen.add(place)
                found.paths.append(file)
    return found


def _walk(folder: Path, found: Found) -> None:
    maildir = is_maildir(folder)
    if maildir:
        found.paths.append(folder)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.skipped.append((folder, f"it cannot be opened ({error.strerror})"))
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            found.skipped.append((path, "a link"))
        elif maildir and not is_maildir(path):
            continue  # its messages, and what the mail program keeps about them
        elif maildir and path.name.lstrip(".").lower() in _THROWN_AWAY:
            found.skipped.append((path, "mail that was thrown away"))
        elif entry.name.startswith(".") and not maildir:
            found.skipped.append((path, "hidden"))
        elif entry.is_dir():
            if entry.name.lower() in _SOFTWARE:
                found.skipped.append((path, "installed software"))
            else:
                _walk(path, found)
        elif entry.is_file():
            found.paths.append(path)
        else:
            found.skipped.append((path, "not an ordinary file"))
