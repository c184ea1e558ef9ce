"""Clipping the gradients of ordinary LoRA factors example by example, in one backward pass and little memory.

For a linear map ``y = x W^T`` and example i with inputs ``x_i`` (t, d) and loss gradients at the output ``e_i``
(t, p),

    G_i = e_i^T x_i  (p, d)         |G_i|_F^2 = < x_i x_i^T , e_i e_i^T >_F        (both (t, t))

The right-hand side is *ghost clipping* (Li et al. 2022, "Large language models can be strong differentially private
learners", section 4): the norm from two Gram matrices, without ``G_i``. Once the norms over
all maps are known, the clipped sum is one product per map (the *book-keeping* of Bu et al. 2023, "Differentially
private optimization on large model at small cost": one backward pass, not two):

    sum_i c_i G_i = sum_i e_i^T (c_i x_i),       c_i = min(1, C / |G_i|),   |G_i|^2 = sum over maps of |G_i|_F^2

Which of the two is smaller depends on the map: the pair ``x_i, e_i`` has t (p + d) numbers, ``G_i`` has p d. A whole
weight matrix wants the pair. A LoRA factor is thin, and for more than about r tokens ``G_i`` itself is smaller and
cheaper: so each factor keeps the smaller form (``hold``; the *mixed* rule of Bu et al. 2022, by memory), made within
the backward pass. Both are exact.

A LoRA map is two of these: with ``y = x A^T`` (t, r) and the output ``y B^T``, the factor B (out, r) has inputs y and
errors e, and A (r, in) has inputs x and errors ``e B``.

The examples of a batch must not see each other (causal attention over rows, no statistics over the batch), and the
loss that is differentiated is the *sum* over examples of a number that belongs to one example each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# The norm and the sum are rounded apart from each other (float32): this much shorter, no sum can exceed the clip norm.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Pair:
    """Inputs (b, t, d) and errors (b, t, p) of a map, of which every example's gradient can be made."""

    inputs: Tensor
    errors: Tensor


Held = Pair | Tensor  # a tensor: the gradients themselves (b, p, d)


def hold(inputs: Tensor, errors: Tensor) -> Held:
    """The smaller form of the gradients of examples, from ``inputs`` (b, t, d) and ``errors`` (b, t, p), in float32."""
    inputs, errors = inputs.detach().float(), errors.detach().float()
    (_, tokens, width), height = inputs.shape, errors.shape[2]
    if tokens * (width + height) < width * height:
        return Pair(inputs, errors)
    gradients: Tensor = errors.transpose(1, 2) @ inputs
    return gradients


def squared_norms(held: Held) -> Tensor:
    """|G_i|_F^2 of each example, (b,) float64. In float64, as the terms of the Gram product may cancel."""
    if isinstance(held, Tensor):
        norms: Tensor = torch.linalg.vector_norm(held, dim=(1, 2), dtype=torch.float64)
        return norms.square()
    x, e = held.inputs.double(), held.errors.double()
    products: Tensor = (x @ x.transpose(1, 2)) * (e @ e.transpose(1, 2))
    return products.sum((1, 2)).clamp_min(0.0)


def weighted_sum(held: Held, weights: Tensor) -> Tensor:
    """sum_i c_i G_i (p, d). Examples of weight 0 take no part, whatever their numbers are."""
    kept = weights > 0
    chosen = weights[kept].float()
    if isinstance(held, Tensor):
        return torch.einsum("b,bpd->pd", chosen, held[kept])
    return torch.einsum("b,btp,btd->pd", chosen, held.errors[kept], held.inputs[kept])


@dataclass
class Recorder:
    """What a backward pass leaves of the LoRA maps that took part in it: name -> (of A, of B)."""

    held: dict[str, tuple[Held, Held]] = field(default_factory=dict)

    def norms(self) -> Tensor:
        """|G_i| over all factors, (b,) float64; what is not finite is infinite."""
        if not self.held:
            raise RuntimeError("no map has taken part in a backward pass")
        total = torch.stack([squared_norms(one) for pair in self.held.values() for one in pair]).sum(0)
        return total.sqrt().nan_to_num(nan=torch.inf, posinf=torch.inf)

    def clipped_sum(self, clip_norm: float) -> Mapping[str, tuple[Tensor, Tensor]]:
        """name -> sums over the examples of the gradients of A (r, in) and B (out, r), after each example's whole
        gradient was scaled down to L2 norm ``clip_norm`` if it is longer. An example whose gradient is not finite
        counts as zero, so one example never changes the result by more than ``clip_norm``.
        """
        limit = clip_norm * (1 - _ROUNDING)
        norms = self.norms()
        weights = torch.where(norms.isinf(), 0.0, limit / norms.clamp_min(limit))
        return {name: (weighted_sum(a, weights), weighted_sum(b, weights)) for name, (a, b) in self.held.items()}


class _Recorded(torch.autograd.Function):
    """(x A^T) B^T, whose backward pass leaves each example's part of A and B in a recorder."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, recorder: Recorder, name: str) -> Tensor:
        low = x @ a.T  # (b, t, r)
        ctx.save_for_backward(x, low, a, b)
        ctx.recorder, ctx.name = recorder, name
        return low @ b.T

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        (e,) = errors  # (b, t, out)
        inner = e @ b  # (b, t, r)
        ctx.recorder.held[ctx.name] = (hold(x, inner), hold(low, e))
        return (inner @ a if ctx.needs_input_grad[0] else None), None, None, None, None


def recorded_product(x: Tensor, a: Tensor, b: Tensor, recorder: Recorder, name: str) -> Tensor:
    """(x A^T) B^T for x (b, t, in), A (r, in), B (out, r). ``a`` must require a gradient, or there may be no backward
    pass; it gets none: the gradients of the examples are in ``recorder`` under ``name`` after it."""
    out: Tensor = _Recorded.apply(x, a, b, recorder, name)  # type: ignore[no-untyped-call]
    return out
