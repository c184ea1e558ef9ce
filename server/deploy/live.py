"""What a running server says about itself: a small file, replaced in one step, that status and dashboard read.

Aggregates only. Bytes are counted over the life of the fleet's folder; everything else is of now.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from server.releases import write_atomically


@dataclass(frozen=True)
class LiveState:
    """`online` of `enrolled` devices are connected; `stage` of `round`.`attempt`: `answered` of `asked`. `process` is
    0 when no server runs; `written` is when this was written (ISO time)."""

    process: int = 0
    written: str = ""
    online: int = 0
    enrolled: int = 0
    round: int = -1
    attempt: int = 0
    stage: str = ""
    answered: int = 0
    asked: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    def save(self, path: Path) -> LiveState:
        """Write it, stamped with the time."""
        stamped = replace(self, written=datetime.now(UTC).isoformat(timespec="seconds"))
        write_atomically(path, json.dumps(asdict(stamped)).encode())
        return stamped


def read_live(path: Path) -> LiveState:
    """The last state written; an empty one if there is none or it cannot be read."""
    try:
        return LiveState(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return LiveState()
