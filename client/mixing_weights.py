"""A person's private weights on the fleet's adapter bases: K numbers, from a residual or straight from texts.

A person's adapter is ``shared + w @ directions`` (`protocol.bank`) with ``w ~ N(0, diag(spread^2))``.

`residual_weights`: from a residual that has been trained anyway (a member's, for the sums). With ``residual = w @
directions + e``, e isotropic with deviation tau, the posterior mean shrinks the projection by ``spread^2 / (spread^2 +
tau^2)`` (Wiener); tau is measured where the directions are not.

`fit_weights`: for a newcomer, who has trained nothing. One pass over a handful of texts, each with its own copy of w,
gives the gradients ``g_i`` (K,) of their losses; Newton's step of the posterior is

    w <- w - (F + diag(1 / spread^2))^-1 (sum_i g_i + w / spread^2),
    F = b / (b - 1) sum_i (g_i - n_i g) (g_i - n_i g)^T,        g = sum_i g_i / sum_i n_i per token, n_i tokens

where F stands in for the curvature: at the truth the covariance of the gradients is the Fisher information, and words
of one text that depend on each other make it larger, i.e. the step shorter. The model, the shared adapter and the
directions are frozen; only K numbers are fitted, and without signal they stay at 0, the shared adapter.
"""

from __future__ import annotations

import numpy as np
import torch

from client.torch_model import Batch, TorchModel, as_theta
from protocol.bank import Bank
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector


def residual_weights(residual: Vector, bank: Bank) -> Vector:
    """Weights (K,) of a trained residual (d,) on an adapter bank. Raises PenchantError if they do not fit."""
    if residual.shape != (bank.dimension,):
        raise PenchantError(f"a residual of {len(residual)} numbers does not fit a bank of {bank.dimension}")
    projection = bank.directions @ residual
    beyond = max(float(residual @ residual - projection @ projection), 0.0)
    noise = beyond / max(bank.dimension - bank.count, 1)
    squares = bank.spread**2
    weights: Vector = projection * np.divide(squares, squares + noise, out=np.zeros(bank.count), where=squares > 0.0)
    return weights


def fit_weights(model: TorchModel, frame: Frame, batch: Batch, bank: Bank, *, passes: int = 1) -> Vector:
    """Weights (K,) that explain the batch's texts best under the bank's prior, after ``passes`` passes over them.

    Raises PenchantError if the bank is not one of adapters in this frame.
    """
    if bank.space != "adapter" or bank.space_sha256 != frame.digest:
        raise PenchantError("these bases were made for another frame; fetch the fleet's current ones")
    weights = np.zeros(bank.count)
    moving = bank.spread > 0.0
    if not moving.any():
        return weights
    shared = as_theta(bank.shared)
    directions = torch.from_numpy(bank.directions[moving].astype(np.float32))
    precision = np.diag(bank.spread[moving] ** -2.0)
    model.set_frame(frame)
    for _ in range(passes):
        start = np.tile(weights[moving].astype(np.float32), (len(batch.targets), 1))
        own = torch.from_numpy(start).requires_grad_(True)  # (b, K)
        model.set_coordinates(frame, shared + own @ directions)
        losses, tokens = model.losses(batch)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        if own.grad is None:
            raise PenchantError("the texts say nothing about the bases; the frame does not fit this model")
        gradients = own.grad.double().numpy()  # (b, K)
        curvature = precision + _curvature(gradients, tokens.double().numpy())
        pull = gradients.sum(axis=0) + precision @ weights[moving]
        weights[moving] -= np.linalg.solve(curvature, pull)
    model.set_frame(None)
    return weights


def _curvature(gradients: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """F (K, K) from the texts' gradients (b, K) and lengths (b,); a single text bounds nothing but its own square."""
    if len(gradients) < 2:
        return np.asarray(gradients.T @ gradients)
    centred = gradients - np.outer(tokens, gradients.sum(axis=0) / tokens.sum())
    return np.asarray(len(gradients) / (len(gradients) - 1) * centred.T @ centred)
