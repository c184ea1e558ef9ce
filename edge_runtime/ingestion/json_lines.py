"""JSON lines: Penchant's own ({"text", "said_at", ...}) and any chat's ({"date", "author", "text"}); the same
objects in one JSON array are read too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.ingestion.chats import MAXIMUM_EXPORT_BYTES, UNKNOWN_SPEAKER, says_something
from edge_runtime.ingestion.sections import (
    Section,
    clean_line,
    decode_text,
    file_day,
    heading_path,
    iso_day,
    read_bytes,
)
from edge_runtime.memory.statements import Kind
from protocol.errors import PenchantError

# What exporters call the same thing (Slack: user and ts; Signal: sender and timestamp).
_DATES = ("date", "timestamp", "ts", "time", "created_at", "sent_at")
_AUTHORS = ("author", "sender", "from", "user", "speaker", "name")
_TEXTS = ("text", "message", "body", "content")
_NOT_PEOPLE = frozenset(("assistant", "system", "tool", "function", "model", "bot"))


def read_json_lines(path: Path) -> Iterator[Section]:
    """One section per object. The message names the line of the first object that has no text or author."""
    day, objects = file_day(path), _objects(decode_text(read_bytes(path, at_most=MAXIMUM_EXPORT_BYTES)))
    for position, (line, value) in enumerate(objects):
        if not isinstance(value, dict):
            raise PenchantError(f"line {line} is not a JSON object")
        section = _section(value, position, day)
        if section is None:
            raise PenchantError(f'line {line} is not {{"date", "author", "text"}}')
        if says_something(section.text) and section.speaker.lower() not in _NOT_PEOPLE:
            yield section


def is_json_line(value: Any) -> bool:
    """Whether one object can be read here."""
    return isinstance(value, dict) and _section(value, 0, "") is not None


def _objects(text: str) -> Iterator[tuple[int, Any]]:
    """(line number, value) of every line, or of every element of one array."""
    try:
        if text.lstrip().startswith("["):
            yield from enumerate(json.loads(text), 1)
            return
    except (ValueError, RecursionError):
        raise PenchantError("it is not valid JSON") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                raise PenchantError(f"line {number} is not valid JSON") from None


def _section(value: Mapping[str, Any], position: int, fallback_day: str) -> Section | None:
    return _own(value, position) if "said_at" in value else _turn(value, position, fallback_day)


def _own(value: Mapping[str, Any], position: int) -> Section | None:
    """A memory as `penchant recall --json` shows it: the owner's statement, unless it says otherwise."""
    text, day = value.get("text"), iso_day(value.get("said_at"))
    if not isinstance(text, str) or day is None:
        return None
    kind: Kind = "passage" if value.get("kind") == "passage" else "statement"
    speaker, cue = str(value.get("speaker") or ""), str(value.get("cue") or "")
    source = "assistant" if value.get("source") in _NOT_PEOPLE else "file"
    return Section(
        text, day, speaker if source == "file" else source, heading_path([cue]), "file", kind, position=position
    )


def _turn(value: Mapping[str, Any], position: int, fallback_day: str) -> Section | None:
    text = next((value[name] for name in _TEXTS if isinstance(value.get(name), str)), None)
    author = next((value[name] for name in _AUTHORS if isinstance(value.get(name), str | int)), None)
    role = value.get("role")
    if text is None or (author is None and not isinstance(role, str)):
        return None
    day = next((found for name in _DATES if name in value and (found := iso_day(value[name]))), None)
    if isinstance(role, str) and role != "user":
        author = "assistant" if role.lower() in _NOT_PEOPLE else author or role
    elif author is None:
        author = ""  # the user of an assistant is its owner
    speaker = clean_line(str(author)) or ("" if role == "user" else UNKNOWN_SPEAKER)
    return Section(text, day or fallback_day, speaker, source="chat", position=position)
