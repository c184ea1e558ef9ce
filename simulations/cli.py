"""The `penchant` command: one person's device (`edge_runtime.commands.app`) plus the demo and experiments.

It is assembled here, in the outermost room, because imports point inwards. The libraries for training and for
fleets are imported by the commands that need them, so the device's commands work on a base installation.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from click import Context
from rich.console import Console
from typer.core import TyperGroup

from client.commands import train
from client.continue_commands import go_on
from client.join_commands import join
from client.portability_commands import move
from edge_runtime.commands.app import adapters_app, app
from edge_runtime.commands.support import AsJson, need, one_line_errors, print_json, print_table
from protocol.errors import PenchantError
from server import fleet_commands as fleet
from server.commands import fleet_app
from simulations.audit.commands import audit
from simulations.stage_display import StageDisplay

Out = Annotated[Path, typer.Option("--out", help="Folder for devices, releases and the report.")]


def _run(settings: Any, people: Any, out: Path, console: Console) -> dict[str, Any]:
    from simulations.experiments.experiment import run_experiment
    from simulations.reports.report import write_report

    command = shlex.join(["penchant", *sys.argv[1:]])
    with StageDisplay(console) as display:
        report = run_experiment(settings, people, out, command=command, on_stage=display)
    write_report(report, out)
    return report


def _show(report: dict[str, Any], out: Path, console: Console) -> None:
    from simulations.reports.report import show_table

    show_table(report, console, out=out)
    console.print(
        f"\nTalk to one of them:  penchant chat --home {out / 'devices' / '0000'}\n"
        f"Let one of them write: penchant draft --home {out / 'devices' / '0000'} 'Invite a friend to dinner'",
        highlight=False,
        markup=False,
    )


app.command(epilog="Examples: penchant join invitation.json   |   penchant join --wait")(join)
for _command in (
    fleet.init,
    fleet.invite,
    fleet.enrol,
    fleet.remove,
    fleet.certify,
    fleet.up,
    fleet.status,
    fleet.release,
):
    fleet_app.command()(_command)
app.add_typer(fleet_app, name="fleet")
app.command(
    epilog="Examples: penchant train   |   penchant train --epsilon 8 --unit conversation   |   penchant train "
    "--background (from a timer, say every hour)   |   penchant train --fresh --memory 4096"
)(train)
app.command(name="continue", epilog="Example: penchant continue novel.txt --max-tokens 300")(go_on)
adapters_app.command(epilog="Example: penchant adapters move --to newer.gguf")(move)
app.command(epilog="Examples: penchant audit penchant-demo   |   penchant audit runs/blogs --quick")(audit)


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
    from simulations.experiments.demo import demo_settings, village_of

    stopped = (out / "run.json").exists() and not (out / "report.json").exists()
    if fresh and (out / "devices").is_dir():
        shutil.rmtree(out)
    elif (out / "devices").is_dir() and not stopped:
        raise PenchantError(f"{out} holds an earlier demo: add --fresh to replace it, or choose another --out")
    console = Console(stderr=as_json)
    report = _run(demo_settings(rounds), village_of(people), out, console)
    if as_json:
        print_json(report)
    else:
        _show(report, out, console)


class _FileOrCommand(TyperGroup):
    """`penchant simulate FILE` is `penchant simulate run FILE`."""

    default_command = "run"

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


simulate_app = typer.Typer(
    cls=_FileOrCommand,
    help="Experiments from TOML files, and finished ones compared.",
    epilog="Examples: penchant simulate simulations/blogs.toml --out runs/blogs   |   penchant simulate sweep.toml "
    "--out runs --json   |   penchant simulate compare runs",
)
app.add_typer(simulate_app, name="simulate")


@simulate_app.command("run", epilog="Example: penchant simulate simulations/blogs.toml --out runs/blogs")
@one_line_errors
def simulate(
    file: Annotated[Path, typer.Argument(help="The experiment, a TOML file.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Run the experiment that a TOML file describes; the same report as the demo's.

    A run that was stopped goes on when the same command is given again. With a table [sweep] in the file, every
    combination runs in a folder of its own, and those that have finished are not run again.
    """
    need("torch", "transformers", "flwr", "matplotlib", "scipy")
    from simulations.experiments.sweep import read_points
    from simulations.reports.runs_database import append_run

    points, console = read_points(file), Console(stderr=as_json)
    for number, point in enumerate(points, start=1):
        folder = out / point.name if point.name else out
        if point.name and (folder / "report.json").exists():
            continue
        if point.name:
            console.print(f"Run {number} of {len(points)}: {point.name}", highlight=False, markup=False)
        report = _run(point.settings, point.people, folder, console)
        append_run(report, folder)
        if len(points) == 1 and as_json:
            print_json(report)
        elif not as_json:
            _show(report, folder, console)
    if len(points) > 1:
        _show_comparison(out, [point.name for point in points], out, as_json)


@simulate_app.command("compare", epilog="Example: penchant simulate compare runs blogs blogs-less-noise --out runs")
@one_line_errors
def compare_runs(
    runs: Annotated[Path, typer.Argument(help="The folder that holds the run folders, or its runs.db.")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Which runs; the first is compared with. All if none.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for comparison.html, .md and .png; that of the runs if not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Finished runs beside one another: settings that differ, every arm, paired differences over the same people."""
    need("matplotlib", "scipy")
    _show_comparison(runs, names or [], out or (runs if runs.is_dir() else runs.parent), as_json)


def _show_comparison(runs: Path, names: list[str], out: Path, as_json: bool) -> None:
    from simulations.reports.comparison import HEADINGS, compare, rows_of, show_comparison, write_comparison
    from simulations.reports.runs_database import read_runs

    comparison = compare(read_runs(runs), names)
    page = write_comparison(comparison, out)
    if as_json:
        print_json({"rows": [dict(zip(HEADINGS, row, strict=True)) for row in rows_of(comparison)]})
        return
    console = Console()
    show_comparison(comparison, console)
    console.print(f"The page: {page}", highlight=False, markup=False)


@app.command(epilog="Examples: penchant bench decode   |   penchant bench recall --json recall.json")
@one_line_errors
def bench(
    name: Annotated[str | None, typer.Argument(help="Which benchmark; the list of all if left out.")] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the figures to this file as well, and a picture beside it if there is one."),
    ] = None,
) -> None:
    """One benchmark: ours and the peer's in the same run, as ratios."""
    from simulations.bench.runner import BENCHMARKS, draw_benchmark, run_benchmark

    if name is None:
        print_table("Benchmarks", ("name", "what it measures"), [(key, line) for key, (_, line) in BENCHMARKS.items()])
        return
    if json_file is not None and not json_file.parent.is_dir():
        raise PenchantError(f"there is no folder {json_file.parent} for the figures: create it first")
    console = Console(stderr=True)
    with StageDisplay(console) as display:
        document = run_benchmark(name, display)
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        draw_benchmark(document, json_file.with_suffix(".png"))
    rows = [
        (case, _figure(figures["ours"]), _figure(figures["peer"]), _figure(figures["ratio"]), figures["unit"])
        for case, figures in document["cases"].items()
    ]
    machine = document["machine"]
    caption = f"{machine['processor']}, {machine['cores']} cores; {document['seconds']:.0f} s."
    print_table(f"penchant bench {name}", ("case", "ours", "peer", "ours / peer", "unit"), rows, caption=caption)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def main() -> None:
    """Entry point of the installed command."""
    app()
