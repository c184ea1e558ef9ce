"""PEFT-U (Clarke et al., "PEFT-U: parameter-efficient fine-tuning for user personalization", 2024): people who label
the same texts differently (hate, emotion, humour, sentiment ...).

Read is a data set's ``peft_u/NAME/user_data_leaked.json`` as its ``write_data`` scripts make it ("leaked": a text may
be in one person's train and another's test part, which is the point here), or ``user_data_no_leak.json`` where that is
the only one: ``{user: {"train": {id: {"text", "label": [...]}}, "val": ..., "test": ...}}``. Each underlying set has
its own licence. History is the train part, queries are the test part; rows with several labels at once are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from protocol.errors import PenchantError
from simulations.benchmarks.form import Benchmark, FileRow, Query, Task, Text, cut, history_of, read_json, shortened

FILES: Final = ("user_data_leaked.json", "user_data_no_leak.json")
TUNING: Final = 4
MOST_LABELS: Final = 20
QUERIES: Final = 15
_HISTORY: Final = 60


class _Sample(FileRow):
    text: Text
    label: Annotated[list[Text], Field(min_length=1)]


class _User(FileRow):
    train: dict[str, _Sample]
    test: dict[str, _Sample]


def peft_u(folder: Path, people: int) -> Benchmark:
    """The data set in ``folder``/peft_u: the only folder in it."""
    found = [file for name in FILES for file in sorted((folder / "peft_u").glob(f"*/{name}"))]
    sets = sorted({file.parent for file in found})
    if len(sets) != 1:
        raise PenchantError(
            f"{folder / 'peft_u'} must hold one data set, a folder with {FILES[0]}; it holds {len(sets)}"
        )
    users = read_json(found[0], dict[str, _User], "PEFT-U")
    labels = sorted(
        {row.label[0] for user in users.values() for row in (user.train | user.test).values() if len(row.label) == 1}
    )
    if not 2 <= len(labels) <= MOST_LABELS:
        raise PenchantError(f"{found[0].name} has {len(labels)} labels, not 2 to {MOST_LABELS}: take another data set")
    tasks = [task for name, user in users.items() if (task := _task(name, user, tuple(labels)))]
    return Benchmark("peft_u", "writing", "accuracy", *cut("peft_u", tasks, people, TUNING), labels=tuple(labels))


def _task(name: str, user: _User, labels: tuple[str, ...]) -> Task | None:
    def rows(part: dict[str, _Sample]) -> list[tuple[str, str, str]]:
        return [
            ("", f"How do you label this text? {shortened(row.text)}", row.label[0])
            for row in part.values()
            if len(row.label) == 1
        ]

    history = history_of(rows(user.train), _HISTORY)
    queries = tuple(Query(cue, label, labels) for _, cue, label in rows(user.test)[:QUERIES])
    return Task(name, history, queries) if history and queries else None
