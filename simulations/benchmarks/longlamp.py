"""LongLaMP (Kumar et al., "LongLaMP: a benchmark for personalized long-form text generation", 2024): long texts in a
person's own manner.

Read are JSON lines, one row of the published tables each, as ``datasets.Dataset.to_json`` writes them:
``longlamp/TASK/test.jsonl`` with the person's field, ``input``, ``output`` and ``profile``. The fourth task (mails of
the Avocado collection) is not public. The data does not ship with the project.

| task | person | an item of the profile: request -> text |
|---|---|---|
| abstract_generation_user, _temporal | name | title -> abstract |
| product_review_user, _temporal | reviewerId | overall, summary, description -> reviewText |
| topic_writing_user, _temporal | author | summary -> content |

Rows of one person are one task; a text that is asked for is not in the history. ROUGE-1, ROUGE-L and METEOR (without
synonyms) of a generated answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict

from protocol.errors import PenchantError
from simulations.benchmarks.form import (
    Benchmark,
    FileRow,
    Query,
    Task,
    Text,
    cut,
    history_of,
    read_json_lines,
    shortened,
)

TUNING: Final = 4
ANSWER_TOKENS: Final = 256
OUTPUT_WORDS: Final = 160  # of a text that is asked for: about as much as an answer may have
INPUT_WORDS: Final = 120
_PART_WORDS: Final = 24  # of each part of a request in the history


@dataclass(frozen=True)
class LongTask:
    """The field that names the person, that of the text in an item of their profile, the other fields it must have, and
    the request made of them."""

    person: str
    output: str
    fields: tuple[str, ...]
    request: Callable[[Mapping[str, str]], str]


_KINDS: Final = {
    "abstract_generation": LongTask(
        "name", "abstract", ("title",), lambda item: f'Generate an abstract for the title "{item["title"]}".'
    ),
    "product_review": LongTask(
        "reviewerId",
        "reviewText",
        ("overall", "summary", "description"),
        lambda item: (
            f"Generate the review text written by a reviewer who has given an overall rating of {item['overall']} for "
            f'a product with description "{item["description"]}". '
            f'The summary of the review text is "{item["summary"]}".'
        ),
    ),
    "topic_writing": LongTask(
        "author", "content", ("summary",), lambda item: f"Generate the content for a reddit post {item['summary']}"
    ),
}
LONG_LAMP: Final = {f"{name}_{part}": task for name, task in _KINDS.items() for part in ("user", "temporal")}


class _Row(FileRow):
    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    input: Text
    output: Text
    profile: list[dict[str, Any]]


def longlamp(folder: Path, name: str, people: int) -> Benchmark:
    """One task; ``folder`` holds ``longlamp/TASK/test.jsonl``. The first people of the file are for tuning."""
    form = LONG_LAMP[name]
    by_person: dict[str, list[tuple[int, _Row]]] = {}
    for place, row in enumerate(read_json_lines(folder / "longlamp" / name / "test.jsonl", _Row, "LongLaMP")):
        who = (row.model_extra or {}).get(form.person)
        if not isinstance(who, str) or not who.strip():
            raise PenchantError(f"test.jsonl of {name} is not of LongLaMP's form: row {place} has no {form.person}")
        by_person.setdefault(who, []).append((place, row))
    tasks = [_task(form, f"{name}-{number}", rows) for number, rows in enumerate(by_person.values())]
    parts = cut(name, tasks, people, TUNING)
    return Benchmark(name, "writing", "rouge1", *parts, answer_tokens=ANSWER_TOKENS)


def _task(form: LongTask, person: str, rows: list[tuple[int, _Row]]) -> Task:
    """A person is named by a number: in these files names are names of people."""
    asked = {" ".join(row.output.split()) for _, row in rows}
    history = []
    place, first = rows[0]
    for number, item in enumerate(first.profile):
        parts = {field: item.get(field) for field in (*form.fields, form.output)}
        wrong = [field for field, value in parts.items() if not isinstance(value, str | int | float)]
        if wrong:
            raise PenchantError(f"test.jsonl is not of LongLaMP's form: row {place}, profile.{number}.{wrong[0]}")
        texts = {field: shortened(str(value), _PART_WORDS) for field, value in parts.items()}
        text = " ".join(str(parts[form.output]).split())
        if text and text not in asked:
            history.append((str(item.get("date", "")), form.request(texts), shortened(text)))
    queries = (Query(shortened(row.input, INPUT_WORDS), shortened(row.output, OUTPUT_WORDS)) for _, row in rows)
    return Task(person, history_of(history), tuple(queries))
