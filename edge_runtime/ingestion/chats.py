"""Chat exports: WhatsApp (.txt), Telegram (result.json), ChatGPT (conversations.json); one section per turn.

What an assistant, a bot or the app itself wrote is left out altogether, even as the cue of what follows: it would
be searched, and come back, as if it were the owner's. The neighbours of a turn are found by its position.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

from edge_runtime.ingestion.sections import (
    Section,
    clean_line,
    decode_text,
    file_day,
    heading_path,
    iso_day,
    part_name,
    read_bytes,
)
from protocol.errors import PenchantError

MAXIMUM_EXPORT_BYTES: Final = 500_000_000
UNKNOWN_SPEAKER: Final = "unknown"  # never "", which is the owner
# [14/03/2025, 09:30:15] Ana: ...   |   3/14/25, 9:30 AM - Ana: ...   |   14.03.25, 09:30 - Ana: ...
WHATSAPP_LINE = re.compile(
    r"^[\u200e\u200f]*\[?(\d{1,4})([./-])(\d{1,2})[./-](\d{1,4}),?\s+\d{1,2}[:.]\d{2}(?:[:.]\d{2})?"
    r"(?:\s*([APap])\.?\s?[Mm]\.?)?(?:\]\s?|\s+-\s+)(.*)$"
)
_SPOKEN = re.compile(r"([^:\n]{1,100}?): ?(.*)$", re.DOTALL)
# "<Media omitted>" in every language, attached files, and what the app says of removed messages.
_PLACEHOLDER = re.compile(
    r"^(<[^<>\n]{3,60}>|null|this message was deleted\.?|you deleted this message\.?|.{1,200}\(file attached\)"
    r"|(missed|no answer|voice call|video call).{0,40})$",
    re.IGNORECASE,
)
_EDITED = re.compile(r"\s*<This message was edited>\s*$")
_ASSISTANT = "Meta AI"
_CHAT_NAME = re.compile(r"^(?:whatsapp chat (?:with|-)|whatsapp-chat mit|chat de whatsapp con)\s+", re.IGNORECASE)


def read_whatsapp(path: Path) -> Iterator[Section]:
    """The turns of an exported chat. The order of day and month follows from the whole file: from a number
    above 12, else from the order in which the dates never go back, else day first."""
    turns = _whatsapp_turns(decode_text(read_bytes(path, at_most=MAXIMUM_EXPORT_BYTES)))
    if not turns:
        raise PenchantError("it is not a WhatsApp chat: no line begins with a date")
    days = _whatsapp_days([numbers for numbers, _ in turns])
    cue = heading_path([_CHAT_NAME.sub("", path.stem.lstrip("_"))])
    cue = "" if cue == "chat" else cue  # what an iPhone calls every export
    position = 0
    for day, (_, said) in zip(days, turns, strict=True):
        spoken = _SPOKEN.match(said)
        if spoken and not spoken[2].startswith("\u200e"):  # the mark begins what the app wrote itself
            text = _EDITED.sub("", spoken[2]).strip()
            speaker = clean_line(spoken[1]).removeprefix("~ ") or UNKNOWN_SPEAKER
            if says_something(text) and not _PLACEHOLDER.match(text) and speaker != _ASSISTANT:
                yield Section(text, day, speaker, cue, "chat", position=position)
                position += 1


def read_telegram(path: Path) -> Iterator[Section]:
    """The turns of one chat or of all chats. A full export says who its owner is; what was forwarded is its
    first writer's; bots say nothing."""
    export = read_json(path)
    owner = f"user{_mapping(export.get('personal_information')).get('user_id', '')}"
    chats = _listed(_mapping(export.get("chats")).get("list")) or [export]
    for chat in chats:
        name = clean_line(str(chat.get("name") or ""))
        part = part_name(chat.get("id", "")) if chat is not export else ""
        bot = f"user{chat.get('id', '')}" if chat.get("type") == "bot_chat" else None
        for position, message in enumerate(_listed(chat.get("messages"))):
            text = _telegram_text(message.get("text"))
            sender = message.get("from_id")
            left_out = message.get("type") != "message" or message.get("via_bot") or (bot and sender == bot)
            if left_out or not says_something(text):
                continue
            forwarded = message.get("forwarded_from")
            written_by = clean_line(str(forwarded or message.get("from") or "")) or UNKNOWN_SPEAKER
            speaker = "" if sender == owner and "forwarded_from" not in message else written_by
            day = iso_day(message.get("date", "")) or file_day(path)
            yield Section(text, day, speaker, heading_path([name]), "chat", part=part, position=position)


def read_chatgpt(path: Path) -> Iterator[Section]:
    """What the owner wrote to the assistant, in the branch of each conversation that was kept. The titles are
    the assistant's and stay out too."""
    for conversation in _listed(read_json(path, list)):
        part = part_name(
            conversation.get("conversation_id") or conversation.get("id") or conversation.get("create_time")
        )
        started = iso_day(conversation.get("create_time")) or file_day(path)
        for position, message in enumerate(_kept_branch(conversation)):
            if _mapping(message.get("author")).get("role") != "user":
                continue
            content = _mapping(message.get("content"))
            parts = content.get("parts") if content.get("content_type") in ("text", "multimodal_text") else None
            text = "\n".join(part for part in parts if isinstance(part, str)) if isinstance(parts, list) else ""
            hidden = _mapping(message.get("metadata")).get("is_visually_hidden_from_conversation")
            if not hidden and says_something(text):
                day = iso_day(message.get("create_time")) or started
                yield Section(text, day, source="chat", part=part, position=position)


def read_json(path: Path, expected: type = dict) -> Any:
    """The JSON value of a file; PenchantError if it is not an `expected` one."""
    try:
        value = json.loads(decode_text(read_bytes(path, at_most=MAXIMUM_EXPORT_BYTES)))
    except (ValueError, RecursionError):
        raise PenchantError("it is not valid JSON") from None
    if not isinstance(value, expected):
        raise PenchantError("its JSON is not that of a chat export")
    return value


def says_something(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(character.isalnum() for character in text)


def _whatsapp_turns(text: str) -> list[tuple[tuple[str, str, str, str], str]]:
    """((three numbers of the date as written, "A" or "P" or ""), what follows) of every turn."""
    turns: list[tuple[tuple[str, str, str, str], list[str]]] = []
    for line in text.split("\n"):
        match = WHATSAPP_LINE.match(line)
        if match:
            turns.append(((match[1], match[3], match[4], match[5] or ""), [match[6]]))
        elif turns:
            turns[-1][1].append(line)
    return [(numbers, "\n".join(lines)) for numbers, lines in turns]


def _whatsapp_days(numbers: list[tuple[str, str, str, str]]) -> list[str]:
    orders = {"year": (0, 1, 2)} if len(numbers[0][0]) == 4 else {"day": (2, 1, 0), "month": (2, 0, 1)}
    if all(written[3] in ("A", "P") for written in numbers):  # capital AM and PM: the American way, if both fit
        orders = dict(reversed(orders.items()))
    readings = [found for order in orders.values() if (found := _ordered_days(numbers, order))]
    if not readings:
        raise PenchantError("the dates of the chat cannot be read")
    return next((days for days in readings if days == sorted(days)), readings[0])


def _ordered_days(numbers: list[tuple[str, str, str, str]], order: tuple[int, int, int]) -> list[str] | None:
    """ISO days if the numbers stand for (year, month, day) in this order; None if one is no date."""
    try:
        dates = [[int(written[place]) for place in order] for written in numbers]
        return [date(year if year > 99 else 2000 + year, month, day).isoformat() for year, month, day in dates]
    except ValueError:
        return None


def _telegram_text(text: Any) -> str:
    """A text, or a list of texts and of objects that hold one."""
    parts = text if isinstance(text, list) else [text]
    return "".join(str(_mapping(part).get("text", "")) if isinstance(part, dict) else str(part or "") for part in parts)


def _kept_branch(conversation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages from the first to `current_node`; all by time where the export has no such node."""
    nodes = _mapping(conversation.get("mapping"))
    node, branch, seen = conversation.get("current_node"), [], set()
    if node not in nodes:
        messages = [_mapping(_mapping(entry).get("message")) for entry in nodes.values()]
        return sorted(messages, key=lambda message: float(message.get("create_time") or 0))
    while isinstance(node, str) and node in nodes and node not in seen:
        seen.add(node)
        branch.append(_mapping(_mapping(nodes[node]).get("message")))
        node = _mapping(nodes[node]).get("parent")
    return branch[::-1]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _listed(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
