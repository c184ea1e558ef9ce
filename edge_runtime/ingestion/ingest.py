"""Bringing files and folders into memory, with progress, resumable after a kill at any moment.

Per file: digest, reader, passages, then batches; a batch's memories and the document's progress are one transaction,
so a killed import goes on where it stopped, and a second one of the same files stores nothing. A changed file keeps the
memories of the passages that it still holds; the others go through the forgetting cascade, once for the whole import.

Nothing that a model said is stored: readers leave out the turns of assistants. Words of other people keep their name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parseaddr
from pathlib import Path
from typing import Final

from edge_runtime.device import Device
from edge_runtime.forgetting import Receipt, forget
from edge_runtime.ingestion.chunking import passages
from edge_runtime.ingestion.detection import Reader, detect_reader
from edge_runtime.ingestion.documents import Document, Documents, Place, document_id, new_document
from edge_runtime.ingestion.folders import find_files
from edge_runtime.ingestion.mail import maildir_files
from edge_runtime.ingestion.sections import Section
from edge_runtime.memory.statements import Statement, content_digest
from protocol.errors import PenchantError

# The embedder's batch: other programs that write wait for one batch at most.
_BATCH: Final = 32

Progress = Callable[[str, int, int], None]


@dataclass
class IngestReport:
    """`documents` read to the end, `unchanged` ones left alone, `chunks` newly stored passages, `duplicates` passages
    that were remembered before, `forgotten` passages of older versions; `skipped`: (path, reason)."""

    documents: int = 0
    unchanged: int = 0
    chunks: int = 0
    duplicates: int = 0
    forgotten: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def ingest(
    device: Device,
    paths: Iterable[Path],
    *,
    owner_names: Iterable[str] = (),
    on_progress: Progress = lambda stage, done, total: None,
) -> IngestReport:
    """Reads all files below `paths` into memory. A file that cannot be read is skipped with its reason.

    `owner_names`: names and addresses by which the owner goes in mail and chats; the device keeps them, and what
    was read before under another view of who the owner is is read anew. `on_progress(stage, done, total)` is
    called with stage "documents", and "passages" for those of the present document.
    """
    documents, report = device.documents, IngestReport()
    owners = documents.owner_names(owner_names)
    found = find_files(paths)
    report.skipped += [(str(path), reason) for path, reason in found.skipped]
    for number, path in enumerate(found.paths):
        on_progress("documents", number, len(found.paths))
        try:
            begun = _prepare(device, documents, path, owners)
        except PenchantError as error:
            report.skipped.append((str(path), str(error)))
            continue
        if begun is None:
            report.unchanged += 1
            continue
        _store(device, documents, *begun, report, on_progress)
        report.documents += 1
    on_progress("documents", len(found.paths), len(found.paths))
    report.forgotten = len(_forget_stale(device, documents))
    return report


def forget_document(device: Device, beginning: str) -> list[Receipt]:
    """Forgets the document whose id begins so, with every memory that came from it and stands in no other document;
    PenchantError if there is none."""
    documents = device.documents
    documents.remove(documents.document(beginning).id)
    return _forget_stale(device, documents)


def _prepare(
    device: Device, documents: Documents, path: Path, owners: tuple[str, ...]
) -> tuple[Document, list[Section]] | None:
    """The document at `path` with all its passages, or None if nothing is to be done. PenchantError if it cannot be
    read."""
    try:
        reader = detect_reader(path)
        digest = _digest(path)
        known = documents.at_path(path) or documents.with_digest(digest)
        same = known if known and known.digest == digest else None
        if same and same.completed and same.owners == owners:
            return None
        sections, owned = _read(reader, path, owners)
        present = new_document(path, reader.kind, digest, owned=owned, owners=owners)
    except PenchantError:
        raise
    except OSError as error:
        raise PenchantError(f"it cannot be read ({error.strerror or type(error).__name__})") from None
    except (Exception, RecursionError) as error:  # what the libraries for formats let through
        raise PenchantError(f"it is damaged ({type(error).__name__})") from None
    if not sections:
        raise PenchantError("it holds no text")
    if known and known.owned != tuple(owned):
        # who said what has changed: a memory keeps its speaker, so these are made anew
        forget_document(device, known.id)
    elif same:
        documents.set_owners(same.id, owners)
        return None if same.completed else (same, sections)
    return documents.begin(present), sections


def _read(reader: Reader, path: Path, owners: tuple[str, ...]) -> tuple[list[Section], list[str]]:
    """The passages of a file with "" as the owner's speaker, and the speakers that were the owner."""
    owned: set[str] = set()
    sections = []
    for section in passages(reader.read(path)):
        name, address = parseaddr(section.speaker) if "<" in section.speaker else (section.speaker, "")
        if {name.casefold(), address.casefold()} & set(owners):
            owned.add(section.speaker)
            name = address = ""
        sections.append(replace(section, speaker=name or address))
    return sections, sorted(owned)


def _store(
    device: Device,
    documents: Documents,
    document: Document,
    sections: Sequence[Section],
    report: IngestReport,
    on_progress: Progress,
) -> None:
    memory = device.memory
    places = _places(document, sections)
    for start in range(document.chunks, len(sections), _BATCH):
        on_progress("passages", start, len(sections))
        batch = slice(start, start + _BATCH)
        with device.vault.transaction():
            held = {place: found for place in places[batch] if (found := documents.held(place)) is not None}
            new: dict[bytes, Statement] = {}
            for place, section in zip(places[batch], sections[batch], strict=True):
                if place not in held:
                    new.setdefault(place.key, _statement(place, section))
            before = len(memory)
            items = memory.remember_many(new.values())
            fresh = len(memory) - before
            ids = {key: item.id for key, item in zip(new, items, strict=True)}
            named = [(place, held[place] if place in held else ids[place.key]) for place in places[batch]]
            documents.add_chunks(document.id, named)
        report.chunks += fresh
        report.duplicates += len(places[batch]) - fresh
    documents.complete(document.id)
    on_progress("passages", len(sections), len(sections))


def _forget_stale(device: Device, documents: Documents) -> list[Receipt]:
    """Puts what no document holds any more through the forgetting cascade. What another document holds becomes a memory
    of that one first; what the owner had said before any document did stays."""
    stale, gone = documents.stale_memories(), []
    for memory_id, place in stale.items():
        item = device.memory.item(memory_id)
        home = document_id(item.document)
        if place is not None and home and home != document_id(place.part):
            moved = Statement(item.text, item.cue, item.said_at, item.source, item.kind, item.speaker)
            with device.vault.transaction():
                (copy,) = device.memory.remember_many([replace(moved, document=place.part, position=place.position)])
                documents.move(memory_id, copy.id)
            place = None
        if place is None and home:
            gone.append(memory_id)
    receipts = forget(device, gone)
    documents.drop_stale(stale)
    return receipts


def _places(document: Document, sections: Sequence[Section]) -> list[Place]:
    """Where each passage stands, and the key by which it is known again: text, cue and speaker; in mail and chats
    the day too, and in chats, where people do say the same again, how often it was said before on it."""
    places, said = [], Counter[bytes]()
    for section in sections:
        key = content_digest(section.text, section.cue, section.speaker)
        if section.source != "file":
            key = content_digest(key.hex(), section.said_at)
        if section.source == "chat":
            said[key] += 1
            key = content_digest(key.hex(), str(said[key]))
        part = f"{document.id}/{section.part}" if section.part else document.id
        places.append(Place(part, section.position, key))
    return places


def _statement(place: Place, section: Section) -> Statement:
    return Statement(
        section.text,
        section.cue,
        section.said_at,
        section.source,
        kind=section.kind,
        speaker=section.speaker,
        document=place.part,
        position=place.position,
    )


def _digest(path: Path) -> str:
    """SHA-256 of the content; of a Maildir folder, whose messages never change, of their names."""
    if path.is_dir():
        names = [file.name.partition(":2,")[0] for file in maildir_files(path)]
        return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
