"""A second opinion on epsilon: the PRV accountant (Gopi, Lee and Wutschitz 2021), as Opacus implements it.

It composes the Gaussian mechanism of each event by numerical convolution, an entirely different computation from
`protocol.accounting`; the two must agree to its numerical error. Discrete noise enters as the Gaussian noise that
dominates it (`protocol/gaussian_domination.py`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from protocol.accounting import PrivacyEvent

EPSILON_ERROR = 0.001


def epsilon_prv(events: Sequence[PrivacyEvent], delta: float) -> float | None:
    """Upper bound on epsilon at `delta` of all events together; None without noise, without Opacus, or where the
    convolution fails numerically. No events: 0.0.
    """
    history = [
        (event.noise_multiplier, event.sampling_probability, event.count) for event in merged(events) if event.count
    ]
    if not history:
        return 0.0
    if any(noise_multiplier == 0.0 for noise_multiplier, _, _ in history):
        return None
    try:
        accountants: Any = import_module("opacus.accountants")
    except ImportError:
        return None
    accountant = accountants.PRVAccountant()
    accountant.history = history
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            epsilon = float(accountant.get_epsilon(delta=delta, eps_error=EPSILON_ERROR))
    except (ValueError, RuntimeError, ArithmeticError, MemoryError):
        return None
    return epsilon if math.isfinite(epsilon) else None


def merged(events: Sequence[PrivacyEvent]) -> list[PrivacyEvent]:
    """Events of the same noise and sampling as one, so that the convolution is done once for each kind."""
    counts: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.gaussian_noise_multiplier, event.sampling_probability)
        counts[key] = counts.get(key, 0) + event.count
    return [PrivacyEvent(noise, sampling, count) for (noise, sampling), count in counts.items()]
