"""What one text's gradient gives away: which text it was, and which words occur in it.

For each adapted map W (out x in) the mean loss per token of one text has a gradient G (out x in). All that a device
could upload is linear in it, so one backward pass per text gives every view:

    frame coordinate    U^T G V^T  (r x r)          what a round of ours starts from, d = modules * r * r
    ordinary LoRA       G A^T      (out x r)        the gradient of B at B = 0, A random (that of A is zero there)

- `matched`: an adversary who holds N candidate texts recomputes each one's view and takes the closest.
- `word_scores`: a learned inversion. Ridge regression from views of *other* people's texts to "this word occurs", then
  the area under the curve of each word over the victims' texts.
- `text_membership`: was this text among those a person trained on? Cosine of the person's update with the view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.torch_model import Text, TorchModel
from protocol.frames import Frame
from simulations.attacks.ceilings import Array
from simulations.attacks.finding import auc

LORA_RANK = 8
RIDGE = 1.0  # of the mean eigenvalue of the views' Gram matrix
MINIMUM_OCCURRENCES = 8  # of a word among the texts that are judged, and of its absence


@dataclass(frozen=True, eq=False)
class TextViews:
    """``coordinate`` (n, d) and ``lora`` (n, modules * out * LORA_RANK) of n texts; ``words``: token ids of each."""

    coordinate: Array
    lora: NDArray[np.float32]
    words: tuple[frozenset[int], ...]


def text_views(
    model: TorchModel,
    frame: Frame,
    texts: Sequence[Text],
    *,
    max_tokens: int,
    seed: int,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> TextViews:
    """Both views of each text (tokens, prompt_length) at the base model."""
    random = np.random.default_rng(seed)
    weights = [model.linear(name).weight for name in frame.modules]
    project = [
        torch.from_numpy(random.normal(size=(weight.shape[1], LORA_RANK)).astype(np.float32)) / weight.shape[1] ** 0.5
        for weight in weights
    ]
    coordinates, loras = [], []
    model.set_frame(None)
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for done, text in enumerate(texts):
            losses, tokens = model.losses(model.prepare([text], max_tokens=max_tokens))
            (losses.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
            parts, wide = [], []
            for weight, u, v, a in zip(weights, frame.left, frame.right, project, strict=True):
                gradient = weight.grad.float() if weight.grad is not None else torch.zeros(weight.shape)
                parts.append((torch.from_numpy(u).T @ gradient @ torch.from_numpy(v).T).double().numpy().ravel())
                wide.append((gradient @ a).numpy().ravel())
                weight.grad = None
            coordinates.append(frame.scale * np.concatenate(parts))
            loras.append(np.concatenate(wide))
            on_progress((done + 1) / len(texts))
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    words = tuple(frozenset(list(text[0])[text[1] : max_tokens]) for text in texts)
    return TextViews(np.stack(coordinates), np.stack(loras), words)


def matched(seen: Array, candidates: Array) -> int:
    """How many rows of ``seen`` (n, d) are closest, by cosine, to the candidate (n, d) of the same place."""
    cosines = unit_rows(seen) @ unit_rows(candidates).T
    return int((cosines.argmax(1) == np.arange(len(seen))).sum())


def word_scores(
    views: NDArray[np.floating], words: Sequence[frozenset[int]], known: NDArray[np.bool_], seen: Array
) -> Array:
    """AUC of each word that is neither too rare nor everywhere, over the texts that are not ``known`` (n,).

    Learnt on ``views`` of the known texts, applied to what was ``seen`` of the others (rows as in ``views``).
    """
    present = [word for word in set().union(*words)]
    table = np.array([[word in one for word in present] for one in words], dtype=np.float64)  # (n, words)
    hidden = ~known
    often = table[hidden].sum(0)
    usable = (often >= MINIMUM_OCCURRENCES) & (often <= hidden.sum() - MINIMUM_OCCURRENCES) & (table[known].sum(0) > 0)
    train, test = unit_rows(views[known]), unit_rows(seen[hidden])
    centre, spread = train.mean(0), train.std(0) + 1e-12
    train, test = (train - centre) / spread, (test - centre) / spread
    gram = train @ train.T
    ridge = RIDGE * float(np.trace(gram)) / len(gram)
    target = table[known][:, usable]
    scores = (test @ train.T) @ np.linalg.solve(gram + ridge * np.eye(len(gram)), target - target.mean(0))
    truth = table[hidden][:, usable] > 0
    return np.array([auc(scores[t, k], scores[~t, k]).value for k, t in enumerate(truth.T)])


def text_membership(updates: Array, views: Array, owner: NDArray[np.int64]) -> Array:
    """(n,) for each person the AUC of their own texts against everybody else's. ``updates`` (n, d) point downhill,
    ``views`` (texts, d) uphill; ``owner`` (texts,) says whose each text is.

    What all people share tells nothing, and Adam's steps are about as long in every coordinate: updates are taken less
    their mean, views over their deviation (0.82 instead of 0.6 on the village).
    """
    cosines = -unit_rows(updates - updates.mean(0)) @ unit_rows(views / (views.std(0) + 1e-12)).T
    return np.array([auc(row[owner == person], row[owner != person]).value for person, row in enumerate(cosines)])


def unit_rows(rows: NDArray[np.floating]) -> Array:
    """Each row scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-300), dtype=np.float64)
