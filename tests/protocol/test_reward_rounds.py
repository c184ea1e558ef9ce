from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protocol.bank import Bank
from protocol.errors import ProtocolError
from protocol.messages import RoundTask
from protocol.reward_model import ChoiceBatch, Choices, choice_nll, fit_weights_batch
from protocol.reward_rounds import (
    STRENGTHS,
    RewardWorkOrder,
    Work,
    clip_rows,
    contribution,
    first_directions,
    trained_on,
    triangle,
    untriangle,
)
from protocol.round_plan import plan_task

SPACE, K, COUNT = "a" * 64, 5, 2
WHITENING = np.diag(np.linspace(0.5, 2.0, K)) + 0.2
WORKS: tuple[Work, ...] = ("scales", "shared", "moments", "gradient", "choice")


def order_of(work: Work, held_out: float = 0.25, clip_norm: float = 0.5, dimension: int = K) -> RewardWorkOrder:
    return RewardWorkOrder(work, dimension, COUNT if work in ("gradient", "choice") else 0, clip_norm, held_out)


def some_bank(order: RewardWorkOrder, tie_width: float = 0.2) -> Bank:
    random = np.random.default_rng(0)
    rows = random.normal(size=(order.count, order.dimension))
    shared = random.normal(size=order.dimension)
    return Bank("reward", SPACE, shared, rows, np.ones(order.count), np.zeros((0, order.count)), tie_width)


def person(count: int, seed: int, size: float = 1.0, dimension: int = K) -> Choices:
    random = np.random.default_rng(seed)
    outcomes = random.choice([0.0, 0.5, 1.0], p=[0.4, 0.2, 0.4], size=count)
    return Choices(size * random.normal(size=(count, dimension)), outcomes)


def task_of(order: RewardWorkOrder) -> RoundTask:
    return plan_task(
        run_id="test", round=0, kind="bases", space="reward", artefacts={}, base_sha256=SPACE, dimension=order.length,
        clip_norm=order.clip_norm, noise_multiplier=1.0, cohort_size=8, minimum_survivors=6, delta=1e-5,
        settings=order.settings,
    )  # fmt: skip


@pytest.mark.parametrize("work", WORKS)
def test_nobody_adds_more_than_the_clip_norm_whatever_they_chose(work: Work) -> None:
    order = order_of(work)
    people = [person(count, seed=count, size=size) for count in (1, 2, 9, 60) for size in (1e-6, 1.0, 1e6)]
    people.append(Choices(np.zeros((4, K)), np.ones(4)))
    given = contribution(ChoiceBatch.of(people), order, some_bank(order), 0.5 * np.eye(K))
    assert given.vectors.shape == (len(people), order.length) and np.isfinite(given.vectors).all()
    assert np.linalg.norm(given.vectors, axis=1).max() <= order.clip_norm * (1 + 1e-12)
    assert given.vectors.any()


@pytest.mark.parametrize("work", WORKS)
def test_a_person_without_choices_adds_nothing_and_a_batch_is_the_people_one_by_one(work: Work) -> None:
    order = order_of(work)
    bank, whitening = some_bank(order), WHITENING
    people = [person(count, seed=count) for count in (0, 3, 8, 20)]
    together = contribution(ChoiceBatch.of(people), order, bank, whitening)
    assert not together.vectors[0].any() and together.counts[0] == 0 and together.loss[0] == 0.0
    for row, choices in enumerate(people):
        alone = contribution(ChoiceBatch.of([choices]), order, bank, whitening)
        assert np.allclose(alone.vectors[0], together.vectors[row], atol=1e-9)
        assert alone.loss[0] == pytest.approx(together.loss[row])


def test_the_newest_quarter_is_held_out_and_does_not_touch_training() -> None:
    people = ChoiceBatch.of([person(count, seed=count) for count in (0, 1, 2, 4, 20)])
    assert trained_on(people, 0.25).sum(1).tolist() == [0, 1, 1, 3, 15]
    assert trained_on(people, 0.0).sum(1).tolist() == [0, 1, 2, 4, 20]
    assert trained_on(people, 0.25)[4].tolist() == [True] * 15 + [False] * 5
    order, choices = order_of("gradient"), person(20, seed=7)
    changed = Choices(choices.differences.copy(), choices.outcomes.copy())
    changed.differences[15:] += 9.0
    bank, whitening = some_bank(order), np.eye(K)
    before, after = (contribution(ChoiceBatch.of([one]), order, bank, whitening).vectors for one in (choices, changed))
    assert np.array_equal(before, after)
    final = replace(order, held_out=0.0)
    before, after = (contribution(ChoiceBatch.of([one]), final, bank, whitening).vectors for one in (choices, changed))
    assert not np.allclose(before, after)


def test_the_gradient_is_that_of_the_marginal_likelihood() -> None:
    """Numerical integration over the weight, for one direction: shared and direction rows, up to the person's size."""
    choices, size = person(30, seed=3, dimension=3), 0.7
    shared, row = np.array([0.4, -0.3, 0.2]), np.array([0.5, 0.9, -0.4])
    grid = np.linspace(-8, 8, 4001)

    def marginal(theta: np.ndarray) -> float:
        rewards = choices.differences @ theta[:3] + np.outer(grid, choices.differences @ theta[3:])
        log_joint = -choice_nll(rewards, choices.outcomes, size).sum(1) - grid**2 / 2
        return float(np.log(np.exp(log_joint - log_joint.max()).sum()) + log_joint.max())

    theta, step = np.concatenate([shared, row]), 1e-5
    wanted = np.array([(marginal(theta + step * e) - marginal(theta - step * e)) / (2 * step) for e in np.eye(6)])
    order = RewardWorkOrder("gradient", 3, 1, 1e3, 0.0)
    bank = Bank("reward", SPACE, shared, row[None], np.ones(1), np.zeros((0, 1)), size)
    vector = contribution(ChoiceBatch.of([choices]), order, bank, np.eye(3)).vectors[0]
    found = vector[:6] * np.sqrt(np.square(choices.differences).sum())
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)  # Laplace's approximation
    at_mode = fit_weights_batch(ChoiceBatch.of([choices]), bank).weights[0, 0]
    assert np.linalg.norm(found[3:] - at_mode * found[:3]) > 0.2 * np.linalg.norm(wanted)  # the second term counts


def test_the_whitening_undoes_what_the_features_are_made_with() -> None:
    choices = person(12, seed=1)
    order = order_of("gradient")
    bank = some_bank(order)
    made, undone = np.linalg.inv(WHITENING), WHITENING
    other = Choices(choices.differences @ made, choices.outcomes)
    moved = replace(bank, shared=undone @ bank.shared, directions=bank.directions @ undone)
    one = contribution(ChoiceBatch.of([choices]), order, bank, np.eye(K)).vectors
    two = contribution(ChoiceBatch.of([other]), order, moved, undone).vectors
    assert np.allclose(one, two)


def test_moments_have_no_bias_from_choices_made_at_random() -> None:
    """Over all outcomes of four fair choices the mean vanishes exactly; the plain outer product's does not."""
    x = np.random.default_rng(2).normal(size=(4, K))
    every = [Choices(x, np.array([(code >> i) & 1 for i in range(4)], dtype=float)) for code in range(16)]
    order = order_of("moments", held_out=0.0, clip_norm=100.0)
    bank = Bank.of_shared("reward", SPACE, np.zeros(K))
    vectors = contribution(ChoiceBatch.of(every), order, bank, np.eye(K)).vectors
    assert np.abs(vectors).max() > 0.1 and np.allclose(vectors.mean(0), 0.0, atol=1e-12)


def test_moments_point_where_people_differ() -> None:
    random = np.random.default_rng(4)
    axis = np.array([0.6, 0.0, 0.8, 0.0, 0.0])
    people = []
    for taste in random.normal(size=200):
        x = random.normal(size=(20, K))
        people.append(Choices(x, (random.random(20) < 1 / (1 + np.exp(-3 * taste * (x @ axis)))).astype(float)))
    order = order_of("moments", held_out=0.0)
    given = contribution(ChoiceBatch.of(people), order, Bank.of_shared("reward", SPACE, np.zeros(K)), np.eye(K))
    values, vectors = np.linalg.eigh(untriangle(given.vectors.mean(0), K))
    assert abs(vectors[:, -1] @ axis) > 0.99 and values[-1] > 5 * abs(values[-2])


def test_a_gain_is_what_the_weights_save_on_held_out_choices() -> None:
    order, choices = order_of("choice", clip_norm=1e3), person(20, seed=5)
    bank = some_bank(order)
    vector = contribution(ChoiceBatch.of([choices]), order, bank, np.eye(K)).vectors[0]
    old, new = choices.part(slice(0, 15)), choices.part(slice(15, 20))
    expected = []
    for strength in STRENGTHS:
        for count in (1, 2):
            candidate = first_directions(bank, count, strength)
            weights = fit_weights_batch(ChoiceBatch.of([old]), candidate).weights[0]
            losses = [
                choice_nll(new.differences @ taste, new.outcomes, bank.tie_width).mean()
                for taste in (bank.shared, candidate.mix(weights))
            ]
            expected.append(losses[0] - losses[1])
    assert np.allclose(vector, expected)


def test_triangles_keep_norms_and_come_back() -> None:
    matrix = np.random.default_rng(0).normal(size=(4, 4))
    matrix = matrix + matrix.T
    packed = triangle(matrix[None])[0]
    assert np.allclose(untriangle(packed, 4), matrix)
    assert np.linalg.norm(packed) == pytest.approx(np.linalg.norm(matrix))
    assert np.allclose(clip_rows(np.array([[np.nan, 1.0], [3.0, 4.0]]), 1.0), [[0.0, 0.0], [0.6, 0.8]])


def test_an_order_is_what_its_task_says_and_nothing_else_is_accepted() -> None:
    for work in WORKS:
        order = order_of(work)
        task = task_of(order)
        assert RewardWorkOrder.of(task, K) == order
        assert RoundTask.from_bytes(task.to_bytes()).space == "reward"
    wrong: list[dict[str, object]] = [
        {"space": "adapter"},
        {"dimension": task.dimension + 1},
        {"settings": {**task.settings, "work": "else"}},
        {"settings": {**task.settings, "more": 1}},
        {"settings": {**task.settings, "held_out": 1.0}},
        {"settings": {}},
    ]
    for change in wrong:
        with pytest.raises(ProtocolError):
            RewardWorkOrder.of(task.model_copy(update=change), K)
    order = order_of("gradient")
    with pytest.raises(ProtocolError, match="do not fit"):
        contribution(ChoiceBatch.of([person(3, 0)]), order, some_bank(order_of("shared")), np.eye(K))
