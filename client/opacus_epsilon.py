"""The epsilon of Poisson-sampled Gaussian steps, by Opacus's accountants."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence


def gaussian_epsilon(history: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Epsilon at ``delta`` of steps given as (noise multiplier, sampling rate, number), composed.

    The upper bound of the PRV accountant (Gopi et al. 2021), or where that fails numerically the Renyi accountant's
    (Mironov et al. 2019); infinite if neither gives one.
    """
    from opacus.accountants import create_accountant

    for name in ("prv", "rdp"):
        accountant = create_accountant(name)
        accountant.history = list(history)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                epsilon = float(accountant.get_epsilon(delta=delta))
        except (ValueError, RuntimeError, ArithmeticError, MemoryError):
            continue
        if math.isfinite(epsilon) and epsilon >= 0:
            return epsilon
    return math.inf
