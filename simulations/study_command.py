"""How a study becomes a command: an unexpected error shows where it happened, and no variable that may hold a text."""

from __future__ import annotations

from collections.abc import Callable

import typer


def as_command(main: Callable[..., object]) -> None:
    """Run ``main`` as the program's one command."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
