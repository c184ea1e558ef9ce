"""`penchant feedback`: thumbs, edits and choices, and what was said so far."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.adapters.versions import watch
from edge_runtime.commands.support import AsJson, Home, one_line_errors, opened_device, print_json, print_table
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.answering.conversations import Turn
    from edge_runtime.device import Device

TurnId = Annotated[
    int | None, typer.Option("--turn", help="The answer's turn; the last answer of any chat if left out.")
]


@one_line_errors
def up(
    note: Annotated[str, typer.Argument(help="What is good about it.")] = "",
    turn: TurnId = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Rate an answer as good."""
    _rate(True, note, turn, home, as_json)


@one_line_errors
def down(
    note: Annotated[str, typer.Argument(help="What is wrong with it.")] = "",
    turn: TurnId = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Rate an answer as bad."""
    _rate(False, note, turn, home, as_json)


@one_line_errors
def edit(
    better: Annotated[str, typer.Argument(help="The answer as you would have it.")],
    turn: TurnId = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say an answer in your own words."""
    with opened_device(home, create=False) as device:
        answer, question = _turn(device, turn)
        preference = device.feedback.edit(answer, question, better)
        _watch_adapter(device)
        if as_json:
            print_json({"preference": asdict(preference), "turn": answer.id})
        else:
            typer.echo(f"Noted as preference {preference.id}: yours rather than turn {answer.id}.")


@one_line_errors
def choose(
    prompt: Annotated[str, typer.Argument(help="What was asked.")],
    chosen: Annotated[str, typer.Argument(help="The better answer.")],
    rejected: Annotated[str, typer.Argument(help="The other answer.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Prefer one answer to another."""
    with opened_device(home, create=True) as device:
        preference = device.feedback.add_preference(prompt, chosen, rejected)
    if as_json:
        print_json({"preference": asdict(preference)})
    else:
        typer.echo(f"Noted as preference {preference.id}.")


@one_line_errors
def remove(
    preference: Annotated[int | None, typer.Option(help="Id of a preference to take back.")] = None,
    turn: Annotated[int | None, typer.Option(help="Turn whose thumb to take back.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Take feedback back."""
    if (preference is None) == (turn is None):
        raise PenchantError("Say what to take back: either --preference or --turn.")
    with opened_device(home, create=False) as device:
        device.feedback.remove(preference=preference, turn=turn)
    if as_json:
        print_json({"removed": {"preference": preference, "turn": turn}})
    else:
        typer.echo("Taken back.")


@one_line_errors
def list_feedback(home: Home = None, as_json: AsJson = False) -> None:
    """List all feedback; preferences are what training can use."""
    with opened_device(home, create=False) as device:
        preferences, ratings = device.feedback.preferences(), device.feedback.ratings()
    if as_json:
        rows = {"preferences": [asdict(one) for one in preferences], "ratings": [asdict(one) for one in ratings]}
        print_json(rows)
        return
    if not preferences and not ratings:
        typer.echo("No feedback yet; `penchant feedback up` rates the last answer of a chat.")
    if preferences:
        shown = [(one.id, one.said_at, one.prompt, one.chosen, one.rejected) for one in preferences]
        print_table("Preferences", ("id", "date", "asked", "chosen", "rejected"), shown)
    if ratings:
        thumbs = [(one.turn, "up" if one.up else "down", one.prompt, one.answer, one.note) for one in ratings]
        print_table("Ratings", ("turn", "thumb", "asked", "answer", "note"), thumbs)


def _rate(good: bool, note: str, turn: int | None, home: Home, as_json: bool) -> None:
    with opened_device(home, create=False) as device:
        answer, question = _turn(device, turn)
        before = {one.id for one in device.feedback.preferences()}
        rating = device.feedback.thumbs(answer, question, good, note)
        pairs = [one for one in device.feedback.preferences() if one.id not in before]
        _watch_adapter(device)
    if as_json:
        print_json({"rating": asdict(rating), "preferences": [asdict(one) for one in pairs]})
    else:
        typer.echo(f"Turn {rating.turn} is rated {'up' if good else 'down'}.")


def _watch_adapter(device: Device) -> None:
    """Take the live adapter back if its answers are liked less than those before it, and say so."""
    if taken_back := watch(device.vault, device.conversations, device.feedback):
        typer.echo(f"Adapter {taken_back.version} was {taken_back.reason}.", err=True)


def _turn(device: Device, turn: int | None) -> tuple[Turn, str]:
    """The answer meant and its question."""
    answer = device.conversations.last_answer() if turn is None else device.conversations.turn(turn)
    return answer, device.conversations.question_of(answer)
