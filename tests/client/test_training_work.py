"""The gradients of a personal training, against the same computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from client.dp_sgd import PrivateSettings, example_gradients, noisy_mean, prepare_examples
from client.examples import Example, prepare_input
from client.local_training import evaluate_coordinates
from client.objectives.objective import Objective, Pair
from client.objectives.preference import pair_losses, prepare_pairs
from client.privacy_units import units_of
from client.torch_model import Batch, as_theta
from client.training_run import generator_of
from client.training_work import (
    ObjectivesWork,
    PrivateObjectivesWork,
    PrivateWork,
    TextSettings,
    TextWork,
    _Part,
)
from protocol.errors import PenchantError
from protocol.frames import Vector
from tests.client.framed_help import some_texts, some_theta, tiny_frame, tiny_model
from tests.client.objectives.objective_help import some_examples, some_pairs

SETTINGS = PrivateSettings(8.0, 1e-3, 3.0, 0.5, 0.5, 0.05)


def text_work(batch_size: int, kept_out: bool = False) -> TextWork:
    texts = some_texts()
    stop = texts[4:] if kept_out else []
    return TextWork(
        tiny_model(), tiny_frame(), texts[:4] if kept_out else texts, stop, TextSettings(3, batch_size), max_tokens=160
    )


def test_the_gradient_is_that_of_the_mean_over_tokens() -> None:
    model, frame, theta = tiny_model(), tiny_frame(), some_theta(3)
    batch = model.prepare(some_texts())
    model.set_frame(frame)
    point = as_theta(theta).requires_grad_(True)
    model.set_coordinates(frame, point)
    losses, tokens = model.losses(batch)
    (losses.sum() / tokens.sum()).backward()
    model.set_frame(None)
    assert point.grad is not None
    for rows in (99, 4, 1):
        assert np.allclose(text_work(6).gradient(theta, 0, 0, rows), point.grad[0].numpy(), rtol=1e-4, atol=1e-6)


def test_every_pass_takes_every_text_once_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    work, taken = text_work(4), list[list[int]]()
    rows = Batch.rows
    monkeypatch.setattr(Batch, "rows", lambda self, index: (taken[-1].extend(index.tolist()), rows(self, index))[1])
    assert work.steps == 6
    for step in range(work.steps):
        if step % 2 == 0:
            taken.append([])
        work.gradient(some_theta(), 0, step, 3)
    assert all(sorted(order) == list(range(6)) for order in taken) and len({tuple(order) for order in taken}) > 1


def test_the_texts_kept_out_are_asked_after_every_pass() -> None:
    work, theta = text_work(3, kept_out=True), some_theta(1)
    assert [work.check(theta, step) is None for step in (1, 2, 3, 4)] == [True, False, True, False]
    kept_out = tiny_model().prepare(some_texts()[4:])
    assert work.check(theta, 2) == evaluate_coordinates(tiny_model(), tiny_frame(), kept_out, theta)
    assert text_work(3).check(theta, 2) is None


def test_a_private_step_is_dp_sgds_on_the_numbers_of_its_seed() -> None:
    model, frame, theta = tiny_model(), tiny_frame(), some_theta(2)
    work = PrivateWork(model, frame, some_texts(), SETTINGS, 1.3, max_tokens=160)
    assert (work.steps, work.learning_rate, work.check(theta, 6)) == (6, 0.05, None)
    sizes = []
    for step in range(4):
        random = generator_of(11, step)
        sampled = np.flatnonzero(random.random(6) < 0.5)
        sizes.append(len(sampled))
        gradients = example_gradients(model, frame, prepare_examples(model, some_texts()), sampled, theta)
        expected = noisy_mean(gradients, 0.5, 1.3, 3.0, random)
        for rows in (16, 1):
            assert np.allclose(work.gradient(theta, 11, step, rows), expected, atol=1e-6)
    assert len(set(sizes)) > 1


def test_an_empty_sample_takes_its_noisy_step_too() -> None:
    rare = PrivateSettings(8.0, 1e-3, 1.0, 1e-9, 0.5, 0.05)
    work = PrivateWork(tiny_model(), tiny_frame(), some_texts(), rare, 1.0, max_tokens=160)
    moved = work.gradient(some_theta(), 0, 0, 16)
    assert moved.std() == pytest.approx(0.5 / (1e-9 * 6), rel=0.3)


def test_bfloat16_where_the_model_is_in_it() -> None:
    """The forward pass in bfloat16 gives the direction of float32."""
    theta = some_theta(4)
    half = TextWork(tiny_model(torch.bfloat16), tiny_frame(), some_texts(), [], TextSettings(1), max_tokens=160)
    exact, rounded = text_work(6).gradient(theta, 0, 0, 12), half.gradient(theta, 0, 0, 12)
    cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
    assert 0.98 < cosine < 1 and not np.array_equal(exact, rounded)


def mean_gradient(objective: Objective, theta: Vector) -> Vector:
    """Gradient of one objective's mean loss over all its items, by hand."""
    model, frame, point = tiny_model(), tiny_frame(), as_theta(theta).requires_grad_(True)
    if objective.pairs:
        start = np.zeros(frame.dimension)
        pairs = prepare_pairs(model, frame, objective.pairs, start, max_tokens=160)
        model.set_frame(frame)
        loss = pair_losses(model, frame, pairs, torch.arange(len(pairs)), point).mean()
    else:
        batch = model.prepare(prepare_input(objective.examples))
        model.set_frame(frame)
        model.set_coordinates(frame, point)
        losses, tokens = model.losses(batch)
        loss = losses.sum() / tokens.sum()
    loss.backward()
    model.set_frame(None)
    assert point.grad is not None
    return point.grad[0].double().numpy()


def three_objectives() -> list[Objective]:
    weighted = [
        replace(text, weights=tuple(np.linspace(0.5, 1.5, len(text.tokens) - text.prompt_length)))
        for text in some_examples(3, 1)
    ]
    return [
        Objective("next_token", some_examples(4)),
        Objective("influence", tuple(weighted), weight=0.5),
        Objective("preference", pairs=some_pairs(2), weight=2.0),
    ]


def objectives_work(objectives: list[Objective], batch_size: int) -> ObjectivesWork:
    return ObjectivesWork(tiny_model(), tiny_frame(), objectives, None, TextSettings(2, batch_size))


def test_objectives_add_up_with_their_weights() -> None:
    theta, objectives = some_theta(3), three_objectives()
    expected = sum(one.weight * mean_gradient(one, theta) for one in objectives)
    for rows in (99, 2, 1):
        assert np.allclose(objectives_work(objectives, 9).gradient(theta, 0, 0, rows), expected, rtol=1e-3, atol=1e-6)
    without = Objective("next_token", (Example((1, 2, 3), 2),), max_tokens=2)
    assert np.allclose(objectives_work([*objectives, without], 9).gradient(theta, 0, 0, 9), expected, atol=1e-6)
    with pytest.raises(PenchantError, match="no text"):
        objectives_work([without], 9)


def test_the_parts_of_a_pass_take_every_item_of_every_objective_once(monkeypatch: pytest.MonkeyPatch) -> None:
    objectives, taken = three_objectives(), dict[str, list[int]]()
    work = objectives_work(objectives, 3)
    assert work.steps == 4  # the four items of the largest objective, three at a time, twice
    monkeypatch.setattr(
        _Part,
        "mean_gradient",
        lambda self, chosen, theta, rows: taken.setdefault(self.objective.name, []).extend(chosen.tolist()) or theta,
    )
    for step in range(2):
        work.gradient(some_theta(), 0, step, 99)
    assert {name: sorted(order) for name, order in taken.items()} == {
        "next_token": [0, 1, 2, 3], "influence": [0, 1, 2], "preference": [0, 1],
    }  # fmt: skip


def test_a_pass_takes_the_next_telling(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[list[int]] = []
    work = objectives_work([Objective("turns", some_examples(7), tellings=(0, 0, 0, 1, 1, 1, 1))], 2)
    assert work.steps == 2 * 2  # the larger telling has four items, two at a time, twice
    kept = _Part.mean_gradient
    monkeypatch.setattr(
        _Part,
        "mean_gradient",
        lambda part, chosen, theta, rows: taken.append(chosen.tolist()) or kept(part, chosen, theta, rows),
    )
    for step in range(6):
        work.gradient(some_theta(), 0, step, 99)
    passes = [sorted(taken[place] + taken[place + 1]) for place in (0, 2, 4)]
    assert passes == [[0, 1, 2], [3, 4, 5, 6], [0, 1, 2]]


def test_in_order_the_oldest_come_first_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    work = objectives_work([Objective("conversation_questions", some_examples(6), in_order=True)], 2)
    monkeypatch.setattr(
        _Part, "mean_gradient", lambda self, chosen, theta, rows: taken.extend(chosen.tolist()) or theta
    )
    for step in range(work.steps):
        work.gradient(some_theta(), step, step, 99)
    assert taken == [*range(6), *range(6)]


def test_a_step_is_a_pure_function_of_theta_seed_and_step() -> None:
    work, theta = objectives_work(three_objectives(), 3), some_theta(2)
    first = [work.gradient(theta, 5, step, 4) for step in range(4)]
    again = objectives_work(three_objectives(), 3)
    for step in (3, 1, 0, 2):
        assert np.array_equal(again.gradient(theta, 5, step, 4), first[step])
    assert not np.array_equal(work.gradient(theta, 6, 0, 4), first[0])


def test_the_start_is_where_the_reference_values_of_pairs_are_taken() -> None:
    pairs, theta = [Objective("preference", pairs=some_pairs(2))], some_theta(4)
    here = ObjectivesWork(tiny_model(), tiny_frame(), pairs, None, TextSettings(1), start=theta)
    there = ObjectivesWork(tiny_model(), tiny_frame(), pairs, None, TextSettings(1))
    assert not np.allclose(here.gradient(theta, 0, 0, 9), there.gradient(theta, 0, 0, 9), atol=1e-6)


def test_objectives_are_private_item_by_item() -> None:
    """Every clipped gradient is that of one example or pair alone: none changes when another item goes."""
    theta, everything = some_theta(2), PrivateSettings(8.0, 1e-3, 3.0, 1.0, 1e9, 0.05)
    private = [Objective("next_token", some_examples(3)), Objective("preference", pairs=some_pairs(2), weight=2.0)]

    def total(objectives: list[Objective]) -> Vector:
        work = PrivateObjectivesWork(tiny_model(), tiny_frame(), objectives, everything, 0.0)
        return work.gradient(theta, 0, 0, 4) * sum(map(len, objectives))

    whole = total(private)
    alone = [replace(private[0], examples=(text,)) for text in private[0].examples]
    alone += [replace(private[1], pairs=(pair,)) for pair in private[1].pairs]
    assert np.allclose(whole, sum(total([one]) for one in alone), rtol=1e-4, atol=1e-6)
    assert np.allclose(
        total(alone[-1:]), 2 * mean_gradient(replace(alone[-1], weight=1.0), theta), rtol=1e-3, atol=1e-6
    )


def test_units_are_clipped_as_one() -> None:
    theta, settings = some_theta(2), PrivateSettings(8.0, 1e-3, 3.0, 1.0, 0.01, 0.05)
    objectives = [Objective("next_token", some_examples(3)), Objective("preference", pairs=some_pairs(1))]
    units = units_of(["a", "b", "a", "b"])
    work = PrivateObjectivesWork(tiny_model(), tiny_frame(), objectives, settings, 0.0, units=units)
    free = PrivateSettings(8.0, 1e-3, 3.0, 1.0, 1e9, 0.05)

    def sum_of(examples: tuple[Example, ...], pairs: tuple[Pair, ...]) -> Vector:
        parts = [Objective("next_token", examples), Objective("preference", pairs=pairs)]
        return PrivateObjectivesWork(tiny_model(), tiny_frame(), parts, free, 0.0).gradient(theta, 0, 0, 9) * 2

    examples, pairs = objectives[0].examples, objectives[1].pairs
    both = [sum_of((examples[0], examples[2]), ()), sum_of(examples[1:2], pairs)]
    expected = sum(one * min(1, 0.01 / np.linalg.norm(one)) for one in both) / 2
    assert np.allclose(work.gradient(theta, 0, 0, 9), expected, rtol=1e-3, atol=1e-7)
    with pytest.raises(PenchantError, match="one unit"):
        PrivateObjectivesWork(tiny_model(), tiny_frame(), objectives, settings, 0.0, units=units_of(["a"]))


def test_a_private_run_refuses_what_is_not_per_text() -> None:
    with pytest.raises(PenchantError, match="grounded"):
        PrivateObjectivesWork(tiny_model(), tiny_frame(), [Objective("grounded", some_examples(2))], SETTINGS, 1.0)
    nothing_left = [Objective("preference", pairs=some_pairs(2), max_tokens=2)]
    assert (
        not PrivateObjectivesWork(tiny_model(), tiny_frame(), nothing_left, SETTINGS, 0.0)
        .gradient(some_theta(), 0, 0, 4)
        .any()
    )
