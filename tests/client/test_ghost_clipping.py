"""Norms and clipped sums of LoRA factors against loops, autograd and Opacus."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from client.dp_sgd import prepare_examples
from client.ghost_clipping import Pair, Recorder, hold, recorded_product, squared_norms, weighted_sum
from client.lora_layout import LoraLayout
from client.personal_lora import as_tensors, ghost_clipped_sum, installed
from tests.client.framed_help import KINDS, some_texts, tiny_model
from tests.client.lora_oracle import loop_gradients, opacus_gradients, opacus_norms

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")
pytest.importorskip("opacus", reason="private training needs opacus: pip install 'penchant[train]'")

FEW_TOKENS, MANY_TOKENS = 2, 40  # on both sides of the rule for which form is smaller


def some_maps(tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(4, tokens, 12, generator=random), torch.randn(4, tokens, 7, generator=random)


@pytest.mark.parametrize("tokens", [FEW_TOKENS, MANY_TOKENS])
def test_both_forms_give_the_norm_and_the_weighted_sum(tokens: int) -> None:
    inputs, errors = some_maps(tokens)
    held = hold(inputs, errors)
    assert isinstance(held, Pair) == (tokens == FEW_TOKENS)
    gradients = np.einsum("btp,btd->bpd", errors.double().numpy(), inputs.double().numpy())
    assert np.allclose(squared_norms(held), (gradients**2).sum((1, 2)), rtol=1e-5)
    weights = torch.tensor([0.5, 1.0, 0.0, 0.25], dtype=torch.float64)
    wanted = np.einsum("b,bpd->pd", weights.numpy(), gradients)
    assert np.allclose(weighted_sum(held, weights), wanted, rtol=1e-4, atol=1e-5)


def test_the_smaller_form_is_held() -> None:
    for tokens in range(1, 12):
        inputs, errors = some_maps(tokens)
        held = hold(inputs, errors)
        size = held.inputs.numel() + held.errors.numel() if isinstance(held, Pair) else held.numel()
        assert size == 4 * min(tokens * (12 + 7), 12 * 7)


def test_the_product_and_its_gradient_are_autograds() -> None:
    x, _ = some_maps(5)
    random = torch.Generator().manual_seed(1)
    a, b = (torch.randn(*shape, generator=random).requires_grad_(True) for shape in ((3, 12), (6, 3)))
    point = x.clone().requires_grad_(True)
    recorder = Recorder()
    out = recorded_product(point, a, b, recorder, "map")
    assert torch.allclose(out, x @ a.T @ b.T, atol=1e-5) and out.shape == (4, 5, 6)
    out.sin().sum().backward()
    plain = x.clone().requires_grad_(True)
    (plain @ a.T @ b.T).sin().sum().backward()
    assert point.grad is not None and plain.grad is not None and a.grad is not None and b.grad is not None
    assert torch.allclose(point.grad, plain.grad, atol=1e-5)
    # Unclipped, the sums are the gradients of A and B, each in its place.
    left, right = recorder.clipped_sum(1e9)["map"]
    assert torch.allclose(left, a.grad, atol=1e-4) and torch.allclose(right, b.grad, atol=1e-4)


def lora_case() -> tuple[LoraLayout, np.ndarray]:
    layout = LoraLayout.of(tiny_model().module_shapes(KINDS), 2)
    return layout, layout.start(3) + 0.05 * np.random.default_rng(4).normal(size=layout.dimension)


@pytest.mark.parametrize("oracle", [opacus_gradients, loop_gradients])
def test_per_example_norms_and_clipped_sums_are_those_of_the_oracle(oracle: object) -> None:
    layout, theta = lora_case()
    batch = prepare_examples(tiny_model(), some_texts(5)).batch
    assert batch is not None and callable(oracle)
    gradients = oracle(layout, theta, batch, 5)
    norms = np.linalg.norm(gradients, axis=1)
    recorder = Recorder()
    with installed(tiny_model(), as_tensors(layout.lora_factors(theta), trained=True), recorder):
        losses, tokens = tiny_model().losses(batch)
        (losses / tokens).sum().backward()
    assert np.allclose(recorder.norms(), norms, rtol=1e-4) and norms.min() > 0.1
    for clip_norm in (0.5 * norms.min(), float(np.median(norms)), 1e6):
        factors = np.minimum(1.0, clip_norm / norms)
        ours = ghost_clipped_sum(tiny_model(), layout, batch, theta, clip_norm)
        wanted = (factors[:, None] * gradients).sum(0)
        assert np.linalg.norm(ours - wanted) <= 1e-4 * np.linalg.norm(wanted)
        assert np.linalg.norm(ours) <= clip_norm * 5


def test_the_norms_are_those_of_opacus_own_ghost_clipping() -> None:
    layout, theta = lora_case()
    batch = prepare_examples(tiny_model(), some_texts(5)).batch
    assert batch is not None
    ours = np.linalg.norm(loop_gradients(layout, theta, batch, 5), axis=1)
    assert np.allclose(opacus_norms(layout, theta, batch, 5), ours, rtol=1e-4)


def test_one_example_moves_the_sum_by_at_most_the_clip_norm() -> None:
    layout, theta = lora_case()
    batch = prepare_examples(tiny_model(), some_texts(5)).batch
    assert batch is not None
    everyone = ghost_clipped_sum(tiny_model(), layout, batch, theta, 0.3)
    for left_out in range(5):
        rest = torch.tensor([row for row in range(5) if row != left_out])
        without = ghost_clipped_sum(tiny_model(), layout, batch.rows(rest), theta, 0.3)
        assert 0.25 < np.linalg.norm(everyone - without) <= 0.3


@pytest.mark.parametrize("tokens", [FEW_TOKENS, MANY_TOKENS])
def test_an_example_that_is_not_finite_counts_as_nothing(tokens: int) -> None:
    inputs, errors = some_maps(tokens)
    errors[1, 0, 0], inputs[2, 0, 0] = math.nan, math.inf
    recorder = Recorder({"map": (hold(inputs, errors), hold(inputs, errors))})
    good = torch.tensor([0, 3])
    clean = Recorder({"map": (hold(inputs[good], errors[good]), hold(inputs[good], errors[good]))})
    for ours, wanted in zip(recorder.clipped_sum(0.5)["map"], clean.clipped_sum(0.5)["map"], strict=True):
        assert torch.isfinite(ours).all() and torch.allclose(ours, wanted)


def test_a_recorder_without_a_backward_pass_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="backward"):
        Recorder().clipped_sum(1.0)
