"""Finished runs beside one another: one SQLite file, one row per run and one per arm of it.

Every experiment that ends is appended with its settings, seed, versions and machine, so that a figure in a table can be
traced to the run that gave it. A run is known by its folder's name; running it again replaces its row. The file lies
beside the run folders (``runs/runs.db`` for ``--out runs/blogs``) and can be read by any tool.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.errors import PenchantError
from simulations.machine import describe_machine

DATABASE: Final = "runs.db"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY, title TEXT NOT NULL, created TEXT NOT NULL, command TEXT NOT NULL, seed INTEGER NOT NULL,
    settings TEXT NOT NULL, people INTEGER NOT NULL, people_sha256 TEXT NOT NULL, model TEXT NOT NULL,
    model_sha256 TEXT NOT NULL, rounds INTEGER NOT NULL, epsilon REAL, delta REAL, noise_multiplier REAL NOT NULL,
    up_bytes REAL NOT NULL, seconds REAL NOT NULL, peak_memory_mb REAL, versions TEXT NOT NULL, machine TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS arms (
    run TEXT NOT NULL REFERENCES runs(name) ON DELETE CASCADE, arm TEXT NOT NULL, control INTEGER NOT NULL,
    loss REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL, gain REAL NOT NULL, gain_low REAL NOT NULL,
    gain_high REAL NOT NULL, losses TEXT NOT NULL, PRIMARY KEY (run, arm));
"""
_COLUMNS: Final = (
    "name", "title", "created", "command", "seed", "settings", "people", "people_sha256", "model", "model_sha256",
    "rounds", "epsilon", "delta", "noise_multiplier", "up_bytes", "seconds", "peak_memory_mb", "versions", "machine",
)  # fmt: skip


@dataclass(frozen=True)
class ArmRow:
    """One arm of a run: loss (nats per token) and gain over the plain model, both with 95 % intervals; each person's
    loss in the order of the people."""

    loss: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    losses: tuple[float, ...]
    control: bool


@dataclass(frozen=True)
class RunRow:
    """One finished run: what it was (``facts``: the columns of the table by name) and its arms."""

    name: str
    facts: Mapping[str, Any]
    arms: Mapping[str, ArmRow]


def append_run(report: Mapping[str, Any], out: Path) -> Path:
    """Put the report of the run in the folder ``out`` into the database beside it; returns the database's path."""
    path = out.resolve().parent / DATABASE
    facts = {
        "name": out.resolve().name,
        **{key: report[key] for key in ("title", "created", "command", "seed", "people", "rounds")},
        "people_sha256": report["people_sha256"],
        "settings": json.dumps(report["settings"], sort_keys=True),
        "model": report["model"]["name"],
        "model_sha256": report["model"]["sha256"],
        **{key: report["privacy"][key] for key in ("epsilon", "delta", "noise_multiplier")},
        "up_bytes": report["wire"]["up_bytes"],
        "seconds": report["seconds"]["total"],
        "peak_memory_mb": report["peak_memory_mb"],
        "versions": json.dumps(report["versions"], sort_keys=True),
        "machine": json.dumps(describe_machine(), sort_keys=True),
    }
    with _opened(path) as database:
        database.execute("DELETE FROM runs WHERE name = ?", (facts["name"],))
        marks = ", ".join("?" * len(_COLUMNS))
        database.execute(f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES ({marks})", [facts[c] for c in _COLUMNS])
        for control, arms in ((False, report["arms"]), (True, report["controls"])):
            for name, arm in arms.items():
                row = (
                    facts["name"], name, control, arm["loss"], *arm["interval"], arm["gain"], *arm["gain_interval"],
                    json.dumps(arm["losses"]),
                )  # fmt: skip
                database.execute("INSERT INTO arms VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    return path


def read_runs(path: Path) -> list[RunRow]:
    """All runs of a database (or of the folder that holds one), oldest first. PenchantError if there is none."""
    path = path / DATABASE if path.is_dir() else path
    if not path.is_file():
        raise PenchantError(f"there is no {path}: it appears beside the run folders once a run has finished")
    with _opened(path) as database:
        arms: dict[str, dict[str, ArmRow]] = {}
        for run, arm, control, loss, low, high, gain, gain_low, gain_high, losses in database.execute(
            "SELECT run, arm, control, loss, low, high, gain, gain_low, gain_high, losses FROM arms ORDER BY rowid"
        ):
            row = ArmRow(loss, (low, high), gain, (gain_low, gain_high), tuple(json.loads(losses)), bool(control))
            arms.setdefault(run, {})[arm] = row
        found = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM runs ORDER BY created, name")
        rows = [dict(zip(_COLUMNS, values, strict=True)) for values in found]
    return [RunRow(facts["name"], facts, arms.get(facts["name"], {})) for facts in rows]


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        database = sqlite3.connect(path, timeout=30)
        try:
            database.execute("PRAGMA foreign_keys = ON")
            with database:
                database.executescript(_SCHEMA)
                yield database
        finally:
            database.close()
    except sqlite3.Error as error:
        raise PenchantError(f"the database {path} cannot be used ({error}): move it away to start a new one") from error
