from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from client.adapted_linear import AdaptedLinear
from client.packed_texts import Packing

LENGTHS = torch.tensor([3, 5, 2])
RANK, INNER, OUTER = 3, 6, 4


def framed(*, bias: bool = False) -> AdaptedLinear:
    torch.manual_seed(0)
    layer = AdaptedLinear(nn.Linear(INNER, OUTER, bias=bias, dtype=torch.float64).requires_grad_(False))
    layer.u = torch.randn(OUTER, RANK, dtype=torch.float64)
    layer.v = torch.randn(RANK, INNER, dtype=torch.float64)
    layer.packing = Packing.of(LENGTHS)
    return layer


def by_hand(layer: AdaptedLinear, x: Tensor, r: Tensor) -> Tensor:
    """Each token by its text's own matrix W + U R V, with autograd's own derivatives."""
    assert layer.u is not None and layer.v is not None and layer.packing is not None
    rows = []
    for token, text in zip(x[0], layer.packing.row.tolist(), strict=True):
        own = r[0 if len(r) == 1 else text].double()
        rows.append(layer.base(token) + layer.u @ (own @ (layer.v @ token)))
    return torch.stack(rows)[None]


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_are_those_of_the_written_out_map(texts: int, bias: bool) -> None:
    layer = framed(bias=bias)
    x = torch.randn(1, 10, INNER, dtype=torch.float64, requires_grad=True)
    r = torch.randn(texts, RANK, RANK, requires_grad=True)
    layer.r = r
    ours, theirs = layer(x), by_hand(layer, x, r)
    assert torch.allclose(ours, theirs, atol=1e-5)
    pull = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, (x, r), pull), torch.autograd.grad(theirs, (x, r), pull), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5) and float(one.abs().max()) > 0.1


def test_gradients_by_text_add_up_to_the_shared_one() -> None:
    layer, x = framed(), torch.randn(1, 10, INNER, dtype=torch.float64)
    shared = torch.randn(1, RANK, RANK, requires_grad=True)
    copies = shared.detach().expand(3, -1, -1).clone().requires_grad_(True)
    gradients = []
    for r in (shared, copies):
        layer.r = r
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), r)
        gradients.append(gradient)
    assert torch.allclose(gradients[0], gradients[1].sum(0, keepdim=True), atol=1e-4)
    assert not torch.allclose(gradients[1][0], gradients[1][1], atol=0.1)


def test_without_coordinates_it_is_the_base_map_in_any_shape() -> None:
    layer, x = framed(), torch.randn(2, 5, INNER, dtype=torch.float64)
    assert torch.equal(layer(x), layer.base(x))


@pytest.mark.parametrize("bias", [False, True])
def test_factors_give_the_value_and_gradients_of_the_written_out_product(bias: bool) -> None:
    layer = framed(bias=bias)
    x = torch.randn(1, 10, INNER, dtype=torch.float64, requires_grad=True)
    a, b = (torch.randn(shape, requires_grad=True) for shape in ((RANK, INNER), (OUTER, RANK)))
    layer.factors = (a, b)
    ours, theirs = layer(x), layer.base(x) + (x @ a.double().T) @ b.double().T
    assert torch.allclose(ours, theirs, atol=1e-5)
    pull = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, (x, a, b), pull), torch.autograd.grad(theirs, (x, a, b), pull), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-4) and float(one.abs().max()) > 0.1
