"""One person's part of a blind sum of adapters: a rank-one matrix that is bounded whatever K is.

The fleet sums ``Y = sum_u w_u (x) delta_u`` (K, d): ``delta_u`` (d,) is a person's residual on the shared adapter,
``w_u`` (K,) its weights on the K public rows ``Q`` (orthonormal) that the sum is taken on. With ``M = sum_u delta_u
delta_u^T`` the rule for ``w_u`` decides what the sum is:

- without noise ``w_u = Q delta_u / C``: ``Y = Q M / C``, one exact step of subspace iteration (Halko, Martinsson and
  Tropp 2011, algorithm 4.4);
- with noise ``w_u = Q delta_u / ||Q delta_u||``: everybody speaks as loudly as the bound allows. The sum is ``Q`` times
  ``sum_u delta_u delta_u^T / ||Q delta_u||``, which weighs people a little differently, and is louder than the exact
  step by ``C / ||Q delta_u||`` under the same noise: a residual of which a tenth lies in the rows speaks three times
  as loudly.

Sensitivity: ``||w||_2 <= 1`` and ``||delta||_2 <= C``, so ``||w (x) delta||_F = ||w||_2 ||delta||_2 <= C``, whatever
the rows are (the server chooses them, and orthonormality is not assumed) and however many there are. One person more
or less moves the sum by at most C in L2, and K costs no privacy: it costs bytes, and noise in more numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.clipping import clip_to_norm
from protocol.errors import ProtocolError
from protocol.frames import Vector


def sketch_weights(rows: NDArray[np.float64], delta: Vector, clip_norm: float, *, noisy: bool) -> Vector:
    """``w`` (K,) with norm at most 1 for a residual (d,) that is clipped to ``clip_norm`` already."""
    projection = rows @ delta
    if not noisy:
        return clip_to_norm(projection / clip_norm, 1.0)[0]
    length = float(np.linalg.norm(projection))
    # A subnormal length would overflow; such a person has nothing to say in these directions.
    return clip_to_norm(projection / length, 1.0)[0] if length > np.finfo(np.float64).tiny else np.zeros(len(rows))


def sketch_contribution(rows: NDArray[np.float64], residual: Vector, clip_norm: float, *, noisy: bool) -> Vector:
    """``w (x) delta`` (K * d,), row by row, with L2 norm at most ``clip_norm``.

    ``rows`` (K, d) are public, ``residual`` (d,) is the person's own; ``noisy``: whether the round's sum carries noise.
    A residual that is not finite counts as zero. Raises ProtocolError if the shapes do not fit.
    """
    if rows.ndim != 2 or residual.shape != rows.shape[1:]:
        raise ProtocolError(f"a residual of shape {residual.shape} does not fit rows of shape {rows.shape}")
    delta, _ = clip_to_norm(residual, clip_norm)
    return np.outer(sketch_weights(rows, delta, clip_norm, noisy=noisy), delta).ravel()
