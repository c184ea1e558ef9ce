"""A frozen linear map with an adapter on top, and the gradient with respect to the adapter.

*Coordinates of a frame.* With x (N, in) the tokens of a batch of texts, theirs the coordinates R_b (r, r) of text b
(one for all, or one each),

    y = x W^T + scale * ((x V^T) R_b^T) U^T ,        p = x V^T ,  q = scale * dL/dy U   (both (N, r))
    dL/dR_b = sum over the tokens of text b of q p^T ,   dL/dx = dL/dy W + (q R_b) V .

So a gradient per text costs no more than the sum of all: p and q are needed for either, and only which tokens are added
up differs. What has to be kept between forward and backward is p, not x.

*Factors of ordinary LoRA*, A (r, in) and B (out, r), the same for all texts:

    y = x W^T + (x A^T) B^T ,        p = x A^T ,  q = dL/dy B
    dL/dA = q^T x ,   dL/dB = (dL/dy)^T p ,   dL/dx = dL/dy W + q A ,

for which x has to be kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from client.packed_texts import Packing


class AdaptedLinear(nn.Module):
    """A frozen linear map plus ``scale * U R V`` of a frame or ``B A`` of ``factors`` (both None: the base map alone).
    With an adapter it takes packed texts, (1, N, in), of ``packing``."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.u: Tensor | None = None  # (out, r), times the frame's scale
        self.v: Tensor | None = None  # (r, in)
        self.r: Tensor | None = None  # (b, r, r) or (1, r, r), float32
        self.factors: tuple[Tensor, Tensor] | None = None  # A (r, in) and B (out, r), float32
        self.packing: Packing | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if self.factors is not None:
            added: Tensor = _AddProduct.apply(y[0], x[0], *self.factors)  # type: ignore[no-untyped-call]
            return added[None]
        if self.r is None or self.u is None or self.v is None:
            return y
        framed: Tensor = _AddCoordinates.apply(y[0], x[0], self.r, self.u, self.v, self.packing)  # type: ignore[no-untyped-call]
        return framed[None]


def _times(p: Tensor, r: Tensor, packing: Packing) -> Tensor:
    """Each row of p (N, r) times the matrix of its text, r (b, r, r) or (1, r, r)."""
    if len(r) == 1:
        return p @ r[0]
    return packing.pack(packing.pad(p) @ r)


class _AddCoordinates(torch.autograd.Function):
    """y (N, out) + scale * ((x V^T) R^T) U^T with the gradients of the text above; ``u`` holds scale * U."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, r: Tensor, u: Tensor, v: Tensor, packing: Packing) -> Tensor:
        p = (x @ v.T).float()
        ctx.save_for_backward(p, r, u, v)
        ctx.packing = packing
        return torch.addmm(y, _times(p, r.transpose(1, 2), packing).to(y.dtype), u.T)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None, None, None]:
        p, r, u, v = ctx.saved_tensors
        q = (gradient @ u).float()
        of_r = (q.T @ p)[None] if len(r) == 1 else ctx.packing.pad(q).transpose(1, 2) @ ctx.packing.pad(p)
        of_x = _times(q, r, ctx.packing).to(gradient.dtype) @ v if ctx.needs_input_grad[1] else None
        return gradient, of_x, of_r, None, None, None


class _AddProduct(torch.autograd.Function):
    """y (N, out) + (x A^T) B^T with the gradients of the text above; A and B take part in the number format of x."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        p = x @ a.T
        ctx.save_for_backward(x, p, a, b)
        return torch.addmm(y, p, b.T)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        x, p, a, b = ctx.saved_tensors
        q = gradient @ b
        of_x = q @ a if ctx.needs_input_grad[1] else None
        return gradient, of_x, (q.T @ x).float(), (gradient.T @ p).float()
