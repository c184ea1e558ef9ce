"""An experiment as a TOML file: who takes part, and every setting that differs from the defaults.

title = "100 bloggers"
noise_multiplier = 1.0
delta = 1e-4

[people]                # source: "village", "blogs" or "novels"; the last two read PENCHANT_DATA
source = "blogs"
fleet = 100
newcomers = 20
seed = 0

[training]              # client.training.TrainingPlan
[plan]                  # server.algorithms.PreferencePlan
[held_out]              # simulations.experiments.arms.HeldOut

A table [sweep] makes several runs of one file (``simulations.experiments.sweep``).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from protocol.errors import PenchantError
from simulations.datasets.writing import Selection, data_folder, load_blogs, load_novels
from simulations.experiments.demo import VILLAGE_FLEET, village_of
from simulations.experiments.experiment import MINIMUM_FLEET, settings_with
from simulations.experiments.settings import ExperimentSettings
from simulations.people import Person


def read_content(file: Path, content: dict[str, Any]) -> tuple[ExperimentSettings, list[Person]]:
    """Settings and people of one experiment from what its ``file`` holds. PenchantError names what is wrong."""
    people = content.pop("people", None)
    if not isinstance(people, dict):
        raise PenchantError(f"{file} needs a table [people] with a source")
    try:
        settings = settings_with(ExperimentSettings(title=file.stem), content)
        TypeAdapter(ExperimentSettings).validate_python(asdict(settings))
        return settings, read_people(people)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PenchantError(f"{file}: {place}: {first['msg']}") from None
    except (TypeError, ValueError) as error:
        raise PenchantError(f"{file}: a setting has the wrong type ({error})") from None


def read_people(table: dict[str, Any]) -> list[Person]:
    """The people that a [people] table names."""
    known = {"source", "fleet", "newcomers", "seed", "max_words"}
    if unknown := sorted(set(table) - known):
        raise PenchantError(f"[people] has no setting {unknown[0]!r}")
    source, fleet = table.get("source"), int(table.get("fleet", 24))
    if source == "village":
        if not MINIMUM_FLEET <= fleet <= VILLAGE_FLEET or set(table) & {"newcomers", "seed", "max_words"}:
            raise PenchantError(
                f"[people] the village has {VILLAGE_FLEET} fleet members and 6 newcomers: set only fleet, "
                f"from {MINIMUM_FLEET} to {VILLAGE_FLEET}"
            )
        return village_of(fleet)
    selection = Selection(max_words=int(table.get("max_words", 90)))
    newcomers, seed = int(table.get("newcomers", 0)), int(table.get("seed", 0))
    if source == "blogs":
        return load_blogs(data_folder(), people=fleet, newcomers=newcomers, seed=seed, selection=selection)
    if source == "novels":
        return load_novels(data_folder(), people=fleet, newcomers=newcomers, seed=seed, selection=selection)
    raise PenchantError("[people] source must be one of: village, blogs, novels")
