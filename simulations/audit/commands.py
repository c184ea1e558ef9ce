"""The `penchant audit` command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge_runtime.commands.support import AsJson, need, one_line_errors, print_json
from simulations.stage_display import StageDisplay


@one_line_errors
def audit(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished demo or experiment.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats, first round, no adapters.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the auditor's own draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Attack a finished run and print each attack beside the ceiling of what was promised."""
    need("torch", "transformers", "flwr", "matplotlib", "scipy", "opacus")
    from simulations.audit.audit import run_audit
    from simulations.audit.page import show_audit

    console = Console(stderr=as_json)
    with StageDisplay(console) as display:
        found = run_audit(
            folder, quick=quick, seed=seed, command=shlex.join(["penchant", *sys.argv[1:]]), on_stage=display
        )
    if as_json:
        print_json(found.to_json())
    else:
        show_audit(found, console, folder)
    if found.above:
        raise typer.Exit(1)
