"""The gradients of a personal training, against the same computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.dp_sgd import PrivateSettings, example_gradients, noisy_mean, prepare_examples
from client.local_training import evaluate_coordinates
from client.torch_model import as_theta
from client.training_run import generator_of
from client.training_work import PrivateWork, TextSettings, TextWork
from tests.client.framed_help import some_texts, some_theta, tiny_frame, tiny_model

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
    rows = work._batch.rows
    monkeypatch.setattr(
        type(work._batch), "rows", lambda self, index: (taken[-1].extend(index.tolist()), rows(index))[1]
    )
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
