"""Memory that is let go goes back, in a process of its own as the settings are the process's."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CHILD = """
import gc
import numpy as np
from client.heap import drop_unused, give_back_large_blocks

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

class Ring:
    def __init__(self):
        self.me, self.data = self, np.ones(8 * 2**20)

gc.disable()
give_back_large_blocks()
before = resident()
ring = Ring()
full = resident() - before
del ring
held = resident() - before
drop_unused()
print(full, held, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and the setting is glibc's")
def test_what_refers_to_itself_alone_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True)
    full, held, left = map(float, done.stdout.split())
    assert full > 60 and held > 60 and left < 8
