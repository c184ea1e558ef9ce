from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import client.torch_model
from client import dp_sgd
from client.dp_sgd import (
    PrivateExamples,
    PrivateSettings,
    clipped_sum,
    epsilon_spent,
    example_gradients,
    noise_multiplier_for,
    noisy_mean,
    poisson_sample,
    prepare_examples,
    train_privately,
)
from client.output_words import public_words
from client.torch_model import TorchModel, as_theta
from protocol.errors import PenchantError
from tests.client.framed_help import (
    TOP_LAYERS,
    hugging_face_name,
    plain_model,
    some_texts,
    some_theta,
    tiny_frame,
    tiny_model,
)

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")
pytest.importorskip("opacus", reason="private training needs opacus: pip install 'penchant[train]'")

SETTINGS = PrivateSettings(
    epsilon=8.0, delta=1e-3, epochs=1.0, sampling_rate=0.25, clip_norm=0.5, learning_rate=0.1, optimiser="sgd"
)


class _Middle(nn.Module):
    """W x + U (R (V x)) with R an ordinary linear layer, the form whose per-sample gradient Opacus knows."""

    def __init__(self, base: nn.Linear, u: np.ndarray, r: np.ndarray, v: np.ndarray, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.down = nn.Linear(v.shape[1], v.shape[0], bias=False)
        self.core = nn.Linear(v.shape[0], v.shape[0], bias=False)
        self.up = nn.Linear(v.shape[0], u.shape[0], bias=False)
        for layer, value in ((self.down, v), (self.core, r), (self.up, u)):
            layer.weight = nn.Parameter(torch.from_numpy(value.astype(np.float32)), requires_grad=False)
        self.core.weight.requires_grad_(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x) + self.scale * self.up(self.core(self.down(x)))
        return out


class _Loss(nn.Module):
    """Mean loss per target token of each example of a prepared batch, (b,)."""

    def __init__(self, framed: TorchModel, network: nn.Module, batch: Any) -> None:
        super().__init__()
        self.network, self.framed, self.batch = network, [framed], batch

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        summed, tokens = self.framed[0].losses(self.batch.rows(index))
        return summed / tokens


def opacus_gradients(theta: np.ndarray, batch: Any, count: int) -> np.ndarray:
    """Per-sample gradients of every R by Opacus's hooks: (count, d)."""
    from opacus import GradSampleModule

    frame, plain = tiny_frame(), plain_model()
    plain.requires_grad_(False)
    cores = []
    for position, name in enumerate(frame.modules):
        place = hugging_face_name(name)
        parent = plain.get_submodule(place.rsplit(".", 1)[0])
        r = frame.coordinates(theta)[position]
        middle = _Middle(plain.get_submodule(place), frame.left[position], r, frame.right[position], frame.scale)
        setattr(parent, place.rsplit(".", 1)[1], middle)
        cores.append(middle.core)
    framed = TorchModel(plain, TOP_LAYERS)  # freezes everything, so the cores are thawed again
    for core in cores:
        core.train().weight.requires_grad_(True)
    wrapped = GradSampleModule(_Loss(framed, plain, batch), loss_reduction="sum", strict=False)
    wrapped(torch.arange(count)).sum().backward()
    return np.stack([core.weight.grad_sample.numpy() for core in cores], 1).reshape(count, -1)  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [0.0, 0.1])
def test_per_example_gradients_are_those_of_opacus(size: float) -> None:
    texts, theta = some_texts(5), some_theta(4, size=size)
    examples = prepare_examples(tiny_model(), texts)
    ours = example_gradients(tiny_model(), tiny_frame(), examples, np.arange(5), theta)
    theirs = opacus_gradients(theta, examples.batch, 5)
    assert np.abs(theirs).max() > 1e-2
    error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    assert error.max() < 1e-4
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_per_example_gradients_are_those_of_the_full_vocabulary_at_the_base() -> None:
    # The restricted output layer with each example's own words has the exact gradient where training starts.
    texts, frame = some_texts(2), tiny_frame()
    examples = prepare_examples(tiny_model(), texts)
    ours = example_gradients(tiny_model(), frame, examples, np.arange(2), np.zeros(frame.dimension))
    plain = plain_model()
    for row, (ids, prompt) in enumerate(texts):
        plain.zero_grad()
        logits = plain(torch.tensor([ids])).logits[0, prompt - 1 : -1]
        nn.functional.cross_entropy(logits, torch.tensor(ids[prompt:])).backward()
        weights = dict(plain.named_parameters())
        wanted = [
            frame.scale * u.T @ weights[hugging_face_name(name) + ".weight"].grad.numpy() @ v.T  # type: ignore[union-attr]
            for name, u, v in zip(frame.modules, frame.left, frame.right, strict=True)
        ]
        assert np.allclose(ours[row], np.stack(wanted).ravel(), rtol=1e-3, atol=2e-5)


def test_token_weights_weight_the_gradients() -> None:
    """And a token of weight 0 is no target: the mean is that of the others."""
    model, frame, (ids, prompt), theta = tiny_model(), tiny_frame(), some_texts()[1], some_theta(8)
    count = len(ids) - prompt
    masks = [[float(place == token) for place in range(count)] for token in range(count)]
    texts = [(ids, prompt), *((ids, prompt, mask) for mask in masks), (ids, prompt, [2.0] * count)]
    gradients = example_gradients(model, frame, prepare_examples(model, texts), np.arange(len(texts)), theta)
    assert np.allclose(gradients[1:-1].mean(0), gradients[0], rtol=1e-4, atol=1e-5)
    assert np.allclose(gradients[-1], 2 * gradients[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(gradients[1], gradients[2], atol=1e-2)


def test_no_example_changes_the_gradient_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    # With one list of words for all texts this fails: one text could move the sum by more than the clip norm.
    texts, theta = some_texts(4), some_theta(5)
    model, frame = tiny_model(), tiny_frame()
    monkeypatch.setattr(client.torch_model, "public_words", partial(public_words, certain=20, sampled=20))

    def gradients(examples: PrivateExamples, count: int) -> np.ndarray:
        return example_gradients(model, frame, examples, np.arange(count), theta)

    alone = gradients(prepare_examples(model, texts[:1]), 1)[0]
    assert np.allclose(gradients(prepare_examples(model, texts), 4)[0], alone, rtol=1e-4, atol=1e-6)
    together = PrivateExamples(model.prepare(texts), np.arange(4))
    assert not np.allclose(gradients(together, 4)[0], alone, rtol=1e-2, atol=1e-4)  # the danger is real


def test_each_example_is_clipped_and_summed() -> None:
    gradients = np.array([[3.0, 4.0], [0.3, 0.4], [-6.0, 8.0], [0.0, 0.0]])
    assert np.allclose(clipped_sum(gradients, 1.0), [0.6 + 0.3 - 0.6, 0.8 + 0.4 + 0.8])
    assert np.allclose(clipped_sum(gradients[:2], 100.0), [3.3, 4.4])


def test_one_example_moves_the_sum_by_at_most_the_clip_norm() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(20, 7)) * 10.0 ** random.uniform(-3, 3, size=(20, 1))
    for left_out in range(20):
        change = clipped_sum(rows, 0.7) - clipped_sum(np.delete(rows, left_out, axis=0), 0.7)
        assert np.linalg.norm(change) <= 0.7 * (1 + 1e-9)


def test_gradients_that_are_not_finite_count_as_zero() -> None:
    good = np.array([0.3, 0.4])
    bad = [[math.nan, 1.0], [math.inf, 0.0], [-math.inf, math.nan]]
    assert np.allclose(clipped_sum(np.array([good, *bad]), 1.0), good)
    assert np.linalg.norm(clipped_sum(np.array([[1e200, 1e200]]), 1.0)) <= 1.0


def test_noise_has_the_scale_z_c_over_the_expected_batch() -> None:
    noise = noisy_mean(np.zeros((0, 40_000)), 0.5, 3.0, 20.0, np.random.default_rng(1))
    assert noise.std() == pytest.approx(3.0 * 0.5 / 20.0, rel=0.02)
    assert abs(noise.mean()) < 5 * 0.075 / 200
    more = noisy_mean(np.ones((9, 40_000)) * 1e-9, 0.5, 3.0, 20.0, np.random.default_rng(2))
    assert more.std() == pytest.approx(0.075, rel=0.02)  # the same however many were sampled


def test_the_mean_divides_by_the_expected_batch_size() -> None:
    gradients = np.array([[0.3, 0.4], [0.3, 0.4]])
    assert np.allclose(noisy_mean(gradients, 1.0, 0.0, 10.0, np.random.default_rng(0)), [0.06, 0.08])


def test_poisson_sampling_draws_each_example_on_its_own() -> None:
    random = np.random.default_rng(3)
    draws = np.zeros((4000, 10))
    for row in draws:
        row[poisson_sample(10, 0.3, random)] = 1.0
    assert np.allclose(draws.mean(0), 0.3, atol=0.035)
    assert draws.sum(1).var() == pytest.approx(10 * 0.3 * 0.7, rel=0.1)  # a batch of fixed size would have 0
    assert np.abs(np.corrcoef(draws.T) - np.eye(10)).max() < 0.08


def test_a_step_is_the_papers_step() -> None:
    """Replayed by hand from the same random numbers: wrong sign, weight, noise or divisor fails."""
    texts, start, model, frame = some_texts(), some_theta(6), tiny_model(), tiny_frame()
    result = train_privately(model, frame, texts, start, SETTINGS, generator=np.random.default_rng(11))
    assert result.steps == 4
    random, theta = np.random.default_rng(11), start.copy()
    sizes = []
    for _ in range(result.steps):
        index = np.flatnonzero(random.random(len(texts)) < 0.25)
        sizes.append(len(index))
        gradients = example_gradients(model, frame, prepare_examples(model, texts), index, theta)
        total = np.zeros(frame.dimension)
        for gradient in gradients:
            total += gradient * min(1.0, 0.5 / np.linalg.norm(gradient))
        total += random.normal(0.0, result.noise_multiplier * 0.5, frame.dimension)
        theta = theta - 0.1 * total / (0.25 * len(texts))
    assert np.allclose(result.theta, theta, atol=1e-6)
    assert len(set(sizes)) > 1  # realised batches differed, while the divisor did not


def test_training_goes_downhill_when_noise_is_small() -> None:
    texts, model, frame = some_texts(), tiny_model(), tiny_frame()
    settings = PrivateSettings(400.0, 1e-3, 6.0, 1.0, 50.0, 0.02)
    zero = np.zeros(frame.dimension)
    result = train_privately(model, frame, texts, zero, settings, generator=np.random.default_rng(0))
    model.set_frame(frame)
    losses = []
    for theta in (zero, result.theta):
        model.set_coordinates(frame, as_theta(theta))
        losses.append(-sum(float(model.log_probabilities(ids)[p - 1 :].mean()) for ids, p in texts) / 6)
    model.set_frame(None)
    assert losses[1] < losses[0] - 0.05


def test_empty_batches_and_texts_without_targets_take_noisy_steps() -> None:
    ids, _ = some_texts()[0]
    start, frame = some_theta(7), tiny_frame()
    result = train_privately(
        tiny_model(), frame, [(ids, len(ids))], start, SETTINGS, generator=np.random.default_rng(4)
    )
    moved = result.theta - start
    expected = 0.1 * result.noise_multiplier * 0.5 / 0.25 * math.sqrt(result.steps)
    assert moved.std() == pytest.approx(expected, rel=0.4) and result.epsilon <= SETTINGS.epsilon


def test_fresh_randomness_every_time() -> None:
    runs = [train_privately(tiny_model(), tiny_frame(), some_texts(2), some_theta(), SETTINGS) for _ in "ab"]
    assert not np.array_equal(runs[0].theta, runs[1].theta)
    assert runs[0].noise_multiplier == runs[1].noise_multiplier


def test_the_noise_meets_the_target_and_no_more() -> None:
    noise_multiplier = noise_multiplier_for(3.0, 1e-4, 0.1, 30)
    spent = epsilon_spent(noise_multiplier, 0.1, 30, 1e-4)
    assert 2.9 < spent <= 3.0
    assert epsilon_spent(0.9 * noise_multiplier, 0.1, 30, 1e-4) > 3.0
    assert epsilon_spent(noise_multiplier, 0.2, 30, 1e-4) > spent
    assert epsilon_spent(noise_multiplier, 0.1, 60, 1e-4) > spent


def test_epsilon_is_the_one_of_another_accountant() -> None:
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    step = accounting.PoissonSampledDpEvent(0.1, accounting.GaussianDpEvent(1.2))
    accountant.compose(step, 30)
    other = accountant.get_epsilon(1e-4)
    assert other - 1e-3 <= epsilon_spent(1.2, 0.1, 30, 1e-4) <= other + 0.03  # PRV reports its upper bound


def test_settings_that_promise_nothing_are_refused() -> None:
    good = {
        "epsilon": 1.0,
        "delta": 1e-5,
        "epochs": 1,
        "sampling_rate": 0.1,
        "clip_norm": 1.0,
        "learning_rate": 0.1,
    }
    PrivateSettings(**good)
    for name, value in (
        ("epsilon", 0.0),
        ("epsilon", math.inf),
        ("delta", 0.0),
        ("delta", 1.0),
        ("sampling_rate", 1.5),
        ("sampling_rate", math.nan),
        ("clip_norm", -1.0),
        ("learning_rate", math.nan),
        ("optimiser", "lion"),
    ):
        with pytest.raises(PenchantError):
            PrivateSettings(**{**good, name: value})
    with pytest.raises(PenchantError, match="no text"):
        train_privately(tiny_model(), tiny_frame(), [], some_theta(), SETTINGS)


@pytest.mark.parametrize("name", ["prv", "rdp"])
def test_epsilon_is_that_of_opacus_stepping_along(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus's own accountant, told of every step that was taken; Renyi's where PRV fails numerically."""
    from opacus.accountants import PRVAccountant, create_accountant

    noise_multiplier_for.cache_clear()
    if name == "rdp":

        def fails(self: Any, delta: float, **options: Any) -> float:
            raise ValueError

        monkeypatch.setattr(PRVAccountant, "get_epsilon", fails)
    taken = 0
    exact = dp_sgd.example_gradients

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal taken
        taken += 1
        return exact(*arguments, **named)

    monkeypatch.setattr(dp_sgd, "example_gradients", counted)
    settings = replace(SETTINGS, epochs=2.0, sampling_rate=0.9)  # every step samples something
    start = some_theta()
    result = train_privately(
        tiny_model(), tiny_frame(), some_texts(), start, settings, generator=np.random.default_rng(0)
    )
    noise_multiplier_for.cache_clear()
    accountant = create_accountant(name)
    for _ in range(taken):
        accountant.step(noise_multiplier=result.noise_multiplier, sample_rate=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = accountant.get_epsilon(delta=settings.delta)
    assert taken == result.steps and result.epsilon == pytest.approx(theirs, rel=1e-9)
    assert result.epsilon <= settings.epsilon and np.abs(result.theta - start).min() > 0  # every number has moved
