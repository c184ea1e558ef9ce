"""The commands of one person's device: `penchant remember, recall, forget, ask, draft, chat, adapters,
ledger, model`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_runtime.commands import feedback
from edge_runtime.commands.adapter_files import export_adapter, import_adapter
from edge_runtime.commands.adapters import adapters
from edge_runtime.commands.ingest import From, Me, documents, remember_files
from edge_runtime.commands.models import ask, chat, choose, draft, model_info, model_list
from edge_runtime.commands.profile import profile_app
from edge_runtime.commands.serve import serve
from edge_runtime.commands.store import export_command, import_command, passphrase_command, rotate_command
from edge_runtime.commands.support import (
    AsJson,
    Home,
    item_json,
    one_line_errors,
    opened_device,
    print_json,
    print_table,
    recalled_json,
)
from edge_runtime.commands.taste import taste_app
from edge_runtime.forgetting import Receipt
from edge_runtime.ledger_view import LEDGER_COLUMNS, composed_epsilon, ledger_entries
from edge_runtime.memory.statements import Statement, iso_date
from protocol.errors import PenchantError

app = typer.Typer(
    no_args_is_help=True,
    help="A language model that knows you, on your own device.",
    pretty_exceptions_enable=False,
)
model_app = typer.Typer(no_args_is_help=True, help="Models that can serve on this device.")
app.add_typer(model_app, name="model")
adapters_app = typer.Typer(invoke_without_command=True)
adapters_app.callback(
    epilog="Examples: penchant adapters   |   penchant adapters --use 2   |   penchant adapters --off   |   "
    "penchant adapters --compare 1 2   |   penchant adapters --note 2 'shorter replies'"
)(adapters)
app.add_typer(adapters_app, name="adapters")
feedback_app = typer.Typer(no_args_is_help=True, help="Thumbs, edits and choices: what training can learn from.")


@app.command(
    epilog='Examples: penchant remember "My dog is called Bruno"   |   penchant remember --from ~/notes --from '
    'mail.mbox --me "Ines Duarte"   |   penchant remember --file said.txt'
)
@one_line_errors
def remember(
    text: Annotated[str | None, typer.Argument(help="What to remember.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Every line of this file is something you said (- for standard input).")
    ] = None,
    from_: From = None,
    me: Me = None,
    date: Annotated[str | None, typer.Option(help="The day it was said, YYYY-MM-DD.", show_default="today")] = None,
    cue: Annotated[str, typer.Option(help="What it answered, if anything.")] = "",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Store something you said, or read your notes, mail and chats; all is on disk, encrypted, at the end."""
    if [text is not None, file is not None, bool(from_)].count(True) != 1:
        raise PenchantError('Give either a text, --file or --from: penchant remember "My dog is called Bruno".')
    if from_:
        if date or cue:
            raise PenchantError("Files carry their own dates; --date and --cue go with a text or --file.")
        remember_files(from_, me or [], home, as_json)
        return
    lines = [text] if text is not None else _lines_of(file or "-")
    with opened_device(home, create=True) as device:
        items = device.memory.remember_many([Statement(line, cue, date) for line in lines])
    if as_json:
        print_json({"remembered": [item_json(item) for item in items]})
    elif len(items) == 1:
        typer.echo(f"Remembered as {items[0].id} ({items[0].said_at}).")
    else:
        typer.echo(f"Remembered {len({item.id for item in items})} statements.")


@app.command(epilog='Examples: penchant recall "my dog"   |   penchant recall   |   penchant recall --as-of 2025-06-01')
@one_line_errors
def recall(
    query: Annotated[str | None, typer.Argument(help="What to look for; everything if left out.")] = None,
    k: Annotated[int, typer.Option("-k", "--memories", min=1, max=1000, help="At most this many.")] = 5,
    as_of: Annotated[str | None, typer.Option(help="Only what was said by this day, YYYY-MM-DD.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Find what you said, by words, meaning and date; without a query, list it all."""
    with opened_device(home, create=False) as device:
        if query is None:
            last_day = iso_date(as_of) if as_of else "9999-12-31"
            found = [item_json(item) for item in device.memory.items() if item.said_at <= last_day]
        else:
            found = [recalled_json(recalled) for recalled in device.memory.recall(query, k=k, as_of=as_of)]
    if as_json:
        print_json({"query": query, "memories": found})
    elif not found:
        typer.echo("Nothing is remembered yet." if query is None else "Nothing relevant is remembered.")
    else:
        rows = [(row["id"], row["said_at"], row["text"], _how_found(row)) for row in found]
        print_table(
            "What you said",
            ("id", "date", "text", "found by"),
            rows,
            caption="penchant forget ID removes one.",
        )


@app.command(epilog="Examples: penchant forget 12   |   penchant forget --everything")
@one_line_errors
def forget(
    item_ids: Annotated[list[int] | None, typer.Argument(help="Ids from `penchant recall`.")] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="All memories, choices and what was learnt from them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before forgetting everything.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Remove memories, with what was learnt from them, for good; prints receipts."""
    if bool(item_ids) == everything:
        raise PenchantError("Say what to forget: penchant forget ID, or penchant forget --everything.")
    if everything and not yes:
        if not sys.stdin.isatty():
            raise PenchantError("Forgetting everything cannot be undone; add --yes to confirm.")
        typer.confirm("Forget everything on this device? This cannot be undone.", abort=True, err=True)
    from edge_runtime.forgetting import forget as forget_items
    from edge_runtime.forgetting import forget_everything

    with opened_device(home, create=False) as device:
        receipts = [forget_everything(device)] if everything else forget_items(device, item_ids or [])
    if as_json:
        print_json({"receipts": [receipt.to_dict() for receipt in receipts]})
    else:
        for receipt in receipts:
            typer.echo(_receipt_line(receipt))


@app.command(epilog="Example: penchant ledger --json")
@one_line_errors
def ledger(home: Home = None, as_json: AsJson = False) -> None:
    """Everything that ever left this device, and the privacy it cost in all."""
    with opened_device(home, create=False) as device:
        settings, entries = device.settings, ledger_entries(device.vault)
    epsilon = composed_epsilon([str(entry.pop("event")) for entry in entries], settings.delta)
    if as_json:
        # JSON has no infinity: null means that something left without noise, so nothing is guaranteed.
        stated = epsilon if math.isfinite(epsilon) else None
        print_json({"entries": entries, "epsilon": stated, "settings": asdict(settings)})
    elif not entries:
        typer.echo("Nothing has left this device.")
    else:
        allowed = f"of {settings.epsilon_budget:g} allowed"
        caption = f"In all: epsilon {epsilon:.3g} at delta {settings.delta:g}, {allowed}."
        print_table(
            "What left this device",
            LEDGER_COLUMNS,
            [[entry[column] for column in LEDGER_COLUMNS] for entry in entries],
            caption=caption,
        )


def _lines_of(file: str) -> list[str]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise PenchantError(f"Cannot read {file} as UTF-8 text.") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise PenchantError(f"There is nothing to remember in {'the input' if file == '-' else file}.")
    return lines


def _how_found(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {rank}" for name, rank in row.get("ranks", {}).items()) or "-"


def _receipt_line(receipt: Receipt) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in receipt.removed.items() if count)
    lines = [f"Forgot {receipt.what} at {receipt.forgotten_at}: removed {counts or 'nothing'}."]
    if not receipt.key_rotated:
        lines.append("The key could not be changed (another program, or a full disk); the next start alone does it.")
    if receipt.bundles_elsewhere:
        lines.append(f"{receipt.bundles_elsewhere} exported bundles may still hold it; delete them too.")
    return " ".join(lines)


_COMMANDS: tuple[tuple[typer.Typer, str, Callable[..., None], str], ...] = (
    (adapters_app, "export", export_adapter, "Example: penchant adapters export 2 my-adapter"),
    (adapters_app, "import", import_adapter, "Example: penchant adapters import my-adapter"),
    (app, "documents", documents, "Examples: penchant documents   |   penchant documents --forget 3fa2c1d0"),
    (app, "ask", ask, 'Examples: penchant ask "What is my dog called?"   |   penchant ask "Name three teas" -k 0'),
    (app, "draft", draft, "Example: penchant draft 'Tell Ines that the kiln shelf broke'"),
    (app, "choose", choose, "Example: penchant choose 'What shall we cook?' 'Walnut bread' 'Lentil soup'"),
    (app, "chat", chat, "Examples: penchant chat   |   in it: remember that I am allergic to walnuts, /new, /quit"),
    (app, "serve", serve, "Examples: penchant serve --open   |   penchant serve --port 0 --json"),
    (app, "export", export_command, "Examples: penchant export me.penchant   |   penchant export me.penchant --move"),
    (app, "import", import_command, "Example: penchant import me.penchant --home ~/penchant"),
    (app, "passphrase", passphrase_command, "Examples: penchant passphrase   |   penchant passphrase --remove"),
    (app, "rotate", rotate_command, "Example: penchant rotate"),
    (feedback_app, "up", feedback.up, "Examples: penchant feedback up   |   penchant feedback up 'short and right'"),
    (feedback_app, "down", feedback.down, "Example: penchant feedback down 'too long' --turn 12"),
    (feedback_app, "edit", feedback.edit, "Example: penchant feedback edit 'Your dog is called Bruno.'"),
    (
        feedback_app,
        "choose",
        feedback.choose,
        "Example: penchant feedback choose 'A tea?' 'Green.' 'There are many.'",
    ),
    (feedback_app, "remove", feedback.remove, "Example: penchant feedback remove --preference 3"),
    (feedback_app, "list", feedback.list_feedback, "Example: penchant feedback list --json"),
    (model_app, "list", model_list, "Example: penchant model list"),
    (model_app, "info", model_info, "Examples: penchant model info   |   penchant model info ./other.gguf"),
)
for _group, _name, _command, _epilog in _COMMANDS:
    _group.command(_name, epilog=_epilog)(_command)
app.add_typer(profile_app, name="profile")
app.add_typer(taste_app, name="taste")
app.add_typer(feedback_app, name="feedback")
