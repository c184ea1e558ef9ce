"""The peer's half of a comparison in turns (``simulations.fleets.peers.peer`` is ours): wait, do a round, report it.

Runs in an environment without this project, where it is a top-level module. Requests come by standard input, one line
each; answers are lines of standard output that begin with ``MARK``, and whatever else a library prints is passed over.
"""

from __future__ import annotations

import json
import sys
import time

MARK = "@@turn "


class Turns:
    """``begin`` blocks until it is our turn and starts the clock; ``end`` stops it and reports."""

    def __init__(self) -> None:
        self._out, self._started = sys.stdout, 0.0

    def begin(self) -> None:
        """Ends the process if whoever asks is gone."""
        if not sys.stdin.readline():
            raise SystemExit(0)
        self._started = time.perf_counter()

    def end(self) -> None:
        """Report the seconds since ``begin``."""
        self.say(seconds=time.perf_counter() - self._started)

    def say(self, **fields: object) -> None:
        """One line of JSON."""
        self._out.write(MARK + json.dumps(fields) + "\n")
        self._out.flush()
