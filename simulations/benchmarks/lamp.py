"""LaMP (Salemi et al., "LaMP: when large language models meet personalization", ACL 2024): its seven tasks.

Read are ``lamp/LaMP_N/dev_questions.json``, a list of ``{"id", "input", "profile": [{"id", ...}]}``, and
``dev_outputs.json``, ``{"task": "LaMP_N", "golds": [{"id", "output"}]}`` (the test part has no public golds). LaMP-2 is
the second version, of films. The data does not ship with the project; each task has its source's licence, and LaMP-6
needs the Avocado collection. A question is a person: its profile is the history, in the order of ``date`` if all items
have one. What the profile says of the person becomes a request and a reply:

| task | history | query | options | measure |
|---|---|---|---|---|
| LaMP_1 | abstract -> title of an own paper | which of two papers they cite | [1], [2] | accuracy, F1 |
| LaMP_2 | description -> tag of a film | the same | 15 tags | accuracy, F1 |
| LaMP_3 | review -> score | the same | 1 to 5 | MAE, RMSE |
| LaMP_4 | article -> headline | the same | | ROUGE |
| LaMP_5 | abstract -> title | the same | | ROUGE |
| LaMP_6 | mail -> subject | the same | | ROUGE |
| LaMP_7 | tweets | a tweet to paraphrase | | ROUGE |

Long texts are cut to their first words on both sides: 100 of a question, 40 of what a profile's item answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ConfigDict

from protocol.errors import PenchantError
from simulations.benchmarks.form import (
    Benchmark,
    FileRow,
    Measure,
    Number,
    Query,
    Task,
    Text,
    cut,
    history_of,
    read_json,
    shortened,
)

TAGS: Final = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)
SCORES: Final = ("1", "2", "3", "4", "5")
TUNING: Final = 4  # questions
QUESTION_WORDS: Final = 100
PROFILE_WORDS: Final = 40
PROFILE_ITEMS: Final = 100  # the newest


@dataclass(frozen=True)
class LampTask:
    """How a task is read: the request that a profile's item answers, the fields of what it is about ("" none) and of
    what the person made of it, and the labels of a query (none: it is answered in words)."""

    request: str
    about: str
    output: str
    measure: Measure
    labels: tuple[str, ...] = ()


LAMP: Final = {
    "LaMP_1": LampTask("Give a title for this abstract.", "abstract", "title", "accuracy", ("[1]", "[2]")),
    "LaMP_2": LampTask("Which tag does this movie relate to?", "description", "tag", "accuracy", TAGS),
    "LaMP_3": LampTask("What is the score of this review, 1 to 5?", "text", "score", "mae", SCORES),
    "LaMP_4": LampTask("Generate a headline for this article.", "text", "title", "rouge1"),
    "LaMP_5": LampTask("Generate a title for this abstract.", "abstract", "title", "rouge1"),
    "LaMP_6": LampTask("Generate a subject for this email.", "text", "title", "rouge1"),
    "LaMP_7": LampTask("Write a tweet.", "", "text", "rouge1"),
}


class _Item(FileRow):
    """An item of a profile; which texts it must hold depends on the task."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    id: Number
    date: str = ""


class _Question(FileRow):
    id: Number
    input: Text
    profile: list[_Item]


class _Gold(FileRow):
    id: Number
    output: Number


class _Outputs(FileRow):
    task: str
    golds: list[_Gold]


def lamp(folder: Path, name: str, people: int) -> Benchmark:
    """One task; ``folder`` holds ``lamp/LaMP_N/``. The first questions of the file are for tuning."""
    form, where = LAMP[name], folder / "lamp" / name
    questions = read_json(where / "dev_questions.json", list[_Question], "LaMP")
    outputs = read_json(where / "dev_outputs.json", _Outputs, "LaMP")
    if outputs.task != name:
        raise PenchantError(f"dev_outputs.json in {name} is of another task: fetch it again")
    golds = {row.id: str(row.output).strip() for row in outputs.golds}
    tasks = [
        _task(form, row, golds[row.id], place)
        for place, row in enumerate(questions[: people + TUNING])
        if _has_gold(golds, row.id, form, place)
    ]
    return Benchmark(name, "writing", form.measure, *cut(name, tasks, people, TUNING), labels=form.labels)


def _has_gold(golds: dict[str, str], question: str, form: LampTask, place: int) -> bool:
    if question not in golds:
        raise PenchantError(f"dev_outputs.json has no gold for dev_questions.json's question {place}: fetch both again")
    if form.labels and golds[question] not in form.labels:
        raise PenchantError(f"dev_outputs.json: the gold of question {place} is none of the task's labels")
    return True


def _task(form: LampTask, row: _Question, gold: str, place: int) -> Task:
    rows = []
    for number, item in enumerate(row.profile):
        fields = item.model_extra or {}
        about, output = (fields.get(field) if field else "" for field in (form.about, form.output))
        if not isinstance(about, str) or not isinstance(output, str | int | float) or not str(output).strip():
            raise PenchantError(
                f"dev_questions.json is not of LaMP's form: see {place}.profile.{number}, which lacks "
                f"{form.about or 'its'} or {form.output} text"
            )
        request = f"{form.request} {shortened(about, PROFILE_WORDS)}".strip()
        rows.append((item.date, request, shortened(str(output))))
    query = Query(shortened(row.input, QUESTION_WORDS), gold, form.labels)
    return Task(row.id, history_of(rows, PROFILE_ITEMS), (query,))
