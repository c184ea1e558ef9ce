"""A small made-up population for the tests of fleets."""

from __future__ import annotations

from pathlib import Path

from simulations.fleets.small_networks import LocalSteps, Network, NetworkLearner, write_population

NETWORK = Network((6, 9, 7, 4))


class BlocksOfThree(NetworkLearner):
    """A learner whose blocks are so small that a cohort has several."""

    people_at_once = 3


def learner_in(folder: Path, *, people: int = 40, steps: LocalSteps | None = None) -> NetworkLearner:
    write_population(folder, people=people, examples=5, inputs=6, classes=4, seed=3)
    return BlocksOfThree(NETWORK, folder, steps or LocalSteps(1, 0.5))
