"""`penchant demo`: the main job end to end on the bundled model and the bundled village."""

from __future__ import annotations

from server.algorithms import PreferencePlan
from simulations.datasets.village import load_village
from simulations.experiments.settings import ExperimentSettings
from simulations.people import Person

BASES_ROUNDS = 2
VILLAGE_FLEET = 26


def village_of(people: int) -> list[Person]:
    """``people`` fleet members of the village and all its newcomers."""
    village = load_village()
    fleet = [person for person in village if person.role == "fleet"]
    return fleet[:people] + [person for person in village if person.role == "newcomer"]


def demo_settings(rounds: int) -> ExperimentSettings:
    """The demo's settings for ``rounds`` sums in all: the last two build the bases, the others the shared adapter."""
    return ExperimentSettings(
        title="The village", plan=PreferencePlan(shared_rounds=rounds - BASES_ROUNDS, bases_rounds=BASES_ROUNDS)
    )
