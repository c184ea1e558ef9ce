"""The output layer over a few thousand words: a softmax whose sum over the vocabulary is partly sampled.

The loss needs log Z over the whole vocabulary, but the output layer is as dear as eight layers of the default model,
and most of its words have next to no share in Z. With l_j the logit of word j and S the words that take part,

    Z  ~  sum_{j in S} exp(l_j - log pi_j) ,        pi_j the probability with which word j came into S,

is right on average over the draws of S, and so is the loss's gradient to first order (importance-sampled softmax:
Bengio and Senecal 2008; Jean et al. 2015). S holds

- the targets of the texts themselves, pi = 1;
- the ``CERTAIN`` first words of the vocabulary, pi = 1: the numbers of a byte-pair vocabulary are the order in which
  its words were merged, most frequent first;
- ``SAMPLED`` of the others, pi_j proportional to 1 / j (Zipf), drawn anew wherever training stands (``draw_of``).

The last two come from the size of the vocabulary and from a number alone. So a text's loss depends on no other text, as
long as the targets of others are left out of it (``row``).

Measured on a person of the village, held-out loss over the whole vocabulary after the same steps (5.281 before): 4.523
when trained over the whole vocabulary, 4.543 with a new sample in every step (two thirds of the time), 4.595 with one
sample throughout, 5.298 without the sample, on frequent words and targets alone: what nothing pushes down, rises.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from zlib import crc32

import torch
from torch import Tensor

from protocol.frames import Vector

CERTAIN: Final = 2048
SAMPLED: Final = 4096
TARGETS_AT_ONCE: Final = 256  # bounds memory


@dataclass(frozen=True)
class PublicWords:
    """``ids`` (s,) ascending, and ``log_weight`` (s,) = -log pi, float32."""

    ids: Tensor
    log_weight: Tensor


@lru_cache(maxsize=4)
def _chances(vocabulary: int, certain: int, sampled: int) -> Tensor:
    """pi of the words after the first ``certain``, float64."""
    chances = 1.0 / torch.arange(certain + 1, vocabulary + 1, dtype=torch.float64)
    for _ in range(50):  # the scale at which the chances, none above 1, add up to ``sampled``
        chances = (chances * sampled / chances.sum()).clamp(max=1.0)
    return chances


def public_words(vocabulary: int, draw: int, certain: int = CERTAIN, sampled: int = SAMPLED) -> PublicWords:
    """The part of S that is the same for everybody, of a vocabulary of so many words; a small one is covered whole."""
    if certain + sampled >= vocabulary:
        return PublicWords(torch.arange(vocabulary), torch.zeros(vocabulary))
    chances = _chances(vocabulary, certain, sampled)
    generator = torch.Generator().manual_seed(draw)
    drawn = torch.rand(len(chances), dtype=torch.float64, generator=generator) < chances
    ids = torch.cat([torch.arange(certain), certain + torch.nonzero(drawn)[:, 0]])
    return PublicWords(ids, torch.cat([torch.zeros(certain), -chances[drawn].log().float()]))


def draw_of(theta: Vector) -> int:
    """The number of the sample to take at ``theta`` (d,): another one after every step, and the same when a step is
    done again."""
    return crc32(theta.tobytes())


def token_losses(
    top: Tensor, output: Tensor, targets: Tensor, public: PublicWords | None, row: Tensor | None
) -> Tensor:
    """Negative log-likelihood (nats) of ``targets`` (n,) after the final hidden states ``top`` (n, h): (n,) float32.

    ``output`` (vocabulary, h) the output embedding; ``public`` None: over the whole vocabulary. ``row`` (n,), where
    given, is the text of each target: the targets of one text then take no part in the losses of another.
    """
    if public is None:
        whole: Tensor = _TokenLosses.apply(top, output, targets, None, None)  # type: ignore[no-untyped-call]
        return whole
    words = torch.unique(torch.cat([targets, public.ids]))
    places = torch.searchsorted(words, targets)
    weight = torch.full((len(words),), float("-inf"))
    weight[torch.searchsorted(words, public.ids)] = public.log_weight
    if row is None:
        weight[places] = 0.0
    else:
        weight = weight.repeat(int(row.max()) + 1, 1)  # (b, s)
        weight[row, places] = 0.0
    losses: Tensor = _TokenLosses.apply(top, output[words], places, weight, row)  # type: ignore[no-untyped-call]
    return losses


class _TokenLosses(torch.autograd.Function):
    """-log softmax(top w^T + weight) at ``places`` (n,), a few targets at a time.

    top (n, h), w (s, h); weight (s,), or (b, s) and the row of each target. The gradient with respect to ``top``,
    (softmax - one at the target) w, is made at once and kept, (n, h): nothing of size (n, s) outlives its turn.
    """

    @staticmethod
    def forward(
        ctx: Any, top: Tensor, words: Tensor, places: Tensor, weight: Tensor | None, row: Tensor | None
    ) -> Tensor:
        losses, gradients = [], []
        for part in torch.split(torch.arange(len(top)), TARGETS_AT_ONCE):
            scores = (top[part] @ words.T).float()
            if weight is not None:
                scores += weight if row is None else weight[row[part]]
            shares = torch.log_softmax(scores, -1)
            chosen = places[part][:, None]
            losses.append(-shares.gather(1, chosen)[:, 0])
            if ctx.needs_input_grad[0]:
                shares.exp_().scatter_add_(1, chosen, torch.full_like(chosen, -1.0, dtype=shares.dtype))
                gradients.append(shares.to(words.dtype) @ words)
        ctx.save_for_backward(torch.cat(gradients) if gradients else top.new_zeros(0))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (of_top,) = ctx.saved_tensors
        return of_top * gradient[:, None].to(of_top.dtype), None, None, None, None
