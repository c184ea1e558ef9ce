"""Experiments as files: one TOML gives one run, or with a table [sweep] one run per combination.

    title = "How much noise"
    [people]
    source = "village"
    [sweep]
    noise_multiplier = [0.5, 1.0, 2.0]
    "plan.shared_rounds" = [2, 4]
    "people.fleet" = [12, 24]

Keys are settings by their dotted names, values are lists; the runs are the Cartesian product, the last key changing
fastest. Every combination is checked before the first one runs.
"""

from __future__ import annotations

import copy
import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.errors import PenchantError
from simulations.experiments.experiment_file import read_content
from simulations.experiments.settings import ExperimentSettings
from simulations.people import Person


@dataclass(frozen=True)
class Point:
    """One run of a file: ``name`` (a folder's; empty where the file has no sweep), settings, people."""

    name: str
    settings: ExperimentSettings
    people: list[Person]


def read_points(file: Path) -> list[Point]:
    """Every run that a file describes. Raises PenchantError that names what is wrong in it."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PenchantError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PenchantError(f"{file} is not TOML: {error}") from None
    sweep = content.pop("sweep", {})
    if not isinstance(sweep, dict) or not all(isinstance(v, list) and v for v in sweep.values()):
        raise PenchantError(f"{file}: [sweep] needs lists of values, such as noise_multiplier = [0.5, 1.0]")
    points = []
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        settings, people = read_content(file, with_values(content, chosen))
        points.append(Point(point_name(chosen), settings, people))
    if len({point.name for point in points}) < len(points):
        raise PenchantError(f"{file}: [sweep] names the same combination twice")
    return points


def with_values(content: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content with some settings, by dotted names, replaced."""
    changed = copy.deepcopy(dict(content))
    for dotted, value in chosen.items():
        *tables, key = dotted.split(".")
        place = changed
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise PenchantError(f"[sweep] {dotted!r}: {table!r} is not a table")
        place[key] = value
    return changed


def point_name(chosen: Mapping[str, Any]) -> str:
    """A folder name that says what a combination is: "noise_multiplier=0.5 seed=1" without what a path cannot hold."""
    words: Sequence[str] = [f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items()]
    return re.sub(r"[^\w.=+-]+", "_", "__".join(words))
