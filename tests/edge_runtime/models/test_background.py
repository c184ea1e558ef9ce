"""When background work may run, and what it may take."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from edge_runtime.models.background import BackgroundPolicy, memory_capped, without_own
from edge_runtime.models.resources import MIB, DeviceProfile
from protocol.errors import PenchantError

READY = DeviceProfile(cores=4, memory_bytes=8192 * MIB, on_mains=True, load=0.2)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (replace(READY, on_mains=False), "battery"),
        (replace(READY, on_mains=None), "not known"),
        (replace(READY, load=3.0), "busy"),
        (replace(READY, load=None), "not known"),
        (replace(READY, memory_bytes=100 * MIB), "memory"),
    ],
)
def test_each_condition_stops_the_work_and_says_why(facts: DeviceProfile, why: str) -> None:
    decision = BackgroundPolicy().may_run(facts)
    assert not decision.allowed and why in decision.reason


def test_an_idle_device_on_mains_may_work() -> None:
    assert BackgroundPolicy().may_run(READY).allowed
    assert BackgroundPolicy().may_run(replace(READY, memory_bytes=None)).allowed


def test_conditions_that_are_dropped_do_not_count() -> None:
    policy = BackgroundPolicy(only_on_mains=False, only_idle=False)
    assert policy.may_run(replace(READY, on_mains=None, load=None)).allowed
    assert policy.may_run(replace(READY, on_mains=False, load=9.0)).allowed


@pytest.mark.parametrize("wrong", [{"nice": -1}, {"nice": 20}, {"memory_cap_bytes": 1}])
def test_senseless_policies_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(PenchantError):
        BackgroundPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="the memory cap is Linux's RLIMIT_DATA")
def test_the_worker_is_nice_and_cannot_take_more_than_its_cap() -> None:
    script = (
        "import os\n"
        "from edge_runtime.models.background import BackgroundPolicy\n"
        "BackgroundPolicy(nice=7, memory_cap_bytes=256 << 20).apply()\n"
        "small = bytearray(16 << 20)\n"
        "try:\n    bytearray(512 << 20)\n    capped = False\n"
        "except MemoryError:\n    capped = True\n"
        "print(os.nice(0), capped)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    number, capped = done.stdout.split()
    assert int(number) >= 7 and capped == "True"


def test_work_that_runs_does_not_stand_down_because_of_itself() -> None:
    running = replace(READY, load=2.5, memory_bytes=1024 * MIB)
    assert not BackgroundPolicy().may_run(running).allowed
    alone = without_own(running, threads=1, resident_bytes=1024 * MIB)
    assert (alone.load, alone.memory_bytes) == (1.5, 2048 * MIB) and BackgroundPolicy().may_run(alone).allowed
    assert without_own(replace(READY, load=0.5), threads=4, resident_bytes=0).load == 0.0
    unknown = without_own(DeviceProfile(4, None, None, None), threads=1, resident_bytes=5)
    assert (unknown.memory_bytes, unknown.load) == (None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory cap is Linux's RLIMIT_DATA")
def test_the_cap_holds_inside_its_block_only() -> None:
    with memory_capped(2048 * MIB), pytest.raises(MemoryError):
        bytearray(4096 * MIB)
    import resource

    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
