"""Bringing in files (`penchant remember --from`) and what was brought in (`penchant documents`)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_runtime.commands.support import (
    BAD_INPUT,
    AsJson,
    Home,
    one_line_errors,
    opened_device,
    print_json,
    print_table,
)
from edge_runtime.ingestion import ingest as ingestion
from edge_runtime.ingestion.ingest import IngestReport

From = Annotated[
    list[Path] | None,
    typer.Option("--from", help="A file or folder to read: text, Markdown, PDF, web pages, mail, chats. Repeatable."),
]
Me = Annotated[
    list[str] | None,
    typer.Option("--me", help="Your name or address in mail and chats; the device keeps it. Repeatable."),
]

_LINE_EVERY = 500  # passages between two lines of progress where there is no terminal
_SHOWN_PER_REASON = 3


def remember_files(paths: Sequence[Path], names: Sequence[str], home: Path | None, as_json: bool) -> None:
    """Read files and folders into memory and show what became of each; fails only if nothing could be read."""
    with opened_device(home, create=True) as device, _progress() as on_progress:
        report = ingestion.ingest(device, paths, owner_names=names, on_progress=on_progress)
    if as_json:
        print_json(asdict(report))
    else:
        _print_report(report)
    if not report.documents and not report.unchanged:
        raise typer.Exit(BAD_INPUT)


@one_line_errors
def documents(
    forget: Annotated[str | None, typer.Option(help="Forget this document and all that came from it.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """The files that were read into memory."""
    with opened_device(home, create=False) as device:
        receipts = ingestion.forget_document(device, forget) if forget is not None else []
        listing = device.documents.listing()
    if as_json:
        shown = [asdict(document) for document in listing]
        print_json({"documents": shown, "receipts": [receipt.to_dict() for receipt in receipts]})
    elif forget is not None:
        typer.echo(
            f"Forgot the document {forget} and {_counted(len(receipts), 'memory', 'memories')} that came from it."
        )
    elif not listing:
        typer.echo("No document has been read yet; penchant remember --from FILE reads one.")
    else:
        rows = [
            (
                document.id[:8],
                document.path,
                document.kind,
                document.chunks,
                document.added_at[:10],
                "complete" if document.completed else "interrupted: read it again",
            )
            for document in listing
        ]
        print_table(
            "Documents",
            ("id", "file", "kind", "passages", "added", "state"),
            rows,
            caption="penchant documents --forget ID removes one with all that came from it.",
        )


@contextmanager
def _progress() -> Iterator[ingestion.Progress]:
    """Two bars on a terminal, else a line now and then; both on stderr."""
    if not sys.stderr.isatty():
        yield _print_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {stage: bars.add_task(stage, total=None) for stage in ("documents", "passages")}
        yield lambda stage, done, total: bars.update(tasks[stage], completed=done, total=total)


def _print_line(stage: str, done: int, total: int) -> None:
    if stage == "passages" and 0 < done < total and done // _LINE_EVERY > (done - 32) // _LINE_EVERY:
        typer.echo(f"  {done} of {total} passages", err=True)


def _print_report(report: IngestReport) -> None:
    typer.echo(
        f"Read {_counted(report.documents, 'document', 'documents')}: "
        f"{_counted(report.chunks, 'new passage', 'new passages')}, {report.duplicates} known before."
    )
    if report.unchanged:
        typer.echo(f"{_counted(report.unchanged, 'document was', 'documents were')} read before and not changed since.")
    if report.forgotten:
        typer.echo(f"Forgot {_counted(report.forgotten, 'passage', 'passages')} that changed files hold no longer.")
    if report.skipped:
        shown: Counter[str] = Counter()
        rows: list[tuple[str, str]] = []
        for path, reason in report.skipped:
            shown[reason] += 1
            if shown[reason] <= _SHOWN_PER_REASON:
                rows.append((path, reason))
        rows += [(f"{n - _SHOWN_PER_REASON} more", why) for why, n in shown.items() if n > _SHOWN_PER_REASON]
        rows.sort(key=lambda row: row[1])
        print_table("Not read", ("file", "why"), rows)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
