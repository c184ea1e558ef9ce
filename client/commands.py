"""The commands of a device that train: `penchant train`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from edge_runtime.commands.support import AsJson, Home, need, one_line_errors, opened_device, print_json
from edge_runtime.memory.statements import utc_now


@one_line_errors
def train(
    epsilon: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="Privacy of one text in the adapter (example-level epsilon).")
    ] = 8.0,
    without_privacy: Annotated[
        bool, typer.Option("--without-privacy", help="Train without noise; the adapter may repeat your words.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Train your own adapter on this device; it goes live only if it surely helps on your newest texts, which it
    never saw.
    """
    need("torch", "transformers", "opacus", "scipy")
    from client.personal_training import train_device

    with opened_device(home, create=False) as device, Console(stderr=True).status("Starting") as status:
        outcome = train_device(
            device,
            epsilon=None if without_privacy else epsilon,
            created=utc_now(),
            on_progress=lambda stage, fraction: status.update(f"{stage} {fraction:.0%}"),
        )
    if as_json:
        fields = asdict(outcome)
        fields["epsilon"] = outcome.epsilon if math.isfinite(outcome.epsilon) else None
        fields["gain_low"] = outcome.gain_low if math.isfinite(outcome.gain_low) else None
        print_json(fields)
        return
    typer.echo(
        f"Trained on {outcome.texts} texts. Loss on the {outcome.held_out} newest, which were kept out: "
        f"{outcome.loss_before:.3f} before, {outcome.loss_after:.3f} after (nats per token)."
    )
    typer.echo(f"Gain per text: {outcome.gain:.3f}, and with 90 % confidence at least {outcome.gain_low:.3f}.")
    if math.isfinite(outcome.epsilon):
        typer.echo(f"One text in the adapter: epsilon {outcome.epsilon:.2f} at delta {outcome.delta:.1g}.")
    else:
        typer.echo("Trained without privacy: this adapter may repeat your words; do not share it.")
    if outcome.installed:
        typer.echo(f"Live as adapter {outcome.installed.id}. Undo: penchant adapters --off")
    else:
        typer.echo("That is not surely a gain (it takes more than 0), so the current adapter stays.")
