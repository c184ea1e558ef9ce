"""`penchant export`, `import`, `passphrase`, `rotate`: a device as one file, and what protects it.

A server that is running is locked through itself (its page, or `POST /api/lock`); every other command opens the device
for the moment it takes, so there is nothing to lock.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.commands.support import AsJson, Home, one_line_errors, opened_device, print_json
from edge_runtime.store.bundle import open_bundle
from edge_runtime.store.keys import KeyFileWarning
from edge_runtime.transfer import export_bundle, import_bundle
from protocol.errors import PenchantError

_BUNDLE_VARIABLE = "PENCHANT_BUNDLE_PASSPHRASE"
_NEW_VARIABLE = "PENCHANT_NEW_PASSPHRASE"
_HOW = {
    "whole": "This device now holds what the bundle holds: {added}.",
    "merged": "Added what was new: {added}.",
    "nothing": "This bundle was imported before; nothing changed.",
}


@one_line_errors
def export_command(
    file: Annotated[Path, typer.Argument(help="The bundle to write; must not exist yet.")],
    move: Annotated[
        bool, typer.Option("--move", help="The other device takes this one's place; this one stops contributing.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write everything of this device into one encrypted, signed file."""
    with opened_device(home, create=False) as device:
        passphrase = _asked(_BUNDLE_VARIABLE, "Passphrase for the bundle", confirm=True)
        export_bundle(device, file, passphrase, move=move)
    size = file.stat().st_size
    if as_json:
        print_json({"bundle": str(file), "bytes": size, "moved": move})
    else:
        typer.echo(f"Wrote {file} ({size / 1e6:.1f} MB)." + (" This device contributes no more." if move else ""))


@one_line_errors
def import_command(
    file: Annotated[Path, typer.Argument(help="A bundle written by `penchant export`.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Take over what a bundle holds: all of it on a new device, what is new on one in use; all or nothing."""
    bundle = open_bundle(file, _asked(_BUNDLE_VARIABLE, "Passphrase of the bundle", confirm=False))
    with opened_device(home, create=True) as device:
        done = import_bundle(device, bundle)
    if as_json:
        print_json({"how": done.how, "added": done.added, "may_contribute": done.may_contribute})
        return
    typer.echo(_HOW[done.how].format(added=", ".join(f"{count} {name}" for name, count in done.added.items())))
    if not done.may_contribute:
        typer.echo("Contributing is off here: the device that the bundle came from keeps that right.")


@one_line_errors
def passphrase_command(
    remove: Annotated[
        bool, typer.Option("--remove", help="Keep the key in the system's key store, else in a file.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Set, change or remove the passphrase of this device."""
    with opened_device(home, create=False) as device:
        if remove:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", KeyFileWarning)
                device.protect("auto")
            if caught:
                typer.echo(f"Note: {caught[0].message}", err=True)
        else:
            device.protect("passphrase", _asked(_NEW_VARIABLE, "New passphrase", confirm=True))
        protected = device.has_passphrase
    if as_json:
        print_json({"has_passphrase": protected})
    else:
        typer.echo("The passphrase is set." if protected else "The passphrase is removed.")
        typer.echo("If somebody may know what protected it before, run `penchant rotate` too.")


@one_line_errors
def rotate_command(home: Home = None, as_json: AsJson = False) -> None:
    """Encrypt everything under a fresh key; whoever has an old key and an old copy can read nothing written since."""
    with opened_device(home, create=False) as device:
        rotated = device.rotate_key()
    if as_json:
        print_json({"rotated": rotated})
    elif rotated:
        typer.echo("Everything is encrypted under a fresh key; the old one is destroyed.")
    else:
        typer.echo("Not now: another program has this device open, or the disk is full. The next start alone does it.")


def _asked(variable: str, prompt: str, *, confirm: bool) -> str:
    """A passphrase from the environment, else from the terminal."""
    passphrase = os.environ.get(variable)
    if not passphrase and sys.stdin.isatty():
        passphrase = str(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))
    if not passphrase:
        raise PenchantError(f"A passphrase is needed: type it at a terminal or set {variable}.")
    return passphrase
