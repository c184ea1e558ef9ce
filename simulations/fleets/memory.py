"""The peak memory of this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory() -> float:
    """Megabytes (10^6 bytes) of resident memory at most so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent had in memory when it started this process
        kibibytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    else:
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    return kibibytes * 1024 / 1e6
