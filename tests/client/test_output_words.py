from __future__ import annotations

import numpy as np
import pytest
import torch

import client.output_words
from client.output_words import draw_of, public_words, token_losses

WORDS, WIDTH = 400, 16


def some(count: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(final hidden states, output embedding, targets)"""
    random = torch.Generator().manual_seed(0)
    top = torch.randn(count, WIDTH, generator=random)
    return top, torch.randn(WORDS, WIDTH, generator=random), torch.randint(0, WORDS, (count,), generator=random)


def losses_and_gradient(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
    top = arguments[0].clone().requires_grad_(True)  # type: ignore[attr-defined]
    losses = token_losses(top, *arguments[1:])  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(losses @ torch.linspace(0.5, 2.0, len(losses)), top)
    return losses.detach(), gradient


@pytest.mark.parametrize("at_once", [7, 256])
def test_over_the_whole_vocabulary_it_is_cross_entropy(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.output_words, "TARGETS_AT_ONCE", at_once)
    top, output, targets = some()
    losses, gradient = losses_and_gradient(top, output, targets, None, None)
    leaf = top.clone().requires_grad_(True)
    wanted = torch.nn.functional.cross_entropy(leaf @ output.T, targets, reduction="none")
    (wanted @ torch.linspace(0.5, 2.0, 30)).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert torch.allclose(losses, wanted, atol=1e-5) and torch.allclose(gradient, leaf.grad, atol=1e-5)


def test_a_small_vocabulary_is_covered_whole() -> None:
    top, output, targets = some()
    every = public_words(WORDS, 3)
    assert torch.equal(every.ids, torch.arange(WORDS)) and not every.log_weight.any()
    whole, sampled = (losses_and_gradient(top, output, targets, public, None) for public in (None, every))
    assert torch.allclose(whole[0], sampled[0], atol=1e-5) and torch.allclose(whole[1], sampled[1], atol=1e-5)


def test_z_is_right_on_average_over_the_draws() -> None:
    top, output, targets = some(4)
    whole = token_losses(0.3 * top, output, targets, None, None)
    chosen = (0.3 * top @ output.T).gather(1, targets[:, None])[:, 0]
    z = [
        (token_losses(0.3 * top, output, targets, public_words(WORDS, draw, 40, 80), None) + chosen).exp()
        for draw in range(600)
    ]
    mean, error = torch.stack(z).mean(0), torch.stack(z).std(0) / 600**0.5
    assert ((mean - (whole + chosen).exp()).abs() < 4 * error).all()
    assert (error / mean).max() < 0.02


def test_frequent_words_are_certain_and_the_others_come_by_rank() -> None:
    drawn = [public_words(5000, draw, 100, 200) for draw in range(200)]
    assert all(torch.equal(one.ids[:100], torch.arange(100)) for one in drawn)
    assert all(not one.log_weight[:100].any() and (one.log_weight[100:] >= 0).all() for one in drawn)
    counts = torch.bincount(torch.cat([one.ids for one in drawn]), minlength=5000) / 200
    assert float(counts[100:].sum()) == pytest.approx(200, rel=0.02)
    for first, last in ((100, 200), (1000, 1400), (3000, 5000)):
        weights = torch.cat([one.log_weight[(one.ids >= first) & (one.ids < last)] for one in drawn])
        # Where pi is the chance of being drawn, the drawn words' 1 / pi add up to the number of words.
        assert float(weights.exp().sum()) / 200 == pytest.approx(last - first, rel=0.15)
    assert torch.equal(drawn[3].ids, public_words(5000, 3, 100, 200).ids)
    assert not torch.equal(drawn[3].ids, drawn[4].ids)


def test_words_of_one_text_take_no_part_in_another() -> None:
    top, output, targets = some()
    row = torch.arange(3).repeat_interleave(10)
    public = public_words(WORDS, 0, 10, 20)
    together = losses_and_gradient(top, output, targets, public, row)[0]
    for text in range(3):
        own = row == text
        alone = losses_and_gradient(top[own], output, targets[own], public, torch.zeros(10, dtype=torch.int64))[0]
        assert torch.allclose(together[own], alone, atol=1e-5)
    shared = losses_and_gradient(top, output, targets, public, None)[0]
    assert (shared - together).abs().max() > 0.01  # one list for all does depend on the others


def test_the_draw_is_a_function_of_theta() -> None:
    theta = np.random.default_rng(0).normal(size=12)
    assert draw_of(theta) == draw_of(theta.copy())
    assert draw_of(theta) != draw_of(np.nextafter(theta, 1.0))
    assert draw_of(theta[::2]) == draw_of(theta[::2].copy())
