"""When work that nobody waits for (training, consolidation, summaries) may run, and how it keeps out of the way.

`may_run` is a pure function of measured facts. Where a fact that the policy asks for is not known, the answer is
no: a battery is not drained on a guess. The owner may drop the condition instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from edge_runtime.models.resources import MIB, DeviceProfile
from protocol.errors import PenchantError

_IDLE_LOAD = 0.5  # tasks per core below which a device counts as idle


@dataclass(frozen=True)
class Decision:
    """Whether background work may run now; `reason` is one line for its owner."""

    allowed: bool
    reason: str


@dataclass(frozen=True)
class BackgroundPolicy:
    """`nice` is added to the process's priority number; `memory_cap_bytes` bounds what it may allocate."""

    only_on_mains: bool = True
    only_idle: bool = True
    nice: int = 10
    memory_cap_bytes: int = 2048 * MIB

    def __post_init__(self) -> None:
        if not 0 <= self.nice <= 19 or self.memory_cap_bytes < 64 * MIB:
            raise PenchantError("background work needs a nice value from 0 to 19 and at least 64 MiB of memory")

    def may_run(self, facts: DeviceProfile) -> Decision:
        """Whether work may run on a device in this state."""
        if self.only_on_mains and facts.on_mains is None:
            return Decision(False, "it is not known whether the device runs on battery")
        if self.only_on_mains and not facts.on_mains:
            return Decision(False, "the device runs on battery")
        if self.only_idle and facts.load is None:
            return Decision(False, "it is not known whether the device is busy")
        if self.only_idle and facts.load is not None and facts.load > _IDLE_LOAD * facts.cores:
            return Decision(False, "the device is busy")
        if facts.memory_bytes is not None and facts.memory_bytes < self.memory_cap_bytes:
            return Decision(False, "the device has too little free memory")
        return Decision(True, "nothing speaks against it")

    def apply(self) -> None:
        """Lower this process's priority and cap its memory, for good: call it in the process that does the work."""
        self.lower_priority()
        _cap_memory(self.memory_cap_bytes)

    def lower_priority(self) -> None:
        """Lower this process's priority, for good; Windows keeps it as it is."""
        if sys.platform != "win32":
            os.nice(max(0, self.nice - os.nice(0)))


def without_own(facts: DeviceProfile, *, threads: int, resident_bytes: int) -> DeviceProfile:
    """The facts as they would be without this process, which keeps ``threads`` cores busy: so that background work
    that runs already does not stand down because of itself.
    """
    return replace(
        facts,
        load=None if facts.load is None else max(0.0, facts.load - threads),
        memory_bytes=None if facts.memory_bytes is None else facts.memory_bytes + resident_bytes,
    )


@contextmanager
def memory_capped(cap_bytes: int) -> Iterator[None]:
    """Inside the block allocations of this process beyond ``cap_bytes`` in all fail (``MemoryError``; in torch a
    ``RuntimeError``)."""
    before = _cap_memory(cap_bytes)
    try:
        yield
    finally:
        if before is not None:
            _cap_memory(before)


def _cap_memory(cap_bytes: int) -> int | None:
    """Set the cap and return the one before (-1: none), or None on systems without (Windows).

    It counts heap and private mappings, not the memory-mapped model.
    """
    if sys.platform == "win32":
        return None
    import resource

    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    cap = cap_bytes if hard == resource.RLIM_INFINITY or cap_bytes < 0 else min(cap_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (cap, hard))
    return before
