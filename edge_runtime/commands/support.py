"""What every command shares: options, one-line errors, opening the device, printing for people or for
programs."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from edge_runtime.device import Device, default_home
from edge_runtime.memory.statements import MemoryItem, Recalled
from edge_runtime.store.keys import KeyFileWarning, key_exists, needs_passphrase
from protocol.errors import PenchantError

Home = Annotated[
    Path | None,
    typer.Option(
        "--home", envvar="PENCHANT_HOME", help="Folder of this device.", show_default="the user's data folder"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

BAD_INPUT, INTERRUPTED = 2, 130

_P = ParamSpec("_P")
_R = TypeVar("_R")
# Escape sequences in a memory or an answer must not drive the terminal; tabs and line ends may stay.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def one_line_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turns PenchantError into one line on stderr and exit code 2, and Ctrl-C into exit code 130."""

    @functools.wraps(command)
    def wrapped(*arguments: _P.args, **options: _P.kwargs) -> _R:
        try:
            return command(*arguments, **options)
        except PenchantError as error:
            typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            typer.echo("Stopped. Everything that was acknowledged is stored.", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return wrapped


def need(*modules: str) -> None:
    """Raise PenchantError with the way out if a library of the extra installation is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise PenchantError(f"this needs {', '.join(missing)}: install it with pip install 'penchant[all]'")


@contextmanager
def opened_device(home: Path | None, *, create: bool) -> Iterator[Device]:
    """The device in `home` (default: `default_home()`); asks for its passphrase if it has one and none is in
    PENCHANT_PASSPHRASE."""
    place = home or default_home()
    passphrase = os.environ.get("PENCHANT_PASSPHRASE") or None
    if passphrase is None and needs_passphrase(place) and sys.stdin.isatty():
        passphrase = str(typer.prompt("Passphrase", hide_input=True, err=True))
    is_new = create and not key_exists(place)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", KeyFileWarning)
        device = Device.open(place, passphrase=passphrase, create=create)
    with device:
        if is_new:
            typer.echo(f"New device in {place}.", err=True)
        for warning in caught:
            if issubclass(warning.category, KeyFileWarning):
                typer.echo(
                    f"Note: {warning.message} Set PENCHANT_PASSPHRASE at first use for better protection.",
                    err=True,
                )
        yield device


def printable(text: str) -> str:
    """`text` without control characters."""
    return _CONTROLS.sub("", text)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "") -> None:
    """A table whose cells are shown as they are (no markup is read from them)."""
    from rich.text import Text

    table = Table(title=title, caption=caption or None, title_justify="left", caption_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    Console(markup=False, highlight=False).print(table)


def item_json(item: MemoryItem) -> dict[str, Any]:
    return asdict(item)


def recalled_json(recalled: Recalled) -> dict[str, Any]:
    """A found memory, flat: the fields of the item and how it was found."""
    found = {"score": round(recalled.score, 6), "ranks": recalled.ranks, "similarity": recalled.similarity}
    return item_json(recalled.item) | found


def source_line(recalled: Recalled) -> str:
    """One line that names a source under an answer."""
    text = " ".join(recalled.item.text.split())
    return printable(f"[{recalled.item.id}] {recalled.item.said_at}  {text if len(text) <= 90 else text[:87] + '...'}")
