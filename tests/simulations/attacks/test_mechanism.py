from __future__ import annotations

import numpy as np
import pytest

from protocol.accounting import Accountant
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan, plan_task
from simulations.attacks.mechanism import FAULTS, Fault, audit_mechanism, one_run_audit


def small_task(seed: int, *, dimension: int = 13, people: int = 3, mechanism: str = "skellam") -> RoundTask:
    return plan_task(
        run_id="audit",
        round=0,
        kind="shared",
        artefacts={},
        base_sha256="0" * 64,
        dimension=dimension,
        clip_norm=0.6,
        noise_multiplier=1.5,
        cohort_size=people,
        minimum_survivors=people,
        delta=1e-5,
        mechanism=mechanism,  # type: ignore[arg-type]
        rotation_seed=seed,
        graph_seed=seed,
    )


TASKS = [small_task(1), small_task(2)]


@pytest.mark.parametrize("mechanism", ["skellam", "discrete_gaussian"])
def test_the_mechanism_keeps_its_promise_and_the_audit_comes_close(mechanism: str) -> None:
    tasks = [small_task(seed, mechanism=mechanism) for seed in (1, 2)]
    found = audit_mechanism(tasks, runs=5000, random=np.random.default_rng(0))
    assert found.epsilon_promised == Accountant([RoundPlan.of(task).privacy_event() for task in tasks]).epsilon(1e-5)
    assert 0.6 * found.mu_promised < found.mu_low < found.mu_promised and not found.broken
    assert 0.5 < found.epsilon_plain < found.epsilon_promised


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_mechanism_is_caught(fault: Fault) -> None:
    found = audit_mechanism(TASKS, runs=8000, random=np.random.default_rng(1), fault=fault)
    assert found.broken and found.epsilon_low > found.epsilon_promised
    assert found.score == ("difference" if fault == "noise reused" else "sums")


def test_one_run_proves_something_and_not_too_much() -> None:
    task = small_task(1, dimension=512, people=512)
    guesses, right, epsilon = one_run_audit(task, random=np.random.default_rng(2), guesses=0.1)
    promised = Accountant([RoundPlan.of(task).privacy_event()]).epsilon(1e-5)
    assert guesses == 52 and right > 35
    assert 0.3 < epsilon < promised


def test_one_run_without_noise_is_a_complete_disclosure() -> None:
    task = small_task(1, dimension=256, people=256).model_copy(update={"noise_multiplier": 0.0})
    guesses, right, epsilon = one_run_audit(task, random=np.random.default_rng(3), guesses=0.5)
    assert right == guesses and epsilon > 3.5
