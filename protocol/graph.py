"""Who shares secrets with whom: a k-regular graph over the cohort (Bell et al. 2020, sections 3.3 and 3.5).

The graph is a Harary graph under a random permutation: devices stand on a circle in random order, each is a
neighbour of the k/2 before and the k/2 after it. Up to `COMPLETE_UP_TO` devices everybody is everybody's
neighbour.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from protocol.errors import ProtocolError
from protocol.masks import keystream

COMPLETE_UP_TO = 64
MINIMUM_THRESHOLD = 2


def quorum(count: int) -> int:
    """The fewest of `count` devices of which two sets share more than a tenth of all: floor(11 count / 20) + 1.

    With at most a tenth colluding, what two quorums did, one honest device did twice (see `survivor_list`).
    """
    return 11 * count // 20 + 1


@dataclass(frozen=True)
class Graph:
    """Neighbour graph over indices 0 .. size-1. Build it with `Graph.over`."""

    size: int
    seed: bytes
    degree: int
    threshold: int

    @staticmethod
    def over(size: int, *, seed: bytes, degree: int, threshold: int) -> "Graph":
        """The graph of a roster of `size` devices, given the degree and threshold planned for a full cohort.

        A smaller roster keeps the planned ratio threshold / degree. `seed`: 32 public bytes.
        Raises ProtocolError if a threshold of at least 2 is impossible.
        """
        fitting = min(degree, size - 1)
        if fitting < size - 1:
            fitting -= fitting % 2  # the circle gives even degrees
        scaled = max(MINIMUM_THRESHOLD, threshold * fitting // max(degree, 1))
        if scaled > fitting:
            raise ProtocolError(f"{size} devices are too few to share secrets among; at least 3 are needed")
        return Graph(size=size, seed=seed, degree=fitting, threshold=scaled)

    @property
    def needs_confirmation(self) -> bool:
        """Whether survivors must sign the list of survivors before anybody reveals a share (see `survivor_list`)."""
        return self.threshold < quorum(self.degree)

    @cached_property
    def _circle(self) -> tuple[list[int], list[int]]:
        """(device at each place, place of each device): devices sorted by a keystream, the same on every
        machine."""
        draws = np.frombuffer(keystream(self.seed, "graph", 8 * self.size), dtype="<u8")
        order = np.argsort(draws, kind="stable")
        return order.tolist(), np.argsort(order, kind="stable").tolist()

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Ascending indices of the `degree` devices that hold shares of device `index` (and it of them)."""
        if not 0 <= index < self.size:
            raise ProtocolError("no such device in the roster")
        if self.degree == self.size - 1:
            return tuple(other for other in range(self.size) if other != index)
        device_at, place_of = self._circle
        place, half = place_of[index], self.degree // 2
        steps = (*range(-half, 0), *range(1, half + 1))
        return tuple(sorted(device_at[(place + step) % self.size] for step in steps))


@dataclass(frozen=True)
class GraphPlan:
    """Degree and threshold for a cohort, and what they guarantee.

    `survivors_needed` is the smallest number of devices for which everybody's secrets can be recovered (with
    probability 1 - abort_probability for a sparse graph). `threshold` - 1 colluding neighbours learn nothing.
    """

    cohort_size: int
    degree: int
    threshold: int
    survivors_needed: int
    abort_probability: float
    leak_probability: float


def plan_graph(
    cohort_size: int,
    dropout_fraction: float = 1 / 3,
    *,
    vanishing_stages: int = 2,
    colluding_fraction: float = 0.1,
    abort_probability: float = 1e-6,
    leak_probability: float = 2.0**-40,
) -> GraphPlan:
    """The smallest degree, and for it the largest threshold, with which `dropout_fraction` of the devices
    still there may vanish at each of `vanishing_stages` stages after the roster stands (sharing, collecting,
    unmasking).

    Small cohorts get the complete graph: recovery is then certain. Otherwise, with n devices, m left at the
    end, c = colluding_fraction * n with the server, r = 1 - (m - c) / n, dropouts independent of the graph's
    seed, and H(n, m, k) hypergeometric (k draws out of n of which m are marked), union bounds give
        abort  <= n P[H(n-1, m-1, k) < t]                  somebody keeps fewer than t neighbours; nothing is
        learnt
        leak   <= n P[H(n-1, c, k) >= t] + n^2/2 r^k       t colluding neighbours, or the honest survivors'
        circle cut
                                                           at two places by k/2 devices in a row that are gone
                                                           or collude
    Raises ProtocolError for a cohort below 3 or fractions outside [0, 1).
    """
    if cohort_size < 3 or not 0.0 <= dropout_fraction < 1.0 or not 0.0 <= colluding_fraction < 1.0:
        raise ProtocolError("a cohort has at least 3 devices, and fractions lie in [0, 1)")
    left = cohort_size
    for _ in range(vanishing_stages):
        left -= math.floor(left * dropout_fraction)
    if cohort_size > COMPLETE_UP_TO:
        colluders = math.floor(colluding_fraction * cohort_size)
        gone = 1.0 - max(left - colluders, 0) / cohort_size
        for degree in range(2, cohort_size - 1, 2):
            threshold = _largest_threshold(cohort_size, left, degree, abort_probability)
            if threshold < MINIMUM_THRESHOLD or 4 * threshold < degree:
                continue
            leak = cohort_size * _upper_tail(cohort_size - 1, colluders, degree, threshold)
            leak += cohort_size**2 / 2 * gone**degree
            if leak <= leak_probability:
                abort = cohort_size * _lower_tail(cohort_size - 1, left - 1, degree, threshold)
                return GraphPlan(cohort_size, degree, threshold, left, abort, leak)
    degree = cohort_size - 1
    # A survivor's secret is rebuilt by the other left - 1. A quarter of the neighbours is the least that
    # devices allow.
    threshold = max(MINIMUM_THRESHOLD, left - 1, -(-degree // 4))
    leak = 0.0 if math.floor(colluding_fraction * cohort_size) < threshold else 1.0
    return GraphPlan(cohort_size, degree, threshold, threshold + 1, 0.0, leak)


def _largest_threshold(cohort_size: int, left: int, degree: int, abort_probability: float) -> int:
    """Largest t with n P[H < t] <= abort_probability."""
    cumulative, threshold = 0.0, 0
    while threshold <= degree:
        cumulative += _hypergeometric(cohort_size - 1, left - 1, degree, threshold)
        if cohort_size * cumulative > abort_probability:
            break
        threshold += 1
    return threshold


def _lower_tail(population: int, marked: int, draws: int, below: int) -> float:
    return sum(_hypergeometric(population, marked, draws, count) for count in range(below))


def _upper_tail(population: int, marked: int, draws: int, least: int) -> float:
    return sum(_hypergeometric(population, marked, draws, count) for count in range(least, draws + 1))


def _hypergeometric(population: int, marked: int, draws: int, count: int) -> float:
    """P[count marked among `draws` drawn without replacement]."""
    if not max(0, draws - (population - marked)) <= count <= min(draws, marked):
        return 0.0
    return math.exp(
        _log_choose(marked, count) + _log_choose(population - marked, draws - count) - _log_choose(population, draws)
    )


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
