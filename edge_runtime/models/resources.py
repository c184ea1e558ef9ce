"""What this device has to spare, and the settings that follow from it.

`probe` measures (Linux's /proc and /sys; elsewhere what Python knows), `resources_for` decides and is a pure
function. What cannot be measured is None and gets a cautious default.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
ROOT = Path("/")


@dataclass(frozen=True)
class DeviceProfile:
    """Measured facts. `cores` this process may use; `memory_bytes` that are free for it; `on_mains` False on battery;
    `load` is the number of tasks that want a processor (one-minute average). None: not known here.
    """

    cores: int
    memory_bytes: int | None
    on_mains: bool | None
    load: float | None


@dataclass(frozen=True)
class Resources:
    """Settings for `find_model` and `Engine.open`."""

    threads: int
    context_tokens: int
    quantisation: str


def suggest_resources() -> Resources:
    """The settings for this device, now."""
    return resources_for(probe())


def resources_for(profile: DeviceProfile) -> Resources:
    """Settings for a device.

    One core stays free (llama.cpp collapses when it competes for its last one), half of them on battery. A context
    costs 23 kB per token on the default model, so 4,096 tokens are 94 MB. Q8_0 everywhere but on devices with hardly
    any memory: adapters name the file they were trained on, and a fleet needs one file.
    """
    threads = profile.cores // 2 if profile.on_mains is False else profile.cores - 1
    free = profile.memory_bytes if profile.memory_bytes is not None else 1024 * MIB
    context_tokens = 4096 if free >= 2048 * MIB else 2048 if free >= 768 * MIB else 1024
    return Resources(max(1, threads), context_tokens, "q8_0" if free >= 512 * MIB else "q4_0")


def probe(root: Path = ROOT) -> DeviceProfile:
    """Measure this device; `root` is where /proc and /sys lie."""
    return DeviceProfile(_cores(), _free_memory(root), _on_mains(root), _load(root))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory(root: Path) -> int | None:
    """What the system says is available, and no more than what this process's control group leaves."""
    free = None
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (_read(root / "sys/fs/cgroup" / name).strip() for name in ("memory.max", "memory.current"))
    if limit.isdigit() and used.isdigit():
        left = max(0, int(limit) - int(used))
        free = left if free is None else min(free, left)
    return free


def _on_mains(root: Path) -> bool | None:
    """True if a mains supply is online, or nothing here runs on a battery; None where the system does not tell."""
    folder = root / "sys/class/power_supply"
    if not folder.is_dir():
        return None
    supplies = [(_read(path / "type").strip(), path) for path in sorted(folder.iterdir())]
    mains = [_read(path / "online").strip() for kind, path in supplies if kind in ("Mains", "USB")]
    if "1" in mains:
        return True
    # a mouse's battery says "Device": it does not feed this machine
    batteries = [
        path for kind, path in supplies if kind == "Battery" and _read(path / "scope").strip() in ("", "System")
    ]
    if not batteries:
        return True
    states = {_read(path / "status").strip() for path in batteries}
    if "Discharging" in states or mains:
        return False
    return True if states <= {"Charging", "Full", "Not charging"} else None


def _load(root: Path) -> float | None:
    try:
        return float(_read(root / "proc/loadavg").split()[0])
    except (IndexError, ValueError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
