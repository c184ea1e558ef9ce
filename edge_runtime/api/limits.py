"""How much one caller may ask: sizes, rates, and attempts at the passphrase."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Clock = Callable[[], float]

_FREE_ATTEMPTS: Final = 4  # wrong passphrases before the first pause
_LONGEST_PAUSE: Final = 300.0


@dataclass(frozen=True)
class Limits:
    """`requests_per_second` with room for `burst` at once (opening the page takes 18); `requests` in work and `answers`
    waiting for the model at one time; bytes of all headers, bytes of a body and the seconds it may take to arrive."""

    requests_per_second: float = 20.0
    burst: int = 240
    requests: int = 32
    answers: int = 8
    header_bytes: int = 1 << 14
    body_bytes: int = 1 << 20
    body_seconds: float = 20.0


class TokenBucket:
    """`burst` tokens that refill at `rate` a second; every request takes one."""

    def __init__(self, rate: float, burst: int, clock: Clock = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = float(burst), clock()

    def take(self) -> float:
        """0 and a token less, or the seconds until there is one."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate


class Attempts:
    """Pauses after wrong passphrases: none for the first four, then 1, 2, 4 ... up to 300 seconds."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures, self._until = 0, 0.0

    def pause(self) -> float:
        """Seconds until the next attempt is allowed."""
        return max(0.0, self._until - self._clock())

    def failed(self) -> None:
        """Notes a wrong passphrase."""
        self._failures += 1
        if self._failures >= _FREE_ATTEMPTS:
            # the exponent is bounded too: 2.0 ** 1024 overflows
            pause = min(_LONGEST_PAUSE, 2.0 ** min(self._failures - _FREE_ATTEMPTS, 16))
            self._until = self._clock() + pause

    def succeeded(self) -> None:
        """Forgets the failures."""
        self._failures, self._until = 0, 0.0
