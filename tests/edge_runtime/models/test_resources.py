"""Settings from measured facts, and the facts from trees like /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.models.resources import MIB, DeviceProfile, probe, resources_for, suggest_resources


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def supply(name: str, **fields: str) -> dict[str, str]:
    return {f"sys/class/power_supply/{name}/{field}": f"{text}\n" for field, text in fields.items()}


def test_more_room_gives_more_and_never_less() -> None:
    sizes = [resources_for(DeviceProfile(8, memory * MIB, True, 0.0)) for memory in (128, 512, 1024, 4096)]
    assert [one.context_tokens for one in sizes] == [1024, 1024, 2048, 4096]
    assert [one.quantisation for one in sizes] == ["q4_0", "q8_0", "q8_0", "q8_0"]


@pytest.mark.parametrize(
    ("cores", "on_mains", "threads"), [(1, True, 1), (8, True, 7), (8, None, 7), (8, False, 4), (1, False, 1)]
)
def test_a_core_stays_free_and_half_of_them_on_battery(cores: int, on_mains: bool | None, threads: int) -> None:
    assert resources_for(DeviceProfile(cores, None, on_mains, None)).threads == threads


def test_memory_is_what_the_system_and_the_control_group_leave(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n", "proc/loadavg": "1.50 1 1 1/9 7\n"})
    assert probe(tmp_path).memory_bytes == 4000 * 1024
    assert probe(tmp_path).load == 1.5
    write(tmp_path, {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n"})
    assert probe(tmp_path).memory_bytes == 4000 * 1024
    write(tmp_path, {"sys/fs/cgroup/memory.max": "1000000\n", "sys/fs/cgroup/memory.current": "400000\n"})
    assert probe(tmp_path).memory_bytes == 600_000


def test_a_system_that_tells_nothing_is_unknown_and_gets_defaults(tmp_path: Path) -> None:
    profile = probe(tmp_path)
    assert (profile.memory_bytes, profile.on_mains, profile.load) == (None, None, None)
    assert resources_for(profile).context_tokens == 2048


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([supply("AC", type="Mains", online="1"), supply("BAT0", type="Battery", status="Charging")], True),
        ([supply("AC", type="Mains", online="0"), supply("BAT0", type="Battery", status="Discharging")], False),
        ([supply("AC", type="Mains", online="0")], True),  # no battery: something feeds it
        ([supply("BAT0", type="Battery", status="Discharging")], False),
        ([supply("BAT0", type="Battery", status="Full")], True),
        ([supply("BAT0", type="Battery", status="Unknown")], None),
        ([supply("mouse", type="Battery", scope="Device", status="Discharging")], True),
        ([supply("usb", type="USB", online="1"), supply("BAT0", type="Battery", status="Discharging")], True),
    ],
)
def test_power(tmp_path: Path, supplies: list[dict[str, str]], expected: bool | None) -> None:
    for files in supplies:
        write(tmp_path, files)
    assert probe(tmp_path).on_mains is expected


def test_this_machine_gets_something_usable() -> None:
    suggested = suggest_resources()
    assert suggested.threads >= 1 and suggested.context_tokens >= 1024
