"""`penchant bench fleet`: people per second of a simulated fleet, ours against pfl 0.6 and Flower's simulation engine.

The same networks from the same start, the same people and cohort size, one SGD step on ten examples each, every
person's update clipped to the same norm, Gaussian noise of the same size on the sum. Rounds are taken in turns (ours,
then the peer's), so that what else the machine does hits both; the first round of each is not counted. Ours and pfl
have one thread, Flower has every processor. A short run without noise, everybody in every round, shows that all sides
compute the same: ``agreement`` is the largest difference between two trained numbers over the largest change of one.

Each peer lives in an environment of its own (``simulations.fleets.peers``), made on the first run: pfl 0.6 pins an
older dp-accounting. The language model's case: ``simulations.bench.fleet_language``; memory by population:
``simulations.bench.fleet_memory``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from simulations.bench.case import Case
from simulations.bench.fleet_language import language_model_case
from simulations.bench.fleet_memory import memory_cases
from simulations.bench.fleet_turns import Rival, in_turns
from simulations.bench.runner import OnProgress
from simulations.fleets.fleet import FleetPlan
from simulations.fleets.peers.peer import python_with, same_as_here
from simulations.fleets.small_networks import LocalSteps, Network, NetworkLearner, write_population

INPUTS, CLASSES, EXAMPLES, RATE, CLIP_NORM, NOISE_MULTIPLIER = 32, 10, 10, 0.1, 1.0, 1.0
POPULATION, COHORT, SEED = 1000, 50, 0
NETWORKS: Final[Mapping[str, Network]] = {
    "44k": Network((INPUTS, 1024, CLASSES)),  # 44,042
    "1m": Network((INPUTS, 1024, 1024, CLASSES)),  # 1,093,642
}
SAME_ROUNDS, SAME_PEOPLE = 2, 20
DELTA: Final = 1e-5


PFL: Final = Rival("pfl 0.6", "pfl_side.py", "pfl==0.6.0", 20)
FLOWER: Final = Rival("Flower's simulation engine", "flower_side.py", "flwr[simulation]==1.41.0", 6)
_LANGUAGE_MODEL: Final = ("torch", "transformers", "gguf", "accelerate", "safetensors")


def run(on_progress: OnProgress) -> dict[str, Case]:
    """All cases."""
    environments = []
    for key, rival, packages in (("pfl", PFL, _LANGUAGE_MODEL), ("flower", FLOWER, ("torch",))):
        on_progress(f"environment of {rival.name}", 0.0)
        environments.append(python_with(key, [rival.requirement, *same_as_here(*packages)]))
        on_progress(f"environment of {rival.name}", 1.0)
    pfl, flower = environments
    cases: dict[str, Case] = {}
    for size, network in NETWORKS.items():
        for key, rival, python in (("pfl", PFL, pfl), ("flower", FLOWER, flower)):
            cases[f"{size}_{key}"] = network_case(network, rival, python, on_progress)
    cases |= memory_cases(NETWORKS["44k"], COHORT, on_progress)
    cases |= language_model_case(PFL, pfl, on_progress)
    return cases


def network_case(network: Network, rival: Rival, python: Path, on_progress: OnProgress) -> Case:
    """People per second of both, and how far they agree."""
    stage = f"{network.dimension:,} numbers, {rival.name}"
    with tempfile.TemporaryDirectory() as folder:
        people = Path(folder)
        write_population(people, people=POPULATION, examples=EXAMPLES, inputs=INPUTS, classes=CLASSES, seed=SEED)
        learner = NetworkLearner(network, people, LocalSteps(1, RATE))
        start = network.start(SEED).astype(np.float32).astype(np.float64)
        task = {
            "task": "network",
            "widths": network.widths,
            "optimiser": "sgd",
            "rate": learner.steps.rate,
            "epochs": learner.steps.count,
            "batch_size": None,
            "workers": os.cpu_count() or 1,
        }
        same = FleetPlan(SAME_PEOPLE, SAME_PEOPLE, SAME_ROUNDS, CLIP_NORM, 0.0, "fixed", seed=SEED)
        agreement = in_turns(same, learner, start, rival, python, people, task).difference(start)
        timed = FleetPlan(POPULATION, COHORT, rival.rounds + 1, CLIP_NORM, NOISE_MULTIPLIER, "fixed", seed=SEED)
        turns = in_turns(timed, learner, start, rival, python, people, task, lambda part: on_progress(stage, part))
    more = {
        "numbers": network.dimension,
        "population": POPULATION,
        "cohort": COHORT,
        "agreement": agreement,
        "ours_seconds": turns.ours,
        "peer_seconds": turns.peers,
        "epsilon": timed.epsilon(DELTA),
        "peer_version": rival.requirement,
    }
    return Case(*turns.rates(COHORT), "people/s", more)
