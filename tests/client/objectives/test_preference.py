"""DPO on pairs, against the formula on the full model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from client.examples import make_example
from client.objectives.preference import BETA, PreparedPairs, margins, pair_losses, preference, prepare_pairs
from client.torch_model import as_theta
from edge_runtime.answering.answering import build_messages
from protocol.errors import PenchantError
from tests.client.framed_help import some_theta, tiny_frame, tiny_model
from tests.client.objectives.objective_help import choice, some_pairs
from tests.edge_runtime.model_helpers import open_tiny

ALL = torch.arange(3)


def prepared(start_seed: int | None = None, count: int = 3) -> PreparedPairs:
    start = np.zeros(tiny_frame().dimension) if start_seed is None else some_theta(start_seed)
    return prepare_pairs(tiny_model(), tiny_frame(), some_pairs(count), start, max_tokens=160)


def losses(pairs: PreparedPairs, theta: torch.Tensor, index: torch.Tensor = ALL) -> torch.Tensor:
    tiny_model().set_frame(tiny_frame())
    value = pair_losses(tiny_model(), tiny_frame(), pairs, index, theta)
    tiny_model().set_frame(None)
    return value


def full_log_probability(tokens: tuple[int, ...], prompt: int, theta: np.ndarray) -> float:
    model, frame = tiny_model(), tiny_frame()
    model.set_frame(frame)
    model.set_coordinates(frame, as_theta(theta))
    value = float(model.log_probabilities(tokens)[prompt - 1 :].sum())
    model.set_frame(None)
    return value


def test_choices_and_edits_become_pairs_behind_one_prompt(tmp_path: Path) -> None:
    with open_tiny(tmp_path) as engine:
        made = preference(engine, [choice("Tea?", "green", "black")], weight=0.1)
        (pair,) = made.pairs
        prompt = build_messages("Tea?", [])
        assert pair.chosen == make_example(engine, prompt, "green")
        assert pair.rejected == make_example(engine, prompt, "black")
    assert (made.name, made.weight, made.examples) == ("preference", 0.1, ())


@pytest.mark.parametrize("start_seed", [None, 5])
def test_the_loss_is_that_of_the_formula_on_the_full_model(start_seed: int | None) -> None:
    """The tiny vocabulary is wholly among the words of a batch, so the restricted output layer is exact."""
    start = np.zeros(tiny_frame().dimension) if start_seed is None else some_theta(start_seed)
    theta = some_theta(1)
    expected = []
    for pair in some_pairs():
        gain = [
            full_log_probability(text.tokens, text.prompt_length, theta)
            - full_log_probability(text.tokens, text.prompt_length, start)
            for text in (pair.chosen, pair.rejected)
        ]
        expected.append(np.log1p(np.exp(-BETA * (gain[0] - gain[1]))))
    assert losses(prepared(start_seed), as_theta(theta)).tolist() == pytest.approx(expected, rel=1e-4)


def test_at_the_start_the_margin_is_zero_and_the_loss_log_two() -> None:
    pairs = prepared(2)
    assert losses(pairs, as_theta(some_theta(2))).tolist() == pytest.approx([np.log(2)] * 3)
    tiny_model().set_frame(tiny_frame())
    assert margins(tiny_model(), tiny_frame(), pairs, ALL, as_theta(some_theta(2))).tolist() == [0.0] * 3
    tiny_model().set_frame(None)


def test_its_gradient_raises_the_preferred_and_lowers_the_other() -> None:
    pairs, point = prepared(), as_theta(np.zeros(tiny_frame().dimension)).requires_grad_(True)
    losses(pairs, point).sum().backward()  # type: ignore[no-untyped-call]
    assert point.grad is not None
    stepped = point.detach() - 0.05 * point.grad / point.grad.norm()
    assert float(losses(pairs, stepped).sum()) < 3 * np.log(2)


def test_one_theta_per_pair_gives_each_pair_its_own_gradient() -> None:
    pairs, theta = prepared(), as_theta(some_theta(3))
    copies = theta.repeat(3, 1).requires_grad_(True)
    losses(pairs, copies).sum().backward()  # type: ignore[no-untyped-call]
    for row in range(3):
        point = theta.clone().requires_grad_(True)
        losses(pairs, point, torch.tensor([row])).sum().backward()  # type: ignore[no-untyped-call]
        assert copies.grad is not None and point.grad is not None
        assert torch.allclose(copies.grad[row], point.grad[0], rtol=1e-3, atol=1e-6)


def test_a_pair_does_not_depend_on_the_others() -> None:
    theta = as_theta(some_theta(3))
    alone = losses(prepared(count=1), theta, torch.tensor([0]))
    assert losses(prepared(), theta, torch.tensor([0])).tolist() == pytest.approx(alone.tolist(), rel=1e-5)


def test_no_pairs_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(PenchantError, match="prefer one answer"):
        prepare_pairs(tiny_model(), tiny_frame(), [], np.zeros(tiny_frame().dimension), max_tokens=160)
