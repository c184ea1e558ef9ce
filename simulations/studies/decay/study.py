"""How following a preference fades over turns of unrelated chat (PrefEval, Zhao et al., ICLR 2025).

    python -m simulations.studies.decay.study --out DIR    (PENCHANT_DATA: the folder that holds prefeval/)

Questions are of the eight topics on which nothing was tuned, of people who hold one preference of every topic; after 0,
2, 5 and 10 unrelated exchanges, in every arm of `asking.py`. A question is the unit of the intervals: Wilson's for
shares, Student's t for paired differences to ``zero-shot`` and to ``none`` after as many turns. The adapters cost a
training each, so they are made for the first few explicit questions only, and compared on those.

The paper's own measure is another one: larger models wrote an answer, a judge said whether it follows the preference,
and below 10 % did after 10 turns of some 3,000 tokens. Here one of four given answers is chosen: chance is 25 %.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from client.torch_model import TorchModel
from edge_runtime.commands.support import one_line_errors
from edge_runtime.device import SharedEmbedder
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import TextEmbedder
from edge_runtime.models.catalogue import find_model
from protocol.errors import PenchantError
from simulations.bench.preferences import TUNING_TOPICS, mixed_people, recall_first, wilson
from simulations.datasets.prefeval import PreferenceQuestion, load_prefeval
from simulations.datasets.writing import data_folder
from simulations.statistics import mean_interval
from simulations.studies.decay.adapter import AdapterRecipe, preference_texts, train_adapter
from simulations.studies.decay.asking import ARMS, Asked, ask, is_right, recalled_from_chats
from simulations.studies.decay.forms import FORMS, draw_turns, load_forms, unrelated_turns
from simulations.studies.run import StudyRun, draw_curves, markdown, shown
from simulations.study_command import as_command

TURNS: Final = (0, 2, 5, 10)


@dataclass(frozen=True)
class DecaySettings:
    """``questions`` of each form; adapters for the first ``adapters`` explicit ones; ``context_tokens`` of window."""

    questions: int = 50
    adapters: int = 12
    turns: tuple[int, ...] = TURNS
    context_tokens: int = 2048
    seed: int = 0


def draw_questions(
    folder: Path, settings: DecaySettings, form: str, embedder: TextEmbedder
) -> tuple[list[Asked], list[bool]]:
    """The questions of a form, the same ones for every form; and of each whether what is recalled is from the chat in
    which its preference came up."""
    topics, chats, exchanges = load_prefeval(folder), load_forms(folder, form), unrelated_turns(folder)
    held_out = frozenset(list(topics)[TUNING_TOPICS:])
    people = mixed_people(topics, settings.seed)
    generator = random.Random(f"decay {settings.seed}")
    every = [(person, row) for person in people for row in person if row.topic in held_out]
    if len(every) < settings.questions:
        raise PenchantError(f"there are {len(every)} questions, not {settings.questions}: ask for fewer")
    chosen = generator.sample(every, settings.questions)
    recalled = recall_first(chosen, embedder) if form == "explicit" else recalled_from_chats(chosen, chats, embedder)
    asked, found = [], []
    for number, (_, row) in enumerate(chosen):
        stranger = generator.choice([other for other in topics[row.topic] if other.preference != row.preference])
        unrelated = draw_turns(exchanges, row.topic, max(settings.turns), f"{settings.seed} {number}")
        asked.append(Asked(row, chats[row], chats[stranger], unrelated, recalled[row]))
        found.append(bool(recalled[row]) and any(recalled[row] in message.content for message in chats[row]))
    return asked, found


class AdapterMaker:
    """The torch side of the model, opened when the first adapter is wanted."""

    def __init__(self, engine: Engine, recipe: AdapterRecipe) -> None:
        self._engine, self._recipe = engine, recipe
        self._model: TorchModel | None = None

    def adapter(self, row: PreferenceQuestion) -> bytes:
        """Of a stated preference."""
        if self._model is None:
            torch.set_num_threads(1)
            self._model = TorchModel.load(self._engine.model.path, top_layers=self._recipe.layers)
        return train_adapter(self._model, self._engine, preference_texts(self._engine, row.preference), self._recipe)


def summary(rows: Mapping[str, Sequence[Mapping[str, Any]]], turns: Sequence[int]) -> dict[str, Any]:
    """form -> how often something, and the right thing, was recalled, size and wholeness of prompts, and under "arms":
    arm -> turns -> {"right": share and Wilson's interval, "over zero-shot", "over none": paired, "questions"}."""
    report: dict[str, Any] = {}
    for form, made in rows.items():
        report[form] = {
            "questions": len(made),
            "recalled": sum(row["recalled"] for row in made) / len(made),
            "right_recalled": sum(row["right_recalled"] for row in made) / len(made),
            "prompt_tokens": {str(n): sum(row["prompt_tokens"][str(n)] for row in made) / len(made) for n in turns},
            "whole_chat": {str(n): sum(not row["left_out"][str(n)] for row in made) / len(made) for n in turns},
            "arms": {},
        }
        for arm in ARMS:
            having = [row for row in made if arm in row["scores"]]
            if having:
                report[form]["arms"][arm] = {str(n): _cell(having, arm, str(n)) for n in turns}
    return report


def _cell(rows: Sequence[Mapping[str, Any]], arm: str, turns: str) -> dict[str, Any]:
    right = {one: [is_right(row["scores"][one][turns]) for row in rows] for one in {arm, "zero-shot", "none"}}
    hits = sum(right[arm])
    cell: dict[str, Any] = {"right": [hits / len(rows), *wilson(hits, len(rows))], "questions": len(rows)}
    for other in ("zero-shot", "none"):
        if other != arm:
            apart = [float(own) - float(base) for own, base in zip(right[arm], right[other], strict=True)]
            cell[f"over {other}"] = mean_interval(apart)
    return cell


def table(report: Mapping[str, Any], turns: Sequence[int]) -> str:
    """One table per form; its last column are points over ``none`` after the most turns, paired."""
    parts, last = [], str(turns[-1])
    for form, found in report.items():
        rows = [
            [
                arm,
                *(shown(cells[str(n)]["right"], 100) for n in turns),
                str(cells[last]["questions"]),
                shown(cells[last]["over none"], 100) if arm != "none" else "",
            ]
            for arm, cells in found["arms"].items()
        ]
        tokens = ", ".join(f"{found['prompt_tokens'][str(n)]:.0f}" for n in turns)
        whole = ", ".join(f"{100 * found['whole_chat'][str(n)]:.0f}" for n in turns)
        parts.append(
            f"## {form}\n\nRecalled something {100 * found['recalled']:.0f} %, from the right chat "
            f"{100 * found['right_recalled']:.0f} %. Prompts of zero-shot: {tokens} tokens; "
            f"chat whole in {whole} %.\n\n"
            + markdown(["right, % (chance 25)", *(f"{n} turns" for n in turns), "questions", "over none"], rows)
        )
    return "\n".join(parts)


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for the rows, decay.json, decay.md and pictures, new or not.")],
    questions: Annotated[int, typer.Option(min=2, help="Questions of each form.")] = 50,
    adapters: Annotated[int, typer.Option(min=0, help="Explicit questions that get an adapter.")] = 12,
    implicit: Annotated[bool, typer.Option(help="Ask the two implicit forms too.")] = True,
    context: Annotated[int, typer.Option(min=512, help="Tokens of the window.")] = 2048,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Ask PrefEval's questions after more and more unrelated chat."""
    settings = DecaySettings(questions, adapters, TURNS, context, seed)
    folder, embedder, model, recipe = data_folder() / "prefeval", SharedEmbedder(), find_model(), AdapterRecipe()
    # An adapter more or less changes no other row; another number of questions is another draw.
    of = asdict(settings) | {"adapters": "", "model": model.sha256, "recipe": asdict(recipe)}
    run = StudyRun.open(out, of)
    made: dict[str, list[dict[str, Any]]] = {}
    with Engine.open(model, context_tokens=context, threads=1) as engine:
        maker = AdapterMaker(engine, recipe)
        for form in FORMS if implicit else FORMS[:1]:
            asked, found = draw_questions(folder, settings, form, embedder)
            made[form] = []  # explicit rows first: they have the arm without a preference, the same for every form
            for number, (one, right) in enumerate(zip(asked, found, strict=True)):
                wants = form == "explicit" and number < adapters
                key = f"{form}/{number}{'+adapter' * wants}"
                if key not in run.done:
                    adapter = maker.adapter(one.row) if wants else None
                    known = made["explicit"][number]["scores"]["none"] if form != "explicit" else None
                    row = ask(engine, embedder, one, settings.turns, adapter=adapter, none=known)
                    run.keep(key, row | {"recalled": bool(one.recalled), "right_recalled": right})
                    typer.echo(f"{key} of {questions}", err=True)
                made[form].append(run.done[key])
    report = summary(made, settings.turns)
    run.write("decay", {"settings": of, "summary": report}, table(report, settings.turns))
    for form, part in report.items():
        curves = {
            arm: [(float(n), tuple(100 * value for value in cell["right"])) for n, cell in cells.items()]
            for arm, cells in part["arms"].items()
        }
        draw_curves(
            out / f"decay-{form}.png", curves, across="unrelated exchanges", up="right answer chosen, %",
            level=(25.0, "chance"),
        )  # fmt: skip
    typer.echo(table(report, settings.turns))


if __name__ == "__main__":
    as_command(main)
