"""One line of a benchmark: our figure, the peer's from the same run, and their ratio."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """`ours` and `peer` in `unit`; `peer` is None where there is none. `more` holds what else was measured (intervals,
    counts, settings), as JSON values."""

    ours: float
    peer: float | None
    unit: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """ours / peer; None without a peer or with a peer of 0."""
        return None if not self.peer else self.ours / self.peer

    def to_dict(self) -> dict[str, Any]:
        """The object of the contract: ours, peer, ratio, unit, and `more` beside them."""
        return {"ours": self.ours, "peer": self.peer, "ratio": self.ratio, "unit": self.unit, **self.more}
