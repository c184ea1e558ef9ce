"""Texts without their padding: a batch of texts as one row of N tokens.

A padded batch (b, t) spends as much on a place that holds nothing as on a word. Linear maps and norms know no
neighbours, so they run over the N tokens alone; only attention needs to know which tokens belong together. It is
padded there, and nowhere else:

    (1, heads, N, d)  --pad-->  (b, heads, t, d)  --causal attention-->  (b, heads, t, d)  --pack-->  (1, N, heads, d)

``attend`` is what the layers of transformers call for attention (``ATTENTION`` names it): any architecture that uses
their attention interface can be packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

ATTENTION: Final = "penchant_packed"
SHORT: Final = 256  # tokens, up to which all scores at once are faster than torch's blockwise attention on a processor


@dataclass(frozen=True)
class Packing:
    """``place`` (N,): where each token lies in a padded batch of ``texts`` x ``width`` places, text after text."""

    place: Tensor
    texts: int
    width: int

    @staticmethod
    def of(lengths: Tensor) -> Packing:
        """For texts of these ``lengths`` (b,)."""
        width = int(lengths.max())
        there = torch.arange(width)[None] < lengths[:, None]
        return Packing(torch.nonzero(there.flatten())[:, 0], len(lengths), width)

    @property
    def row(self) -> Tensor:
        """The text that each token belongs to, (N,)."""
        return self.place // self.width

    @property
    def position(self) -> Tensor:
        """The position of each token in its text, (N,)."""
        return self.place % self.width

    def pad(self, packed: Tensor) -> Tensor:
        """(N, ...) -> (b, t, ...), zeros where there is no token."""
        padded: Tensor = _Pad.apply(packed, self)  # type: ignore[no-untyped-call]
        return padded

    def pack(self, padded: Tensor) -> Tensor:
        """(b, t, ...) -> (N, ...)."""
        packed: Tensor = _Pack.apply(padded, self)  # type: ignore[no-untyped-call]
        return packed


def _put(packed: Tensor, packing: Packing) -> Tensor:
    shape = (packing.texts, packing.width, *packed.shape[1:])
    if len(packing.place) == packing.texts * packing.width:
        return packed.view(shape)
    padded = packed.new_zeros(packing.texts * packing.width, *packed.shape[1:])
    return padded.index_copy_(0, packing.place, packed).view(shape)


def _take(padded: Tensor, packing: Packing) -> Tensor:
    flat = padded.flatten(0, 1)
    return flat if len(packing.place) == len(flat) else flat.index_select(0, packing.place)


class _Pad(torch.autograd.Function):
    """``_put``, whose adjoint is ``_take``: autograd's own would add up gradients at places that cannot collide."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return _put(packed, packing)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _take(gradient, ctx.packing), None


class _Pack(torch.autograd.Function):
    """``_take``, whose adjoint is ``_put``."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return _take(padded, packing)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _put(gradient, ctx.packing), None


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention in the form that transformers calls; padded batches (``packing`` None) are padded on the right.

    query (b, heads, t, d), key and value (b, kv heads, t, d), b = 1 and t = N where packed -> (b, t, heads, d).
    """
    if packing is not None:
        query, key, value = (packing.pad(part[0].transpose(0, 1)).transpose(1, 2) for part in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.shape[2] <= SHORT:
        out = _ShortAttention.apply(query * scale, key, value).transpose(1, 2)  # type: ignore[no-untyped-call]
    else:
        # In bfloat16 the backward pass of torch's attention takes 2.5 times as long as in float32.
        out = torch.nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, scale=scale, enable_gqa=True
        )
        out = out.to(query.dtype).transpose(1, 2)
    return (out if packing is None else packing.pack(out)[None]), None


class _ShortAttention(torch.autograd.Function):
    """Causal softmax(q k^T) v with all t x t scores at once, q (b, heads, t, d) scaled already.

    The heads that share keys are one product: with g heads to a key head, q is read as (b, kv heads, g t, d). Kept for
    the backward pass are the shares A in the number format of the model, nothing in float32:

        dv = A^T do,   dA = do v^T,   ds = A (dA - sum_j dA_j A_j),   dq = ds k,   dk = ds^T q
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        texts, heads, tokens, width = query.shape
        grouped = query.reshape(texts, key.shape[1], -1, width)
        scores = (grouped @ key.transpose(2, 3)).float().view(texts, heads, tokens, tokens)
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu_(1)
        shares = torch.softmax(scores.masked_fill_(later, float("-inf")), -1).to(value.dtype)
        shares = shares.view(texts, key.shape[1], -1, tokens)
        ctx.save_for_backward(grouped, key, value, shares)
        return (shares @ value).view(query.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grouped, key, value, shares = ctx.saved_tensors
        of_out = gradient.reshape(grouped.shape)
        of_value = shares.transpose(2, 3) @ of_out
        of_scores = (of_out @ value.transpose(2, 3)).float()
        of_scores -= (of_scores * shares).sum(-1, keepdim=True)
        of_scores = (of_scores * shares).to(value.dtype)
        return (of_scores @ key).view(gradient.shape), of_scores.transpose(2, 3) @ grouped, of_value


def use_packed_attention(causal_lm: Any) -> None:
    """Make a transformers model attend through ``attend``."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)
    causal_lm.set_attn_implementation(ATTENTION)
