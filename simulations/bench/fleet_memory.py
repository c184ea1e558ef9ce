"""Peak memory of a fleet by the size of its population, with cohorts of one size: a fresh process for each.

``python -m simulations.bench.fleet_memory FOLDER WIDTHS PEOPLE COHORT`` is that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from protocol.errors import PenchantError
from simulations.bench.case import Case
from simulations.bench.runner import OnProgress
from simulations.fleets.fleet import FleetPlan, train_fleet
from simulations.fleets.memory import peak_memory
from simulations.fleets.small_networks import LocalSteps, Network, NetworkLearner, write_population

POPULATIONS: Final = {"memory_1k": 1_000, "memory_100k": 100_000}
EXAMPLES, ROUNDS, SEED = 10, 10, 0


def memory_cases(network: Network, cohort: int, on_progress: OnProgress) -> dict[str, Case]:
    """Megabytes at most while ``ROUNDS`` rounds are trained; the data of the larger population are 136 MB of files."""
    cases = {}
    for name, population in POPULATIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_population(
                Path(folder),
                people=population,
                examples=EXAMPLES,
                inputs=network.widths[0],
                classes=network.widths[-1],
                seed=SEED,
            )
            done = subprocess.run(
                [sys.executable, "-m", __name__, folder, json.dumps(network.widths), str(population), str(cohort)],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise PenchantError("the process whose memory is measured failed: is there enough of it?")
        cases[name] = Case(float(done.stdout), None, "MB", {"population": population, "cohort": cohort})
        on_progress(f"memory of {population:,} people", 1.0)
    return cases


def main(folder: str, widths: str, population: str, cohort: str) -> None:
    """Train and print the peak."""
    network = Network(tuple(json.loads(widths)))
    plan = FleetPlan(int(population), int(cohort), ROUNDS, 1.0, 1.0, "fixed", seed=SEED)
    learner = NetworkLearner(network, Path(folder), LocalSteps())
    train_fleet(plan, learner, network.start(SEED))
    print(peak_memory())


if __name__ == "__main__":
    main(*sys.argv[1:])
