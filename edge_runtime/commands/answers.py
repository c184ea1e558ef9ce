"""How an answer and its sources are shown, in `ask` and in the chat."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import typer

from edge_runtime.answering.pipeline import AnswerStream, Source
from edge_runtime.commands.support import printable

_LINE_CHARACTERS = 90


def print_answer(stream: AnswerStream, *, quiet: bool) -> tuple[str, bool]:
    """Reads the whole answer, printing pieces as they come unless `quiet`. Returns it and whether Ctrl-C stopped it."""
    pieces: list[str] = []
    stopped = False
    try:
        for piece in stream.pieces:
            pieces.append(piece)
            if not quiet:
                typer.echo(printable(piece), nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:  # stops this answer, not the chat
        stopped = True
        stream.pieces.close()
    if not quiet:
        typer.echo(" ..." if stopped else "")
    return "".join(pieces).rstrip(), stopped


def print_sources(stream: AnswerStream) -> None:
    """One line per source: first those that the answer rests on ("from"), then what else the model was shown."""
    for source in sorted(stream.sources, key=lambda one: one.id not in stream.audit.cited):
        word = "from" if source.id in stream.audit.cited else "shown"
        typer.secho(f"  {word} {source_line(source)}", dim=True)


def sources_json(stream: AnswerStream) -> list[dict[str, Any]]:
    """The sources with whether the answer rests on them, best first."""
    return [asdict(source) | {"cited": source.id in stream.audit.cited} for source in stream.sources]


def source_line(source: Source) -> str:
    """One line that names a source; a memory by its number."""
    text = " ".join(source.text.split())
    cut = text if len(text) <= _LINE_CHARACTERS else text[: _LINE_CHARACTERS - 3] + "..."
    return printable(f"[{source.id.removeprefix('memory:')}] {source.said_at}  {cut}")
