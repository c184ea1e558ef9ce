"""The `penchant` command: one person's device (`edge_runtime.commands.app`) plus the demo and experiments.

It is assembled here, in the outermost room, because imports point inwards. The libraries for training and for
fleets are imported by the commands that need them, so the device's commands work on a base installation.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from client.commands import train
from edge_runtime.commands.app import app
from edge_runtime.commands.support import AsJson, need, one_line_errors, print_json
from protocol.errors import PenchantError

Out = Annotated[Path, typer.Option("--out", help="Folder for devices, releases and the report.")]


SECONDS_BETWEEN_LINES = 20.0


class StageDisplay:
    """One progress bar per stage on the terminal; elsewhere plain lines, one per stage and one every 20 seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> StageDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._last_line = time.monotonic()
            self._console.print(f"{self._last_line - self._started:6.1f} s  {text}", highlight=False)

    def __call__(self, stage: str, fraction: float) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=1.0)
            self._line(stage)
        elif fraction < 1.0 and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._line(f"{stage}: {fraction:.0%}")
        self._progress.update(self._tasks[stage], completed=fraction)
        if fraction >= 1.0:
            self._progress.stop_task(self._tasks[stage])


def _run(settings: Any, people: Any, out: Path, as_json: bool) -> None:
    from simulations.experiment import run_experiment
    from simulations.report import show_table, write_report

    console = Console(stderr=as_json)
    command = shlex.join(["penchant", *sys.argv[1:]])
    with StageDisplay(console) as display:
        report = run_experiment(settings, people, out, command=command, on_stage=display)
    write_report(report, out)
    if as_json:
        print_json(report)
        return
    show_table(report, console, out=out)
    console.print(
        f"\nTalk to one of them:  penchant chat --home {out / 'devices' / '0000'}\n"
        f"Let one of them write: penchant draft --home {out / 'devices' / '0000'} 'Invite a friend to dinner'",
        highlight=False,
        markup=False,
    )


app.command(epilog="Examples: penchant train   |   penchant train --epsilon 4")(train)


@app.command(epilog="Examples: penchant demo   |   penchant demo --people 12 --rounds 3 --out /tmp/village")
@one_line_errors
def demo(
    people: Annotated[int, typer.Option(min=8, max=26, help="People in the fleet; 6 newcomers join.")] = 24,
    rounds: Annotated[int, typer.Option(min=3, max=20, help="Private sums; the last two build bases.")] = 5,
    out: Out = Path("penchant-demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier demo in --out first.")] = False,
    as_json: AsJson = False,
) -> None:
    """The whole system on a village of invented people: memories, private rounds, bases, answers, a report."""
    need("torch", "transformers", "flwr", "matplotlib", "scipy")
    from simulations.demo import demo_settings, village_of

    if (out / "devices").is_dir():
        if not fresh:
            raise PenchantError(f"{out} holds an earlier demo: add --fresh to replace it, or choose another --out")
        shutil.rmtree(out)
    _run(demo_settings(rounds), village_of(people), out, as_json)


@app.command(epilog="Example: penchant simulate simulations/blogs.toml --out runs/blogs")
@one_line_errors
def simulate(
    file: Annotated[Path, typer.Argument(help="The experiment, a TOML file.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Run the experiment that a TOML file describes; the same report as the demo's."""
    need("torch", "transformers", "flwr", "matplotlib", "scipy")
    from simulations.experiment_file import read_experiment

    settings, people = read_experiment(file)
    _run(settings, people, out, as_json)


def main() -> None:
    """Entry point of the installed command."""
    app()
