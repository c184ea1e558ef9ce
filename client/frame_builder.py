"""The frame from public text: leading singular vectors of the mean loss gradient.

For each adapted map, G = mean over public texts of dLoss/dW (out x in), G = S diag(sigma) T; U = the first r columns
of S and V = the first r rows of T. Only text that ships with the project is used: taking the gradient of
private text here would leak it (the flaw of Fed-SB's released code). The singular vectors are signed so that the
largest entry of each column of U is positive. The fleet's frame is a release: devices take it by digest, because
floating point differs between machines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import resources

import torch

from client.torch_model import TorchModel
from protocol.errors import PenchantError
from protocol.frames import Frame

TextPair = tuple[str, str]


def public_text() -> list[TextPair]:
    """The public pairs (request, reply) that ship with the project."""
    raw = resources.files("client").joinpath("public_text.json").read_text(encoding="utf-8")
    return [(pair["request"], pair["reply"]) for pair in json.loads(raw)]


def build_frame(
    model: TorchModel,
    base_sha256: str,
    examples: Sequence[tuple[Sequence[int], int]],
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
    weights = [model.linear(name).weight for name in modules]
    model.set_frame(None)
    gradients = [torch.zeros(weight.shape) for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        chunks = [examples[start : start + 12] for start in range(0, len(examples), 12)]
        for done, chunk in enumerate(chunks):
            losses, tokens = model.losses(model.prepare(chunk))
            (losses.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
            for total, weight in zip(gradients, weights, strict=True):
                total += weight.grad.float() if weight.grad is not None else 0.0
                weight.grad = None
            on_progress((done + 1) / len(chunks))
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    left, right = [], []
    for total in gradients:
        u, _, v = torch.linalg.svd(total, full_matrices=False)
        u, v = u[:, :rank], v[:rank]
        signs = torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
        left.append((u * signs).numpy())
        right.append((v * signs.T).numpy())
    built = Frame(base_sha256, rank, scale, modules, tuple(left), tuple(right))
    return Frame.from_bytes(built.to_bytes())  # the very numbers (float16) that every device will read
