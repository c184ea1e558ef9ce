"""The layers between the maps, frozen, with the backward pass written out: they keep less for it and take fewer turns
through memory than autograd's own, which differentiates each operation in them by itself.

*RMS norm* (Zhang and Sennrich 2019), x (..., h), weight w (h,), s = (mean x^2 + eps)^(-1/2), n = s x:

    y = w n ,        dL/dx = s (g - n mean(g n)) ,    g = w dL/dy

Kept are x and s; sums are in float32, as in transformers.

*Gated unit* (Shazeer 2020), with gate a and up b: y = silu(a) b. Kept are a and b, and not silu(a) beside them.

A norm or a unit of the model is replaced only where ours gives the very same numbers (``replace_frozen``), so a model
of another make keeps its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class FrozenNorm(nn.Module):
    """RMS norm with a weight that is not trained."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(weight, requires_grad=False), epsilon

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = _Norm.apply(x, self.weight, self.epsilon)  # type: ignore[no-untyped-call]
        return normed


class GatedUnit(nn.Module):
    """down(silu(gate(x)) * up(x)), in maps that may carry adapters."""

    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = _Gated.apply(self.gate_proj(x), self.up_proj(x))  # type: ignore[no-untyped-call]
        out: Tensor = self.down_proj(gated)
        return out


def replace_frozen(layer: Any, width: int) -> None:
    """Put the above in the place of a transformers layer's norms and gated unit. ``width`` is h."""
    probe = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).to(next(layer.parameters()).dtype)
    for name, child in list(layer.named_children()):
        ours: nn.Module | None = None
        if hasattr(child, "variance_epsilon"):
            ours = FrozenNorm(child.weight, child.variance_epsilon)
        elif all(hasattr(child, each) for each in ("gate_proj", "up_proj", "down_proj")):
            ours = GatedUnit(child.gate_proj, child.up_proj, child.down_proj)
        if ours is not None and torch.equal(ours(probe), child(probe)):
            setattr(layer, name, ours)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, scale)
        return weight * wide.mul_(scale).to(x.dtype) if wide is not x else weight * (x * scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        normed, pull = x.float() * scale, (gradient * weight).float()
        pull = pull.addcmul(normed, (pull * normed).mean(-1, keepdim=True), value=-1.0)
        return pull.mul_(scale).to(x.dtype), None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_up = functional.silu(gate).mul_(gradient)
        return torch.ops.aten.silu_backward(gradient * up, gate), of_up
