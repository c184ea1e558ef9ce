"""The parts of an audit: each runs some attacks and returns their findings, where it must succeed before where it must
fail. What each attack does is said in its own file (`simulations.attacks`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from protocol.accounting import Accountant, squared_gaussian_mu
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan, plan_task
from simulations.attacks.ceilings import Array, Ceiling
from simulations.attacks.finding import Estimate, Finding
from simulations.attacks.mechanism import FAULTS, audit_mechanism, one_run_audit
from simulations.attacks.poisoning import POISONS, poisoned_mean, unclipped_reach

Advance = Callable[[float], None]
ONE_RUN_CANARIES, ONE_RUN_DELTA = 1024, 1e-6
FAULTY_COHORT = 2  # people in a faulty sum, the fewest: a forgotten share of two shows, one of twenty hides


@dataclass(frozen=True)
class Effort:
    """How often things are repeated. ``rounds``: how many of the run's rounds the people's contributions are computed
    for (0: all)."""

    mechanism_runs: int
    people_runs: int
    shadow_fleets: int
    questions: int
    rounds: int
    texts: int
    adapters: int
    canaries: int


FULL = Effort(20_000, 1000, 4000, 2000, 0, 180, 6, 6)
QUICK = Effort(8_000, 400, 1000, 500, 1, 60, 0, 0)


def mechanism_findings(
    tasks: Sequence[RoundTask], effort: Effort, random: np.random.Generator, advance: Advance
) -> list[Finding]:
    """Canaries in the very rounds of the run, in one run, and in mechanisms that are broken on purpose; none for a run
    without noise, which promises nothing that a canary could disprove."""
    if min(task.noise_multiplier for task in tasks) == 0.0:
        return []
    steps = len(FAULTS) + 2
    faulty = [_small(tasks[0], seed) for seed in (1, 2)]
    findings = []
    for done, fault in enumerate(FAULTS):
        found = audit_mechanism(faulty, runs=effort.mechanism_runs, random=random, fault=fault)
        note = f"broken on purpose, {FAULTY_COHORT} people; caught if above the {found.epsilon_promised:.2f} promised"
        findings.append(
            Finding(
                "canary in the mechanism",
                f"fault: {fault}",
                "epsilon, at least",
                _at_least(found.epsilon_low, 2 * found.runs),
                0.0,
                needed=found.epsilon_promised * (1 + 1e-9),
                note=note,
            )
        )
        advance((done + 1) / steps)
    whole = audit_mechanism(tasks, runs=effort.mechanism_runs, random=random)
    findings.append(
        Finding(
            "canary in the mechanism",
            f"all {len(tasks)} released sums",
            "epsilon, at least",
            _at_least(whole.epsilon_low, 2 * whole.runs),
            0.0,
            ceiling=whole.epsilon_promised,
            note=f"delta {whole.delta:g}; without assuming a Gaussian curve at least {whole.epsilon_plain:.2f}",
        )
    )
    advance((steps - 1) / steps)
    wide = _wide(tasks[0])
    guesses, right, epsilon = one_run_audit(wide, random=random, guesses=0.1)
    findings.append(
        Finding(
            "canaries in one run",
            "one released sum",
            "epsilon, at least",
            _at_least(epsilon, ONE_RUN_CANARIES),
            0.0,
            ceiling=Ceilings.of([wide]).epsilon,
            note=f"delta {wide.delta:g}; {ONE_RUN_CANARIES} orthogonal canaries, {right} of {guesses} guesses right",
        )
    )
    advance(1.0)
    return findings


@dataclass(frozen=True)
class Ceilings:
    """What the releases of some tasks allow: ``person`` zeroed out, and ``pair``: one person against another (two
    steps between neighbours, twice the mu). ``epsilon`` at the tasks' delta."""

    person: Ceiling
    pair: Ceiling
    epsilon: float

    @staticmethod
    def of(tasks: Sequence[RoundTask]) -> Ceilings:
        """At the noise of the smallest cohort, as accounted."""
        events = [RoundPlan.of(task).privacy_event() for task in tasks]
        mu = math.sqrt(squared_gaussian_mu(events))
        return Ceilings(
            Ceiling.of_events(events), Ceiling.of_gaussian(2 * mu), Accountant(events).epsilon(tasks[0].delta)
        )


def poison_findings(
    task: RoundTask,
    members: Array,
    backdoor: Array,
    describe: Callable[[Array], str],
    poisoners: Sequence[int] = (1, 3),
) -> list[Finding]:
    """How far poisoned contributions among ``members`` (n, d) move the mean of a round, in units of C / n; ``describe``
    says what a shared adapter (d,) does to the texts."""
    findings = []
    for count in poisoners:
        for kind in POISONS:
            mean = poisoned_mean(members, task.clip_norm, count, kind, backdoor)
            unit = task.clip_norm / len(members)
            for clipped in (False, True):
                size = (mean.influence if clipped else mean.raw_influence) / unit
                kept = mean.kept if clipped else mean.raw_kept
                effect = describe(mean.clipped if clipped else mean.raw)
                findings.append(
                    row(
                        f"poisoner, {kind}, {count} of {len(members)}",
                        ("a mean without clip", "the clipped mean"),
                        "shift, C / n",
                        Estimate(size, size, size, size, 1),
                        0.0,
                        protected=clipped,
                        needed=2.0 * count,
                        ceiling=float(count),
                        note=f"{kept:+.2f} of the honest mean is left; {effect}",
                    )
                )
    reach = unclipped_reach(task)
    findings.append(
        Finding(
            f"poisoner with a changed app, 1 of {len(members)}",
            "behind its own mask, no clip",
            "shift, C / n",
            Estimate(reach, reach, reach, reach, 1),
            0.0,
            needed=2.0,
            note="nothing stops it: a mask hides what an enforced clip would have to see",
        )
    )
    return findings


def row(
    attack: str,
    where: tuple[str, str],
    metric: str,
    estimate: Estimate,
    chance: float,
    *,
    protected: bool,
    needed: float,
    ceiling: float,
    note: str = "",
) -> Finding:
    """One of a pair of findings: the same attack where nothing protects (``where[0]``, at least ``needed``) and where
    something does (``where[1]``, at most ``ceiling``)."""
    return Finding(
        attack,
        where[protected],
        metric,
        estimate,
        chance,
        needed=None if protected else needed,
        ceiling=ceiling if protected else None,
        note=note,
    )


def _at_least(epsilon: float, runs: int) -> Estimate:
    return Estimate(epsilon, epsilon, math.inf, epsilon, runs)


def _small(task: RoundTask, seed: int) -> RoundTask:
    """A round of the same mechanism and promise for the smallest cohort and few values."""
    return task_like(task, dimension=13, people=FAULTY_COHORT, seed=seed)


def _wide(task: RoundTask) -> RoundTask:
    """A round with room for many orthogonal canaries. The bound loses 2 m delta: read at a delta far below 1 / m."""
    wide = task_like(task, dimension=ONE_RUN_CANARIES, people=ONE_RUN_CANARIES, seed=3)
    return wide.model_copy(update={"delta": min(task.delta, ONE_RUN_DELTA)})


def task_like(task: RoundTask, *, dimension: int, people: int, seed: int) -> RoundTask:
    """A round of the same mechanism and promise with another length, for ``people`` of whom nobody may vanish."""
    return plan_task(
        run_id="audit",
        round=0,
        kind="shared",
        artefacts={},
        base_sha256=task.base_sha256,
        dimension=dimension,
        clip_norm=task.clip_norm,
        noise_multiplier=task.noise_multiplier,
        cohort_size=max(3, people),
        minimum_survivors=people,
        delta=task.delta,
        ring_bits=task.ring_bits,
        mechanism=task.mechanism,
        rotation_seed=seed,
        graph_seed=seed,
    )
