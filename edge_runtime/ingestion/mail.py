"""Mail: single messages (.eml), mailboxes (mbox) and Maildir folders; one section per message.

Of a message only what its sender wrote is kept: no quoted replies, no forwarded text, no signature, no
attachment. What was marked as spam or thrown away stays out.
"""

from __future__ import annotations

import mailbox
import re
from collections.abc import Iterable, Iterator
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, Final

from edge_runtime.ingestion.html_pages import text_of_html
from edge_runtime.ingestion.sections import Section, clean_line, file_day, heading_path, part_name, read_bytes
from protocol.errors import PenchantError

MAXIMUM_MAILBOX_BYTES: Final = 4_000_000_000
_MAXIMUM_MESSAGE_CHARACTERS: Final = 200_000
_THROWN_AWAY = frozenset(("spam", "junk", "trash", "bin", "deleted items", "deleted messages"))
_REPLY_MARK = re.compile(r"^\s*(re|fwd?|aw|wg|sv|tr|rv|antw)(\[\d+\])?\s*:\s*", re.IGNORECASE)
# Where the sender's own text ends: the lines that mail programs put above what they quote or forward.
_QUOTE_STARTS = re.compile(
    r"^\s*(-+\s*(original message|ursprüngliche nachricht|message d'origine|mensaje original|forwarded message)\s*-+"
    r"|begin forwarded message:|_{20,}|-{20,}|-- ?)\s*$",
    re.IGNORECASE,
)
_ATTRIBUTION = re.compile(
    r"^\s*((on|am|le|el|op|em|il|den)\b.{4,200}\b(wrote|schrieb|a écrit|escribió|schreef|escreveu|ha scritto|skrev)\b"
    r".{0,100}:)\s*$",
    re.IGNORECASE | re.DOTALL,
)
_OUTLOOK = re.compile(r"^\s*\*?(from|von|de)\s?:\*?\s.+\n\s*\*?(sent|date|gesendet|envoyé|enviado)\s?:", re.IGNORECASE)
_SENT_FROM = re.compile(
    r"^\s*(sent from my|get outlook for|von meinem .{2,30} gesendet|envoyé de mon)\b", re.IGNORECASE
)


def read_eml(path: Path) -> Iterator[Section]:
    """One message."""
    message = BytesParser(policy=default).parsebytes(read_bytes(path, at_most=100_000_000))
    if not any(name in message for name in ("From", "Date", "Subject", "Received")):
        raise PenchantError("it is not a mail: it has no header")
    yield from _sections([message], file_day(path))


def read_mbox(path: Path) -> Iterator[Section]:
    """All messages of a mailbox file in their order."""
    if path.stat().st_size > MAXIMUM_MAILBOX_BYTES:
        raise PenchantError("the mailbox is larger than 4 GB; split it")
    with path.open("rb") as file:
        if not file.read(5) == b"From ":
            raise PenchantError("it is not a mailbox: it does not begin with a From line")
    box = mailbox.mbox(path, factory=_parsed, create=False)  # type: ignore[arg-type]  # the stubs want its own message
    try:
        yield from _sections(box, file_day(path))
    finally:
        box.close()


def read_maildir(path: Path) -> Iterator[Section]:
    """All messages of a Maildir folder, by name (its names begin with the time of arrival)."""
    yield from _sections((_read_message(file) for file in maildir_files(path)), file_day(path))


def is_maildir(path: Path) -> bool:
    return path.is_dir() and all((path / name).is_dir() for name in ("cur", "new", "tmp"))


def maildir_files(path: Path) -> list[Path]:
    """The messages that are neither drafts nor thrown away, by name."""
    files = [file for name in ("cur", "new") for file in (path / name).iterdir() if _is_kept(file)]
    return sorted(files, key=lambda file: file.name)


def written_by_sender(body: str) -> str:
    """`body` without quoted replies, forwarded text and signature."""
    lines = body.replace("\r\n", "\n").split("\n")
    kept: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        if _QUOTE_STARTS.match(line) or _SENT_FROM.match(line) or _OUTLOOK.match("\n".join(lines[number : number + 3])):
            break
        # an attribution may be broken over two lines
        height = next((n for n in (1, 2) if _ATTRIBUTION.match("\n".join(lines[number : number + n]))), 0)
        if height:
            below = lines[number + height : number + height + 3]
            if not any(later.lstrip().startswith(">") for later in below):
                break  # the rest is quoted without marks
            number += height  # the answer may stand between or below the quoted lines
            continue
        if not line.lstrip().startswith(">"):
            kept.append(line)
        number += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _parsed(file: IO[Any]) -> EmailMessage:
    message = BytesParser(policy=default).parse(file)
    assert isinstance(message, EmailMessage)  # what the default policy makes
    return message


def _is_kept(file: Path) -> bool:
    flags = file.name.partition(":2,")[2]
    return file.is_file() and not file.is_symlink() and not file.name.startswith(".") and not set("TD") & set(flags)


def _read_message(file: Path) -> EmailMessage:
    with file.open("rb") as opened:
        return _parsed(opened)


def _sections(messages: Iterable[Any], fallback_day: str) -> Iterator[Section]:
    for message in messages:
        labels = {clean_line(label).lower() for label in _header(message, "X-Gmail-Labels").split(",")}
        if labels & _THROWN_AWAY or _header(message, "X-Spam-Flag").upper() == "YES":
            continue
        text = written_by_sender(_body(message))[:_MAXIMUM_MESSAGE_CHARACTERS]
        if text:
            day = _day(message) or fallback_day
            subject = _header(message, "Subject")
            while match := _REPLY_MARK.match(subject):
                subject = subject[match.end() :]
            identity = _header(message, "Message-ID") or (day, _sender(message), subject, text)
            yield Section(text, day, _sender(message), heading_path([subject]), "mail", part=part_name(identity))


def _header(message: EmailMessage, name: str) -> str:
    """A header as text; malformed ones as far as they can be read."""
    try:
        return clean_line(str(message.get(name, "")))
    except Exception:  # the parser of structured headers fails in many ways on malformed ones
        raw = next((value for key, value in message.raw_items() if key.lower() == name.lower()), "")
        try:
            return clean_line(str(make_header(decode_header(str(raw)))))
        except (ValueError, LookupError):
            return ""


def _sender(message: EmailMessage) -> str:
    """ "Name <address>", or what there is of it; never empty, since "" would be the owner."""
    return _header(message, "From") or "unknown sender"


def _day(message: EmailMessage) -> str | None:
    try:
        return parsedate_to_datetime(_header(message, "Date")).date().isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _body(message: EmailMessage) -> str:
    """The plain text of the message, else its HTML as text, else nothing."""
    try:
        part = message.get_body(preferencelist=("plain", "html"))
    except Exception:  # malformed structure: the first text part of any kind
        part = next((part for part in message.walk() if part.get_content_maintype() == "text"), None)
    if part is None or part.get_content_disposition() == "attachment":
        return ""
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    try:
        text = data.decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:  # an unknown character set
        text = data.decode("utf-8", "replace")
    text = text.replace("\x00", "")
    return text_of_html(text, quotes=False) if part.get_content_type() == "text/html" else text
