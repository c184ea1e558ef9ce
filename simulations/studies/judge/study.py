"""How far a judge of personal preferences can be trusted, and how often it knows (`judge.py`).

    python -m simulations.studies.judge.study --out DIR                     the model on this machine
    python -m simulations.studies.judge.study --out DIR --model NAME        one behind PENCHANT_JUDGE_URL

Every set of `cases.py` is judged by the local model ("local"); where what is known are statements, by the product's
`choose` ("product"); where it is choices, by the person's reward weights and a stranger's (`reward.py`). Or by
the endpoint alone: what is asked of it leaves this machine. The certainty's scale is fitted on tuning people. Rows
hold numbers and places in the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from edge_runtime.commands.support import one_line_errors
from edge_runtime.device import SharedEmbedder
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import find_model
from simulations.choices.data import ChoiceSet
from simulations.datasets.writing import data_folder
from simulations.studies.judge.cases import SETS, Cases, load_cases, load_choices
from simulations.studies.judge.judge import THRESHOLD, Judge, JudgeCase, Judgement, ask_both_orders, fit_scale, report
from simulations.studies.judge.models import URL_VARIABLE, EndpointJudge, LocalJudge, ProductJudge
from simulations.studies.judge.reward import reward_judgements
from simulations.studies.run import StudyRun, draw_curves, markdown, shown
from simulations.study_command import as_command

CONTEXT_TOKENS: Final = 4096
CHOICE_SETS: Final = ("ukpconvarg", "village")


def judge_all(run: StudyRun, name: str, judge: Judge, cases: Sequence[JudgeCase]) -> list[Judgement]:
    """The judge's opinion of all cases; what the run has is not asked again."""
    found = []
    for case in cases:
        key = f"{name}/{case.key}"
        if key not in run.done:
            made = ask_both_orders(judge, case)
            run.keep(key, {"logit": made.logit, "consistent": made.consistent})
        found.append(Judgement(case.person, run.done[key]["logit"], run.done[key]["consistent"]))
    return found


def study(run: StudyRun, name: str, judge: Judge, cases: Cases, threshold: float) -> dict[str, Any]:
    """The figures of one judge on one set."""
    tuning, reported = (judge_all(run, name, judge, part) for part in cases)
    return report(reported, fit_scale([one.logit for one in tuning]), threshold)


def reward_study(choices: ChoiceSet, folder: Path, cases: Cases, threshold: float) -> dict[str, Any]:
    """The figures of the person's reward weights and of a stranger's."""
    reports = {}
    for name, stranger in (("reward", False), ("a stranger's reward", True)):
        found = reward_judgements(choices, folder, stranger=stranger)
        tuning, reported = ([found[case.key] for case in part] for part in cases)
        reports[f"{name}, {choices.name}"] = report(reported, fit_scale([one.logit for one in tuning]), threshold)
    return reports


def table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per judge and set."""
    rows = []
    for name, found in reports.items():
        certain = found["certain"]
        rows.append(
            [
                name,
                f"{found['cases']} of {found['people']}",
                shown(found["agreement"], 100),
                f"{100 * certain['coverage']:.1f} ({certain['cases']})",
                shown(certain["agreement"], 100) if certain["agreement"] else "abstains",
                f"{100 * found['calibration_error']:.1f} ({100 * found['calibration_error_before']:.1f})",
                f"{100 * found['consistent']:.0f}",
            ]
        )
    head = ["judge, set", "cases of people", "agreement, %", "coverage when certain, %", "agreement when certain, %",
            "calibration error, % (before)", "same in both orders, %"]  # fmt: skip
    return markdown(head, rows)


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for the rows, judge.json, judge.md and judge.png, new or not.")],
    cases: Annotated[int, typer.Option(min=2, help="Cases reported of each set.")] = 150,
    tuning: Annotated[int, typer.Option(min=2, help="Cases of other people for the scale.")] = 60,
    threshold: Annotated[float, typer.Option(min=0.5, max=1.0, help="Certainty below which it abstains.")] = THRESHOLD,
    model: Annotated[str, typer.Option(help=f"Model behind {URL_VARIABLE}; empty: the model on this machine.")] = "",
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Judge what people are known to prefer."""
    drawn = {name: load_cases(name, data_folder(), tuning=tuning, reported=cases, seed=seed) for name in SETS}
    reports: dict[str, Any] = {}
    with ExitStack() as stack:
        judges: dict[str, Judge] = {}
        if model:
            endpoint = EndpointJudge.from_environment(model)
            stack.callback(endpoint.client.close)
            typer.echo(f"cases go to {endpoint.client.base_url.host}", err=True)
            judges["endpoint"] = endpoint
            by = {"model": model, "host": endpoint.client.base_url.host}
        else:
            local = find_model()
            engine = stack.enter_context(Engine.open(local, context_tokens=CONTEXT_TOKENS, threads=1))
            judges = {"local": LocalJudge(engine), "product": ProductJudge(engine, SharedEmbedder())}
            by = {"model": local.sha256, "host": ""}
        run = StudyRun.open(out, by | {"seed": seed})
        for name, parts in drawn.items():
            for who, judge in judges.items():
                if who == "product" and name != "prefeval":
                    continue  # leaning reads statements, and examples of choices are none
                reports[f"{who}, {name}"] = study(run, who, judge, parts, threshold)
                typer.echo(f"{who}, {name}: done", err=True)
        for name in () if model else CHOICE_SETS:
            reports |= reward_study(load_choices(name, data_folder()), data_folder(), drawn[name], threshold)
    run.write("judge", {"by": by, "seed": seed, "reports": reports}, table(reports))
    curves = {
        name: [
            (100 * cell["coverage"], tuple(100 * value for value in cell["agreement"]))
            for cell in found["by_threshold"].values()
            if cell["agreement"]
        ]
        for name, found in reports.items()
    }
    draw_curves(
        out / "judge.png", curves, across="coverage, %", up="agreement of what is judged, %", level=(50.0, "chance")
    )
    typer.echo(table(reports))


if __name__ == "__main__":
    as_command(main)
