"""The written-out norm and gated unit against transformers' own, value and gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from client.frozen_layers import FrozenNorm, GatedUnit, replace_frozen
from tests.client.framed_help import plain_model

WIDTH = 64


def layer() -> nn.Module:
    """A decoder layer of the tiny model, with norms that are not all ones."""
    found: nn.Module = copy.deepcopy(plain_model().model.layers[1]).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for norm in (found.input_layernorm, found.post_attention_layernorm):
        norm.weight.data = 1.0 + 0.3 * torch.randn(WIDTH, generator=generator)
    return found


def value_and_gradient(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_(True)
    y = module(x)
    pull = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    return y.detach(), torch.autograd.grad(y, x, pull)[0]


@pytest.mark.parametrize("name", ["input_layernorm", "mlp"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_they_give_the_numbers_and_gradients_of_those_they_replace(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    theirs = layer().to(dtype)
    ours = copy.deepcopy(theirs)
    replace_frozen(ours, WIDTH)
    x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted, found = (value_and_gradient(getattr(one, name), x) for one in (theirs, ours))
    assert isinstance(getattr(ours, name), FrozenNorm if "norm" in name else GatedUnit)
    assert torch.equal(found[0], wanted[0])
    assert (found[1] - wanted[1]).norm() <= tolerance * wanted[1].norm() and wanted[1].norm() > 0.1


def test_less_is_kept_for_the_backward_pass() -> None:
    def kept(module: nn.Module) -> int:
        held: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        x = torch.randn(8, 50, WIDTH).to(torch.bfloat16).requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            module(x)
        return sum(held.values())

    theirs = layer().to(torch.bfloat16)
    ours = copy.deepcopy(theirs)
    replace_frozen(ours, WIDTH)
    assert kept(ours.input_layernorm) < 0.6 * kept(theirs.input_layernorm)
    assert kept(ours.mlp) < 0.85 * kept(theirs.mlp)


def test_what_computes_something_else_stays() -> None:
    class Other(nn.Module):
        """One plus the weight, as in models of another make."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.zeros(WIDTH)), 1e-5

        def forward(self, x: Tensor) -> Tensor:
            return (1 + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    other = layer()
    other.input_layernorm = Other()
    replace_frozen(other, WIDTH)
    assert isinstance(other.input_layernorm, Other) and isinstance(other.post_attention_layernorm, FrozenNorm)
