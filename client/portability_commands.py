"""`penchant adapters move`: the live adapter on an evolved base model."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from edge_runtime.commands.support import AsJson, Home, need, one_line_errors, opened_device, print_json
from edge_runtime.memory.statements import utc_now

if TYPE_CHECKING:
    from client.portability import Move
    from edge_runtime.adapters.log import AdapterVersion


@one_line_errors
def move(
    to: Annotated[str, typer.Option("--to", help="The new model: the path of a GGUF file, or the bundled one's name.")],
    from_: Annotated[
        str | None,
        typer.Option("--from", help="The model that the adapter is on.", show_default="PENCHANT_MODEL, else bundled"),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0, help="Nats per token that your texts may lose on the way, if a tenth of the gain is less."
        ),
    ] = 0.02,
    retrain: Annotated[
        bool, typer.Option("--retrain/--no-retrain", help="Train on for a few steps if it does not fit as it is.")
    ] = True,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Move your live adapter to a newer version of its model: as it is, retrained a little, or not at all; your newest
    texts decide, which it never saw.
    """
    need("torch", "transformers", "opacus", "scipy")
    from client.portability import move_on_device
    from edge_runtime.models.catalogue import BUNDLED_NAME, find_model

    old = find_model(from_ or os.environ.get("PENCHANT_MODEL") or BUNDLED_NAME)
    new = find_model(to)
    with opened_device(home, create=False) as device, Console(stderr=True).status("Moving the adapter"):
        result, installed = move_on_device(device, old, new, created=utc_now(), tolerance=tolerance, retrain=retrain)
    if as_json:
        print_json(_fields(result, installed))
    else:
        _tell(result, installed, to)


def _fields(result: Move, installed: AdapterVersion | None) -> dict[str, Any]:
    judgements = [
        {name: value if math.isfinite(value) else None for name, value in asdict(judgement).items()}
        | {"passed": judgement.passed, "reason": judgement.reason}
        for judgement in result.judgements
    ]
    return {
        "outcome": result.outcome,
        "installed": asdict(installed) if installed else None,
        "lineage": asdict(result.lineage),
        "judgements": judgements,
        "lineage_seconds": result.lineage_seconds,
        "judging_seconds": result.judging_seconds,
        "retraining_seconds": result.retraining_seconds,
    }


def _tell(result: Move, installed: AdapterVersion | None, to: str) -> None:
    lineage, judged = result.lineage, result.judgements[-1]
    typer.echo(
        f"The new model's weights moved by {lineage.relative:.2%} of their length where the adapter acts, "
        f"{lineage.in_adapters:.1f} times what the adapter changes."
    )
    if lineage.stated is False:
        typer.echo("Its file names another parent than the model that the adapter is on.")
    typer.echo(
        f"Loss on your {judged.texts} newest texts, with what your memory adds: {judged.old_adapter:.3f} before, "
        f"{judged.new_base:.3f} on the new model alone, {judged.candidate:.3f} on it with the adapter (nats per token)."
    )
    if len(result.judgements) > 1:
        typer.echo(f"As it was: {result.judgements[0].reason}. Retrained: {judged.reason}.")
    else:
        typer.echo(f"As it was: {judged.reason}.")
    if installed:
        typer.echo(f"Live as adapter {installed.id}: penchant ask --model {to} ... Back: penchant adapters --use ID")
    else:
        typer.echo("It did not move and stays on its model. The new model without it: penchant adapters --off")
