"""The chat: read a line, remember or answer, show where the answer came from.

What is said lives in RAM and ends with the chat; only "remember that ..." is stored, before it is
acknowledged. So there is nothing to lose when the chat ends in any way, and nothing that the model said can
become a memory.
"""

from __future__ import annotations

import sys

import typer

from edge_runtime.answering.answering import Conversation, statement_to_remember, stream_answer
from edge_runtime.commands.support import item_json, print_json, printable, recalled_json, source_line
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import Memory
from protocol.errors import PenchantError

_HELP = (
    "remember that ...   store it        /memories   what is stored\n"
    "/new   start over                   /quit   leave (so do Ctrl-D, and Ctrl-C at the prompt)"
)


def run_chat(engine: Engine, memory: Memory, *, k: int, max_tokens: int, as_json: bool) -> None:
    """Reads lines from standard input until /quit or its end; with `as_json`, one JSON object per line of
    input."""
    conversation = Conversation()
    if not as_json:
        typer.secho(f"{engine.model.name}, {len(memory)} memories. /help for what you can type.", dim=True)
    try:
        while True:
            line = _read_line(prompt="" if as_json else "you> ")
            if line is None or line.strip() in ("/quit", "/exit"):
                return
            line = line.strip()
            if not line:
                continue
            try:
                conversation = _one_turn(
                    engine, memory, conversation, line, k=k, max_tokens=max_tokens, as_json=as_json
                )
            except PenchantError as error:  # one bad line does not end the talk
                typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
    except KeyboardInterrupt:  # at the prompt or between two lines: what was acknowledged is on disk
        typer.echo("", err=True)


def _one_turn(
    engine: Engine,
    memory: Memory,
    conversation: Conversation,
    line: str,
    *,
    k: int,
    max_tokens: int,
    as_json: bool,
) -> Conversation:
    if line == "/new":
        return Conversation()
    if line == "/memories":
        for item in memory.items():
            if as_json:
                print_json(item_json(item))
            else:
                typer.echo(f"[{item.id}] {item.said_at}  {printable(item.text)}")
        return conversation
    if line.startswith("/"):
        typer.echo(_HELP, err=as_json)
        return conversation
    statement = statement_to_remember(line)
    if statement:
        item = memory.remember(statement)
        if as_json:
            print_json({"remembered": item_json(item)})
        else:
            typer.echo(f"Remembered as {item.id}.")
        return conversation
    stream = stream_answer(engine, memory, line, k=k, max_tokens=max_tokens, conversation=conversation)
    pieces: list[str] = []
    stopped = False
    try:
        for piece in stream.pieces:
            pieces.append(piece)
            if not as_json:
                typer.echo(printable(piece), nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:  # stops this answer, not the chat
        stopped = True
    answer = "".join(pieces).rstrip()
    if as_json:
        print_json(
            {
                "answer": answer,
                "stopped": stopped,
                "sources": [recalled_json(source) for source in stream.sources],
            }
        )
    else:
        typer.echo(" ..." if stopped else "")
        for source in reversed(stream.sources):
            typer.secho(f"  from {source_line(source)}", dim=True)
    conversation.add(line, answer)
    return conversation


def _read_line(prompt: str) -> str | None:
    """The next line; None at the end of input."""
    try:
        return input(prompt)
    except EOFError:
        return None
