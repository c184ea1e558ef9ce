"""What quantisation costs, by how much is retrieved and by which retriever.

    python -m simulations.studies.quantisation.study --out DIR
    python -m simulations.studies.quantisation.study --out DIR --source locomo    (PENCHANT_DATA: what holds locomo/)

Forms of the default model (`quantisation.py`) x notes shown (0, 1, 3, 5) x retriever (BM25, dense, hybrid), on the same
questions: nats per token of the known answer, and token-F1 of the greedy one, both by llama.cpp behind the product's
prompt. Gaps are paired to F16 over questions, which are the unit of the intervals. Without notes the prompt
has no worked examples either: compare forms within a number of notes, and numbers of notes from one on.

Speed: prompt and decoded tokens per second with one thread, all forms in turn several times, medians as ratios to F16.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from edge_runtime.answering.answering import lay_out
from edge_runtime.answering.guard import as_data, as_note
from edge_runtime.answering.pipeline import DEFAULT_SAMPLING
from edge_runtime.commands.support import one_line_errors
from edge_runtime.device import SharedEmbedder
from edge_runtime.engine.engine import Engine, Sampling
from edge_runtime.models.catalogue import BUNDLED_NAME, ModelFile, describe_model, find_model
from protocol.errors import PenchantError
from simulations.datasets.writing import data_folder
from simulations.statistics import mean_interval
from simulations.studies.quantisation.quantisation import (
    DEPTHS,
    FORMS,
    RETRIEVERS,
    AnswerQuestion,
    kinds_of,
    locomo_questions,
    quantised,
    token_f1,
    village_questions,
)
from simulations.studies.run import StudyRun, draw_curves, markdown, shown
from simulations.study_command import as_command

CELLS: Final = ("none@0", *(f"{retriever}@{depth}" for retriever in RETRIEVERS for depth in DEPTHS))
MEASURES: Final = ("nats", "f1")
_CONTEXT_TOKENS: Final = 2048
_ANSWER_TOKENS: Final = 24
_PREFILL, _DECODED, _SPEED_ROUNDS = 192, 32, 5


def ask(engine: Engine, question: AnswerQuestion, cell: str) -> dict[str, float]:
    """{"nats": per token of the known answer, "f1": of the greedy one}."""
    retriever, _, depth = cell.partition("@")
    found = question.notes[retriever][: int(depth)] if int(depth) else ()
    notes = [as_note(engine, note) for note in found]
    prompt = engine.tokenise(engine.chat_prompt(lay_out(as_data(engine, question.text), notes)))
    answer = [*engine.tokenise(as_data(engine, question.answer), special=False), engine.end_of_turn[0]]
    given = "".join(engine.generate(prompt, max_tokens=_ANSWER_TOKENS, sampling=DEFAULT_SAMPLING))
    logs = engine.score(prompt, [answer])[0]
    return {"nats": -float(logs.mean()), "f1": token_f1(question.answer, given)}


def speeds(models: Mapping[str, ModelFile], text: str) -> dict[str, dict[str, float]]:
    """form -> {"prefill", "decode"}: tokens per second, medians of rounds in which the forms take turns."""
    seconds: dict[str, dict[str, list[float]]] = {form: {"prefill": [], "decode": []} for form in models}
    with ExitStack() as stack:
        engines = {
            form: stack.enter_context(Engine.open(model, context_tokens=512, threads=1))
            for form, model in models.items()
        }
        for number in range(_SPEED_ROUNDS):
            for form, engine in engines.items():
                tokens = (engine.tokenise(text, special=False) * _PREFILL)[number : number + _PREFILL]
                engine.forget_texts()
                started = time.perf_counter()
                list(engine.generate(tokens, max_tokens=1, sampling=Sampling(temperature=0.0)))
                begun = time.perf_counter()
                count = 0
                while count < _DECODED:  # an answer that ends early is begun again
                    said = engine.generate(tokens, max_tokens=_DECODED - count, sampling=Sampling(temperature=0.0))
                    count += max(1, len(engine.tokenise("".join(said), special=False)))
                seconds[form]["prefill"].append((begun - started) / len(tokens))
                seconds[form]["decode"].append((time.perf_counter() - begun) / count)
    return {
        form: {kind: 1.0 / statistics.median(each) for kind, each in kinds.items()} for form, kinds in seconds.items()
    }


def summary(rows: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> dict[str, Any]:
    """form -> cell -> measure -> mean with its interval, and "gap": paired to F16 (nats above zero and F1 below zero
    are losses). ``rows`` are the questions' measures by form and cell."""
    report: dict[str, Any] = {}
    for form, cells in rows.items():
        report[form] = {}
        for cell, made in cells.items():
            found: dict[str, Any] = {}
            for measure in MEASURES:
                own = [row[measure] for row in made]
                base = [row[measure] for row in rows[FORMS[0]][cell]]
                apart = [each - other for each, other in zip(own, base, strict=True)]
                found[measure] = {"mean": mean_interval(own), "gap": mean_interval(apart)}
            report[form][cell] = found
    return report


def table(report: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> str:
    """Files, then one table per measure."""
    base = files[FORMS[0]]
    rows = [
        [
            form,
            f"{file['megabytes']:.0f}",
            ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in file["kinds"].items() if share >= 0.01),
            f"{file['speed']['prefill'] / base['speed']['prefill']:.2f}",
            f"{file['speed']['decode'] / base['speed']['decode']:.2f}",
        ]
        for form, file in files.items()
    ]
    parts = [markdown(["form", "MB", "weights", "prompt tokens/s, times F16", "decoded tokens/s, times F16"], rows)]
    for measure, title in (("nats", "nats per token of the known answer"), ("f1", "token-F1 of the greedy answer")):
        rows = [
            [cell, shown(report[FORMS[0]][cell][measure]["mean"], digits=3)]
            + [shown(report[form][cell][measure]["gap"], digits=3) for form in report if form != FORMS[0]]
            for cell in report[FORMS[0]]
        ]
        head = [title, FORMS[0], *(f"{form} less {FORMS[0]}" for form in report if form != FORMS[0])]
        parts.append(markdown(head, rows))
    return "\n".join(parts)


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for the rows, quantisation.json, .md and .png, new or not.")],
    questions: Annotated[int, typer.Option(min=2)] = 30,
    source: Annotated[str, typer.Option(help="village or locomo.")] = "village",
    model: Annotated[str, typer.Option(help="The bundled model, or the path of an F16 GGUF.")] = BUNDLED_NAME,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Ask every form of a model the same questions, with more and more notes."""
    if source not in ("village", "locomo"):
        raise PenchantError(f"there are no questions of {source!r}: take village or locomo")
    if source == "village":
        asked = village_questions(SharedEmbedder(), count=questions, seed=seed)
    else:
        asked = locomo_questions(data_folder() / "locomo", SharedEmbedder(), count=questions, seed=seed)
    given = find_model(quantisation="f16") if model == BUNDLED_NAME else describe_model(Path(model).expanduser())
    run = StudyRun.open(out, {"model": given.sha256, "source": source, "questions": questions, "seed": seed})
    models = {form: quantised(given, form) for form in FORMS}
    rows: dict[str, dict[str, list[dict[str, float]]]] = {}
    for form, file in models.items():
        rows[form] = {cell: [] for cell in CELLS}
        with Engine.open(file, context_tokens=_CONTEXT_TOKENS, threads=1) as engine:
            for number, question in enumerate(asked):
                for cell in CELLS:
                    key = f"{form}/{cell}/{number}"
                    if key not in run.done:
                        run.keep(key, ask(engine, question, cell))
                    rows[form][cell].append(run.done[key])
                typer.echo(f"{form}: {number + 1} of {len(asked)}", err=True)
    if "speeds" not in run.done:
        run.keep("speeds", speeds(models, "The ferry to the island leaves at nine and comes back before it is dark. "))
    files = {
        form: {
            "megabytes": file.path.stat().st_size / 1e6,
            "sha256": file.sha256,
            "kinds": kinds_of(file),
            "speed": run.done["speeds"][form],
        }
        for form, file in models.items()
    }
    report = summary(rows)
    run.write("quantisation", {"seed": seed, "files": files, "summary": report}, table(report, files))
    curves = {
        f"{form}, {retriever}": [
            (float(depth), report[form][f"{retriever}@{depth}"]["nats"]["gap"]) for depth in DEPTHS
        ]
        for form in FORMS[1:]
        for retriever in RETRIEVERS
    }
    draw_curves(
        out / "quantisation.png", curves, across="notes shown", up="nats per token more than F16", level=(0.0, "F16")
    )
    typer.echo(table(report, files))


if __name__ == "__main__":
    as_command(main)
