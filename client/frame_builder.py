"""The frame from public text: leading singular vectors of the mean loss gradient, and its refreshing between releases.

For each adapted map, G = mean over public texts of dLoss/dW (out x in), G = S diag(sigma) T; U = the first r columns
of S and V = the first r rows of T. Only text that ships with the project is used: taking the gradient of
private text here would leak it (the flaw of Fed-SB's released code). The singular vectors are signed so that the
largest entry of each column of U is positive. The fleet's frame is a release: devices take it by digest, because
floating point differs between machines.

Refreshing. A fleet that has released a shared adapter R (r x r per map; a noised sum, so what follows is
post-processing and costs no privacy) can turn its frame towards what is left to learn. With R = P diag(s) Q the
directions whose s rises above the noise are kept, U_k = U P_k and V_k = Q_k V; the others are filled with the leading
singular vectors of the public gradient *under the released adapter*, made orthogonal to the kept ones. Noise of
standard deviation z on every number of R alone has singular values up to 2 z sqrt(r) (Marchenko and Pastur 1967):
below that nothing is kept. ``protocol.frames.carry`` moves the released adapter into the new frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Final

import numpy as np
import torch
from torch import Tensor

from client.torch_model import IGNORED, Text, TorchModel, as_theta
from protocol.errors import PenchantError
from protocol.frames import Frame, Matrix, Vector

TEXTS_AT_ONCE: Final = 2  # bounds memory: the gradient of every map is kept for as long as one backward pass takes
SMALLEST_SHARE: Final = 0.05  # of the largest singular value of R: what a refreshed frame may lose

TextPair = tuple[str, str]


def public_text() -> list[TextPair]:
    """The public pairs (request, reply) that ship with the project."""
    raw = resources.files("client").joinpath("public_text.json").read_text(encoding="utf-8")
    return [(pair["request"], pair["reply"]) for pair in json.loads(raw)]


def build_frame(
    model: TorchModel,
    base_sha256: str,
    examples: Sequence[Text],
    *,
    kinds: Sequence[str],
    rank: int,
    scale: float = 1.0,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Frame:
    """Build a frame of ``rank`` for all maps of ``kinds`` in the adapted layers from tokenised public examples."""
    modules = model.module_names(kinds)
    if not modules:
        raise PenchantError(f"no module of kind {', '.join(kinds)} among the adapted layers")
    model.set_frame(None)
    left, right = [], []
    for gradient in mean_gradients(model, modules, examples, on_progress):
        u, v = leading_vectors(gradient, rank)
        left.append(u.numpy())
        right.append(v.numpy())
    return _as_read(Frame(base_sha256, rank, scale, modules, tuple(left), tuple(right)))


def refresh_frame(
    model: TorchModel,
    frame: Frame,
    released: Vector,
    examples: Sequence[Text],
    *,
    noise_deviation: float,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Frame:
    """The next frame, of the same maps, rank and scale, from the ``released`` shared adapter (d,) and public examples.

    ``noise_deviation`` is the standard deviation of the noise on each number of ``released`` (0: none). The model is
    left without a frame.
    """
    edge = 2.0 * noise_deviation * math.sqrt(frame.rank)
    model.set_frame(frame)
    model.set_coordinates(frame, as_theta(released))
    gradients = mean_gradients(model, frame.modules, examples, on_progress)
    model.set_frame(None)
    left, right = [], []
    for position, (gradient, r) in enumerate(zip(gradients, frame.coordinates(released), strict=True)):
        p, sizes, q = np.linalg.svd(r)
        # A share of the largest, because an adapter without noise has no direction of size exactly 0.
        kept = int(np.sum(sizes > max(edge, SMALLEST_SHARE * float(sizes[0]))))
        u, v = leading_vectors(gradient, frame.rank)
        left.append(_filled(frame.left[position] @ p[:, :kept], u.numpy()))
        right.append(_filled((q[:kept] @ frame.right[position]).T, v.numpy().T).T)
    return _as_read(Frame(frame.base_sha256, frame.rank, frame.scale, frame.modules, tuple(left), tuple(right)))


def mean_gradients(
    model: TorchModel,
    modules: Sequence[str],
    examples: Sequence[Text],
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> list[Tensor]:
    """dLoss/dW (out, in) of each module, the mean over tokenised examples, under the adapter that is installed."""
    weights = [model.linear(name).weight for name in modules]
    gradients = [torch.zeros(weight.shape) for weight in weights]
    chunks = [model.prepare(examples[start : start + 12]) for start in range(0, len(examples), 12)]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for done, chunk in enumerate(chunks):
            count = int((chunk.targets != IGNORED).sum())
            for piece in torch.split(torch.arange(len(chunk.targets)), TEXTS_AT_ONCE):
                losses, _ = model.losses(chunk.rows(piece))
                (losses.sum() / count).backward()  # type: ignore[no-untyped-call]
                for total, weight in zip(gradients, weights, strict=True):
                    total += weight.grad.float() if weight.grad is not None else 0.0
                    weight.grad = None
            on_progress((done + 1) / len(chunks))
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    return gradients


def leading_vectors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first ``rank`` left singular vectors (out, r) and right ones (r, in) of a matrix, signed as above."""
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    u, v = u[:, :rank], v[:rank]
    signs = torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
    return u * signs, v * signs.T


def _filled(kept: Matrix, others: Matrix) -> Matrix:
    """Orthonormal columns: those of ``kept`` (n, k), then as many of ``others`` (n, r) as make r, made orthogonal."""
    both, _ = np.linalg.qr(np.concatenate([kept, others], axis=1))
    columns: Matrix = both[:, : others.shape[1]]
    signs = np.sign(np.take_along_axis(columns, np.abs(columns).argmax(0, keepdims=True), 0))
    return columns * signs


def _as_read(frame: Frame) -> Frame:
    """The very numbers (float16) that every device will read."""
    return Frame.from_bytes(frame.to_bytes())
