"""The rows of a study of people on disk: one line for each part and person, added as it is done.

A row belongs to a run by ``of``, a digest of the settings that its part depends on; ``run.json`` has those of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import SEEK_END
from pathlib import Path
from typing import Any, Final

from protocol.errors import PenchantError

RESULTS: Final = "results.jsonl"
HEADING: Final = "run.json"


def kind_of(part: str) -> str:
    """``personal@20`` is of the kind ``personal``."""
    return part.partition("@")[0]


def append_row(out: Path, row: dict[str, Any]) -> None:
    """Add a row to the results, on a line of its own also after one that a kill cut short."""
    with (out / RESULTS).open("ab+") as file:
        cut_short = b""
        if file.tell():
            file.seek(-1, SEEK_END)
            cut_short = b"" if file.read(1) == b"\n" else b"\n"
        file.write(cut_short + json.dumps(row).encode() + b"\n")


def read_rows(out: Path) -> Iterator[dict[str, Any]]:
    """The rows so far; lines that a kill cut short are left out."""
    file = out / RESULTS
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def read_run(out: Path) -> dict[str, Any]:
    """The heading of the run in ``out`` and, under ``people``, everybody's ``losses``, ``gate`` and
    ``training_seconds`` so far, in the order of the seed."""
    file = out / HEADING
    if not file.is_file():
        raise PenchantError(f"{out} holds no run of simulations.studies.history.study")
    run: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    people: dict[str, dict[str, Any]] = {}
    for row in read_rows(out):
        if row["of"] == run["of"][kind_of(row["part"])]:
            person = people.setdefault(row["person"], {"losses": {}, "gate": {}, "training_seconds": {}})
            for field in person:
                person[field].update(row.get(field, {}))
    return {**run, "people": {name: people[name] for name in run["order"] if name in people}}
