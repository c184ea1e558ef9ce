"""`penchant profile`: see and change what the device takes its owner to be."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.commands.support import (
    AsJson,
    Home,
    one_line_errors,
    opened_device,
    print_json,
    print_table,
    printable,
)
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.profile.attributes import Attribute
    from edge_runtime.profile.rules import Rule

profile_app = typer.Typer(no_args_is_help=True, help="What this device takes you to be; see it, change it.")
rule_app = typer.Typer(no_args_is_help=True, help="Rules about how you want answers.")
profile_app.add_typer(rule_app, name="rule")

Task = Annotated[str, typer.Option(help="What the summary is for: general or drafting.")]


@profile_app.command("show", epilog="Examples: penchant profile show   |   penchant profile show --as-of 2025-06-01")
@one_line_errors
def show(
    as_of: Annotated[str | None, typer.Option(help="What held on this day, YYYY-MM-DD.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Attributes with their probability and times, rules, and the summary."""
    with opened_device(home, create=False) as device:
        profile = device.profile
        attributes, rules, summary = profile.attributes(as_of), profile.rules(), profile.summary()
    if as_json:
        print_json(
            {
                "attributes": [asdict(attribute) for attribute in attributes],
                "rules": [asdict(rule) for rule in rules],
                "summary": asdict(summary) if summary else None,
            }
        )
        return
    if not attributes and not rules:
        typer.echo("The profile is empty; penchant profile questions fills it in two minutes.")
        return
    _print_attributes(attributes)
    _print_rules(rules)
    if summary:
        typer.echo(_stale_mark(summary.stale) + printable(summary.text))


@profile_app.command("set", epilog='Example: penchant profile set lives_in "Lyon"')
@one_line_errors
def set_value(
    name: Annotated[str, typer.Argument(help="The attribute, like lives_in, likes or favourite tea.")],
    value: Annotated[str, typer.Argument(help="Its value.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Enter an attribute yourself; it stands above what was read from memories."""
    with opened_device(home, create=True) as device:
        attribute = device.profile.set_attribute(name, value)
    if as_json:
        print_json({"attribute": asdict(attribute)})
    else:
        typer.echo(printable(f"Noted as attribute {attribute.id}: {attribute.name} = {attribute.value}."))


@profile_app.command("remove", epilog="Example: penchant profile remove 7")
@one_line_errors
def remove(
    attribute_id: Annotated[int, typer.Argument(help="Id from `penchant profile show`.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Remove an attribute; it does not come back unless you set it. (The memory stays: penchant forget.)"""
    with opened_device(home, create=False) as device:
        device.profile.remove_attribute(attribute_id)
    _done(as_json, {"removed": attribute_id}, f"Removed attribute {attribute_id}.")


@rule_app.command("add", epilog='Example: penchant profile rule add "Keep answers short."')
@one_line_errors
def rule_add(
    text: Annotated[str, typer.Argument(help="The rule, in your words.")], home: Home = None, as_json: AsJson = False
) -> None:
    """Add a rule; it is active at once."""
    with opened_device(home, create=True) as device:
        rule = device.profile.add_rule(text)
    _done(as_json, {"rule": asdict(rule)}, f"Rule {rule.id} is active.")


@rule_app.command("on", epilog="Example: penchant profile rule on 3")
@one_line_errors
def rule_on(
    rule_id: Annotated[int, typer.Argument(help="Id from `penchant profile show`.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Accept a proposed rule, or switch one on again."""
    with opened_device(home, create=False) as device:
        rule = device.profile.change_rule(rule_id, active=True)
    _done(as_json, {"rule": asdict(rule)}, f"Rule {rule_id} is active.")


@rule_app.command("off", epilog="Example: penchant profile rule off 3")
@one_line_errors
def rule_off(
    rule_id: Annotated[int, typer.Argument(help="Id from `penchant profile show`.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Switch a rule off without removing it."""
    with opened_device(home, create=False) as device:
        rule = device.profile.change_rule(rule_id, active=False)
    _done(as_json, {"rule": asdict(rule)}, f"Rule {rule_id} is off.")


@rule_app.command("remove", epilog="Example: penchant profile rule remove 3")
@one_line_errors
def rule_remove(
    rule_id: Annotated[int, typer.Argument(help="Id from `penchant profile show`.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Remove a rule; a proposed one is not proposed again."""
    with opened_device(home, create=False) as device:
        device.profile.remove_rule(rule_id)
    _done(as_json, {"removed": rule_id}, f"Removed rule {rule_id}.")


@profile_app.command("questions", epilog="Examples: penchant profile questions   |   penchant profile questions --json")
@one_line_errors
def questions(home: Home = None, as_json: AsJson = False) -> None:
    """Answer a few questions about yourself, one by one; an empty answer leaves one out."""
    with opened_device(home, create=True) as device:
        profile = device.profile
        still_open = profile.questions()
        if as_json or not _at_terminal():
            listed = {"questions": [asdict(question) for question in still_open]}
            _done(as_json, listed, "\n".join(question.text for question in still_open) or "All questions are answered.")
            return
        answered = 0
        for question in still_open:
            text = str(typer.prompt(question.text, default="", show_default=False)).strip()
            if text:
                profile.answer_question(question.id, text, device.memory)
                answered += 1
    typer.echo(f"Noted {answered} answers. penchant profile show shows them.")


@profile_app.command(
    "summary",
    epilog='Examples: penchant profile summary --write   |   penchant profile summary --edit "I am a nurse in Lyon."',
)
@one_line_errors
def summary(
    write: Annotated[bool, typer.Option("--write", help="Write it again, with the bundled model.")] = False,
    edit: Annotated[str | None, typer.Option(help="Your own text instead; no model overwrites it.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it, your own text too.")] = False,
    task: Task = "general",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show the summary of your profile, have it written, or write it yourself."""
    if write + remove + (edit is not None) > 1:
        raise PenchantError("Say one of --write, --edit and --remove.")
    with opened_device(home, create=False) as device:
        profile = device.profile
        if remove:
            profile.drop_summary(task)
        elif edit is not None:
            profile.set_summary(edit, task)
        elif write:
            with _engine_for(task) as engine:
                profile.write_summary(engine, device.memory, task)
        found = profile.summary(task)
    if as_json:
        print_json({"summary": asdict(found) if found else None})
    elif found is None:
        typer.echo("There is no summary; penchant profile summary --write writes one.")
    else:
        typer.echo(_stale_mark(found.stale) + printable(found.text))


@profile_app.command("rebuild", epilog="Example: penchant profile rebuild")
@one_line_errors
def rebuild(home: Home = None, as_json: AsJson = False) -> None:
    """Read all memories and choices again; your own entries, removals and rules stand."""
    with opened_device(home, create=False) as device:
        attributes = device.profile.rebuild(device.memory)
        proposed = device.profile.propose_rules(device.feedback.preferences())
        device.entities.observe(device.memory.items())
    _done(
        as_json,
        {"attributes": attributes, "proposed_rules": proposed},
        f"{attributes} attributes; {proposed} new rules proposed (inactive until you switch them on).",
    )


@profile_app.command(epilog="Example: penchant profile interests --json")
@one_line_errors
def interests(
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=100, help="At most this many.")] = 10,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Whom and what you speak of most, recent mentions counting more; names only, no text."""
    with opened_device(home, create=False) as device:
        device.entities.observe(device.memory.items())
        found = device.entities.top(count)
    if as_json:
        print_json({"interests": [asdict(one) for one in found]})
    elif not found:
        typer.echo("Nothing is mentioned often enough yet.")
    else:
        rows = [(one.name, one.kind, one.count, one.last_seen) for one in found]
        print_table("What you speak of", ("name", "kind", "memories", "last"), rows)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _engine_for(task: str) -> Any:
    """The bundled model, or nothing where the summary is made of statistics."""
    if task != "general":
        return nullcontext(None)
    from edge_runtime.engine.engine import Engine
    from edge_runtime.models.catalogue import find_model

    return Engine.open(find_model("smollm2-135m"))


def _print_attributes(attributes: list[Attribute]) -> None:
    rows = [
        (each.id, each.name, each.value, f"{each.probability:.2f}", each.since or "?", each.until or "", each.source)
        for each in attributes
    ]
    print_table("Attributes", ("id", "name", "value", "probability", "since", "until", "from"), rows)


def _print_rules(rules: list[Rule]) -> None:
    if rules:
        rows = [(rule.id, rule.text, "active" if rule.active else "off", rule.source) for rule in rules]
        print_table("Rules", ("id", "rule", "state", "from"), rows, caption="penchant profile rule on ID accepts one.")


def _stale_mark(stale: bool) -> str:
    return "(out of date: penchant profile summary --write) " if stale else ""


def _done(as_json: bool, value: dict[str, Any], line: str) -> None:
    if as_json:
        print_json(value)
    else:
        typer.echo(printable(line))
