"""`penchant adapters`: the versions of the device's own adapter; roll back, note, compare."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from edge_runtime.adapters.adapter_file import NO_GUARANTEE
from edge_runtime.adapters.log import TASKS, AdapterVersion
from edge_runtime.adapters.versions import Comparison, compare, watch
from edge_runtime.commands.support import AsJson, Home, one_line_errors, opened_device, print_json, print_table
from protocol.errors import PenchantError


@one_line_errors
def adapters(
    context: typer.Context,
    use: Annotated[int | None, typer.Option(metavar="ID", help="Make this version live again (roll back).")] = None,
    off: Annotated[bool, typer.Option("--off", help="Answer without any adapter.")] = False,
    note: Annotated[
        tuple[int, str] | None, typer.Option(metavar="ID TEXT", help="Add a line to a version's note.")
    ] = None,
    against: Annotated[
        tuple[int, int] | None,
        typer.Option(
            "--compare", metavar="ID ID", help="Compare two versions on the texts both were judged on; 0: the model."
        ),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """The versions of this device's own adapter, which one is live, and for what: drafts, answers, or both.

    A version whose answers you thumb down or edit surely more often than those of the version before it is taken back
    by itself; its note then says why.
    """
    if context.invoked_subcommand is not None:
        return
    if sum((use is not None, off, note is not None, against is not None)) > 1:
        raise PenchantError("Say either --use ID or --off, or --note or --compare: one at a time.")
    with opened_device(home, create=False) as device:
        log, compared = device.adapters, None
        taken_back = watch(device.vault, device.conversations, device.feedback)
        if use is not None or off:
            log.use(use)
        elif note is not None:
            log.annotate(*note)
        elif against is not None:
            compared = compare(device.vault, *(number or None for number in against))
        versions = log.versions()
    if taken_back:
        typer.echo(f"Adapter {taken_back.version} was {taken_back.reason}.", err=True)
    if as_json:
        print_json(
            {"adapters": [asdict(version) for version in versions]}
            | ({"compared": asdict(compared)} if compared else {})
        )
    elif compared:
        typer.echo(_comparison_text(compared))
    elif not versions:
        typer.echo("This device has no adapter yet.")
    else:
        columns = ("id", "after", "installed", "what", "epsilon", "state", "sha256")
        print_table("Adapters", columns, [_row(version) for version in versions])


def _row(version: AdapterVersion) -> tuple[object, ...]:
    return (
        version.id,
        version.parent_id or "-",
        version.installed_at,
        version.note,
        NO_GUARANTEE if version.epsilon is None else f"{version.epsilon:.2f}",
        _state(version),
        version.sha256[:12],
    )


def _state(version: AdapterVersion) -> str:
    if not version.held:
        return "forgotten"
    if not version.live:
        return "kept"
    return "live" if version.serves == TASKS else f"live for {', '.join(version.serves)}"


def _comparison_text(compared: Comparison) -> str:
    first, second = (
        "the model alone" if one is None else f"adapter {one}" for one in (compared.first, compared.second)
    )
    line = (
        f"On the {compared.texts} texts that both were judged on and neither had learnt from: {first} "
        f"{compared.first_loss:.3f}, {second} {compared.second_loss:.3f} (nats per token, lower is better). "
    )
    if compared.low is None or compared.high is None:
        return line + "Too few texts to say which is better."
    verdict = (
        f"{second} is surely better"
        if compared.low > 0
        else f"{first} is surely better"
        if compared.high < 0
        else "that may be chance"
    )
    return (
        line + f"Gain of the second {compared.gain:+.3f}, 95 % interval {compared.low:+.3f} to {compared.high:+.3f}: "
        f"{verdict}."
    )
