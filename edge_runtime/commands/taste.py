"""`penchant taste`: what answers may follow of the owner's taste, how strongly, and what it is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_runtime.commands.support import AsJson, Home, one_line_errors, opened_device, print_json
from edge_runtime.reward.taste import Taste
from protocol.errors import PenchantError
from protocol.taste_release import TasteRelease

taste_app = typer.Typer(no_args_is_help=True, help="Your taste in answers: what it is, and whether answers follow it.")


@taste_app.command(epilog="Example: penchant taste show --json")
@one_line_errors
def show(home: Home = None, as_json: AsJson = False) -> None:
    """Whether taste is on, what is installed, and which styles your choices go with."""
    with opened_device(home, create=True) as device:
        taste = Taste(device)
        settings, release, fit = taste.settings, taste.release, taste.fitted()
        choices = len(device.feedback.preferences())
    directions = release.bank.count if release else None
    explanations = [asdict(one) for one in fit.explanations] if fit else []
    if as_json:
        digest = release.bank.digest if release else None
        found: dict[str, Any] = {"installed": digest, "directions": directions, "choices": choices}
        print_json(asdict(settings) | found | {"fitted": fit is not None, "goes_with": explanations})
        return
    typer.echo(f"Taste is {'on' if settings.on else 'off'}, strength {settings.strength:g}.")
    if directions is None:
        typer.echo("No release is installed: penchant taste install FILE.")
    else:
        typer.echo(f"The fleet's bank has {directions} directions; you made {choices} choices.")
    if fit is None and release is not None:
        typer.echo("Your weights are fitted with the next answer that needs them.")
    for one in explanations:
        word = "more" if one["correlation"] > 0 else "less"
        typer.echo(f"  {word} {one['style'].replace('_', ' ')} (correlation {one['correlation']:+.2f})")
    if fit is not None and not explanations:
        typer.echo("Your choices do not say clearly which style you like.")


@taste_app.command(epilog="Example: penchant taste on")
@one_line_errors
def on(home: Home = None, as_json: AsJson = False) -> None:
    """Let answers follow your taste where it is asked for."""
    _change(home, as_json, on=True)


@taste_app.command(epilog="Example: penchant taste off")
@one_line_errors
def off(home: Home = None, as_json: AsJson = False) -> None:
    """Never let them; what was learnt is kept."""
    _change(home, as_json, on=False)


@taste_app.command(epilog="Example: penchant taste strength 1.5")
@one_line_errors
def strength(
    value: Annotated[float, typer.Argument(help="0: the fleet's shared taste; 1: yours; up to 4 exaggerates it.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """How strongly your own choices count."""
    _change(home, as_json, strength=value)


@taste_app.command(epilog="Example: penchant taste install fleet.taste")
@one_line_errors
def install(
    file: Annotated[Path, typer.Argument(help="A taste release of the fleet.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Install the fleet's bank of taste; nothing of yours leaves the device."""
    try:
        data = file.expanduser().read_bytes()
    except OSError:
        raise PenchantError(f"Cannot read {file}.") from None
    release = TasteRelease.from_bytes(data)
    with opened_device(home, create=True) as device:
        Taste(device).install(release)
    if as_json:
        print_json({"installed": release.bank.digest, "directions": release.bank.count})
    else:
        typer.echo(f"Installed a bank of {release.bank.count} directions ({release.bank.digest[:12]}).")


def _change(home: Path | None, as_json: bool, **changes: Any) -> None:
    with opened_device(home, create=True) as device:
        settings = Taste(device).change(**changes)
    if as_json:
        print_json(asdict(settings))
    else:
        typer.echo(f"Taste is {'on' if settings.on else 'off'}, strength {settings.strength:g}.")
