"""The commands of a fleet's server: `penchant fleet plan`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from edge_runtime.commands.support import AsJson, need, one_line_errors, print_json, print_table

fleet_app = typer.Typer(no_args_is_help=True, help="A fleet's server: plan, set up, run, watch.")


class Sampling(StrEnum):
    """What may be claimed about who is in a round."""

    POISSON = "poisson"
    NONE = "none"


@fleet_app.callback()
def _fleet() -> None:
    """A group from the first command on: `penchant fleet plan`, not `penchant fleet`."""


@fleet_app.command(
    epilog="Examples: penchant fleet plan --population 1000 --cohort 50 --rounds 200 --epsilon 8   |   "
    "penchant fleet plan --population 100000 --cohort 1000 --rounds 100 --epsilon 2 --plot trade-off.png"
)
@one_line_errors
def plan(
    population: Annotated[int, typer.Option(min=3, help="People in the fleet.")],
    cohort: Annotated[int, typer.Option(min=3, help="People who start a contribution in each round.")],
    rounds: Annotated[int, typer.Option(min=1, max=5000, help="Rounds in all.")],
    epsilon: Annotated[float, typer.Option(help="Privacy of one person over all rounds.")],
    delta: Annotated[float | None, typer.Option(help="With epsilon.", show_default="population ** -1.1")] = None,
    values: Annotated[int, typer.Option(min=1, help="Numbers in one contribution.", show_default="3584")] = 3584,
    sampling: Annotated[
        Sampling,
        typer.Option(help="poisson only if every round really is a Poisson sample; devices' own times are not."),
    ] = Sampling.NONE,
    spacing: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds between two starts of one person.", show_default="population / cohort"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="One round takes this long; measure yours.")] = 300.0,
    plot: Annotated[Path | None, typer.Option(help="Draw epsilon against signal-to-noise into this PNG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a fleet can afford: noise, signal-to-noise, bytes and hours, before anybody enrols."""
    need("scipy", *(["dp_accounting"] if sampling is Sampling.POISSON else []), *(["matplotlib"] if plot else []))
    from server.fleet_plan import FleetPlan, forecast

    wanted = FleetPlan(
        population, cohort, rounds, epsilon, delta, values, sampling.value, spacing, seconds_per_round=seconds
    )
    with Console(stderr=True).status("Weighing") as status:
        result = forecast(wanted)
        if plot is not None:
            from server.fleet_plan_plot import draw

            status.update("Drawing")
            draw(wanted, plot)
    if as_json:
        print_json(_json(result))
        return
    rows = [
        ("noise multiplier of a round", *(f"{offer.noise_multiplier:.2f}" for offer in result.offers)),
        ("epsilon after all rounds", *(f"{offer.epsilon:.3f}" for offer in result.offers)),
        ("signal-to-noise", *(f"{offer.signal_to_noise:.2f}" for offer in result.offers)),
        ("people in a secure sum", *(f"{offer.secure_sum:,}" for offer in result.offers)),
        ("uploads of one person, at most", *(f"{offer.uploads:,}" for offer in result.offers)),
        ("bytes up, person and round", *(f"{offer.bytes_up:,}" for offer in result.offers)),
        ("bytes down, person and round", *(f"{offer.bytes_down:,}" for offer in result.offers)),
        ("bits per number", *(f"{offer.ring_bits}" for offer in result.offers)),
    ]
    names = [
        f"{offer.mechanism}, {offer.bands} bands" if offer.bands > 1 else offer.mechanism for offer in result.offers
    ]
    title = f"{cohort:,} of {population:,} people start in each of {rounds} rounds; {values:,} numbers"
    print_table(title, ("", *names), rows, caption=f"epsilon at delta {wanted.claimed_delta:.1e}, for one person")
    typer.echo(f"{result.hours:,.1f} hours at {seconds:g} s per round.")
    if sampling is Sampling.POISSON:
        typer.echo("Independent noise claims that each round is a Poisson sample; banded noise claims nothing.")
    else:
        typer.echo(f"No sampling is claimed; one person starts at most every {wanted.enforced_spacing} rounds.")
    best = result.recommended
    reason = "less of it in running sums" if best.mechanism == "banded" else "the simplest, and here the best"
    typer.echo(f"Recommended: {best.mechanism} noise ({reason}).")
    typer.echo("Signal-to-noise: n C / (s sqrt(d) e), one round, all n people who start agreeing at clip norm C;")
    typer.echo("s noise on each of the d summed numbers, e what correlation leaves of it in running sums.")
    if plot is not None:
        typer.echo(f"Drawn: {plot}")
    if result.advice:
        typer.echo(f"Warning: {result.advice}.", err=True)


def _json(result: Any) -> dict[str, Any]:
    fields = asdict(result)
    fields["plan"]["delta"], fields["plan"]["spacing"] = result.plan.claimed_delta, result.plan.enforced_spacing
    return {**fields, "recommended": result.recommended.mechanism, "usable": not result.advice}
