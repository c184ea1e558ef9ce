"""The fixed part of the user projection, from public text alone.

Directions of texts: the leading principal components of the embedder's vectors of public texts. Directions of tokens:
the leading singular vectors of the public loss's gradient for the soft token, one gradient per text, taken at the
anchor and without its part along the anchor (the token's length is fixed). ``embedding_directions`` is the other
candidate, the principal components of the model's token embeddings; ``simulations/studies/user_vector/study.py``
compares them.

The anchor is the token that every prompt of the model begins with: said twice it changes least, so the untrained
projection is close to no token at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from client.torch_model import TorchModel
from client.user_vector import Text, token_gradients
from edge_runtime.engine.embedder_file import EMBEDDER_SHA256
from protocol.errors import PenchantError
from protocol.user_projection import ProjectionFrame

Directions = NDArray[np.float32]
TEXTS_AT_ONCE = 4


def build_projection_frame(
    model: TorchModel,
    base_sha256: str,
    vectors: NDArray[np.float32],
    gradients: NDArray[np.float64],
    anchor_token: int,
    *,
    input_rank: int,
    output_rank: int,
    temperature: float,
) -> ProjectionFrame:
    """A frame of r_in x r_out from the embedder's ``vectors`` (k, m) of public texts and the public ``gradients``
    (j, n) of ``public_gradients``."""
    table = token_embeddings(model)
    anchor = table[anchor_token] / np.linalg.norm(table[anchor_token])
    centre = vectors.mean(0)
    return ProjectionFrame(
        base_sha256=base_sha256,
        embedder_sha256=EMBEDDER_SHA256,
        temperature=temperature,
        norm=float(np.linalg.norm(table, axis=1).mean()),
        anchor=anchor.astype(np.float32),
        centre=centre.astype(np.float32),
        inputs=leading_directions(vectors - centre, input_rank),
        outputs=leading_directions(_beside(gradients, anchor), output_rank).T,
    )


def public_gradients(
    model: TorchModel,
    texts: Sequence[Text],
    anchor_token: int,
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> NDArray[np.float64]:
    """Gradient (texts, n) of each text's loss per token for a soft token at the anchor, scaled to the mean length."""
    table = token_embeddings(model)
    soft = table[anchor_token] / np.linalg.norm(table[anchor_token]) * np.linalg.norm(table, axis=1).mean()
    rows = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        chunk = texts[start : start + TEXTS_AT_ONCE]
        _, counts, gradients = token_gradients(model, chunk, np.tile(soft, (len(chunk), 1)))
        rows.append(gradients / counts[:, None])
        on_progress((start + len(chunk)) / len(texts))
    return np.concatenate(rows)


def embedding_directions(model: TorchModel, anchor: NDArray[np.float32], rank: int) -> Directions:
    """Principal components (n, rank) of the model's token embeddings, without their part along ``anchor`` (n,)."""
    table = token_embeddings(model)
    return leading_directions(_beside(table - table.mean(0), anchor), rank).T


def captured_energy(gradients: NDArray[np.float64], anchor: NDArray[np.float32], outputs: Directions) -> float:
    """The part of the squared gradients (j, n), beside the anchor, that lies in ``outputs`` (n, r): 0 to 1."""
    beside = _beside(gradients, anchor)
    return float(np.square(beside @ outputs).sum() / np.square(beside).sum())


def token_embeddings(model: TorchModel) -> NDArray[np.float64]:
    """The model's input embeddings (vocabulary, n)."""
    words = torch.arange(len(model.output_weight))[None]
    table: NDArray[np.float64] = model.lower_hidden(words)[0].double().numpy()
    return table


def leading_directions(rows: NDArray[np.floating], rank: int) -> Directions:
    """The first ``rank`` right singular vectors (rank, n) of ``rows`` (k, n), the largest entry of each positive."""
    if not 1 <= rank <= min(rows.shape):
        raise PenchantError(f"{len(rows)} public rows of {rows.shape[1]} numbers do not span {rank} directions")
    square = rows.T.astype(np.float64) @ rows.astype(np.float64)
    found = np.linalg.eigh(square)[1][:, ::-1][:, :rank].T
    signs = np.sign(found[np.arange(rank), np.abs(found).argmax(1)])
    directions: Directions = (found * signs[:, None]).astype(np.float32)
    return directions


def _beside(rows: NDArray[np.floating], anchor: NDArray[np.floating]) -> NDArray[np.float64]:
    """``rows`` (k, n) without their part along the unit vector ``anchor`` (n,)."""
    unit = anchor.astype(np.float64)
    left: NDArray[np.float64] = rows - np.outer(rows @ unit, unit)
    return left
