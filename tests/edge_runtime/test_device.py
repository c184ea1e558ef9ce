"""A device: opened fast, its own identity, nothing allowed before its owner says so."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_runtime.device import Device, DeviceSettings, default_home
from protocol.errors import PenchantError
from protocol.keys import verify
from tests.edge_runtime.memory_helpers import HashingEmbedder

ROOT = Path(__file__).parents[2]


def new_device(home: Path) -> Device:
    return Device.open(home, create=True, key_method="file", embedder=HashingEmbedder())


def test_identity_and_memory_survive_and_differ_between_devices(tmp_path: Path) -> None:
    with new_device(tmp_path / "a") as device, new_device(tmp_path / "b") as other:
        public = device.identity.public_bytes
        assert public != other.identity.public_bytes
        device.memory.remember("I play the cello")
        private = device.identity.private_bytes
    with Device.open(tmp_path / "a", embedder=HashingEmbedder()) as again:
        assert again.identity.public_bytes == public
        verify(public, b"message", again.identity.sign(b"message"))
        assert [item.text for item in again.memory.items()] == ["I play the cello"]
    on_disk = b"".join(path.read_bytes() for path in (tmp_path / "a").iterdir())
    assert private not in on_disk and b"cello" not in on_disk


def test_opening_is_fast_and_loads_no_model(tmp_path: Path) -> None:
    new_device(tmp_path).close()
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        with Device.open(tmp_path) as device:
            device.memory  # noqa: B018 - part of what is timed
            device.settings  # noqa: B018
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.030
    program = (
        "import sys; from pathlib import Path; from edge_runtime.device import Device\n"
        "device = Device.open(Path(sys.argv[1])); device.memory.items(); device.identity.public_bytes\n"
        "heavy = {'torch', 'llama_cpp', 'flwr', 'transformers', 'keyring', 'gguf'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_no_device_and_wrong_passphrase(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="No device"):
        Device.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    Device.open(tmp_path, create=True, passphrase="four blue herons").close()
    with pytest.raises(PenchantError, match="Wrong passphrase"):
        Device.open(tmp_path, passphrase="five blue herons")
    Device.open(tmp_path, create=True, passphrase="four blue herons").close()


def test_a_lost_or_exchanged_key_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        new_device(tmp_path / name).close()
    (tmp_path / "a" / "device.key").write_bytes((tmp_path / "b" / "device.key").read_bytes())
    with pytest.raises(PenchantError, match="Wrong key"):
        Device.open(tmp_path / "a")
    (tmp_path / "b" / "key.json").unlink()
    (tmp_path / "b" / "device.key").unlink()
    with pytest.raises(PenchantError, match=r"restore key\.json"):
        Device.open(tmp_path / "b", create=True, key_method="file")
    assert not (tmp_path / "b" / "key.json").exists()  # a new key would have locked the old memory for good


def test_nothing_is_shared_until_the_owner_says_so(tmp_path: Path) -> None:
    with new_device(tmp_path) as device:
        assert device.settings == DeviceSettings() and device.settings.share is False
        assert device.change_settings(share=True, epsilon_budget=3.5).epsilon_budget == 3.5
    with Device.open(tmp_path) as device:
        assert device.settings == DeviceSettings(share=True, epsilon_budget=3.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"share": 1},
        {"epsilon_budget": -1},
        {"epsilon_budget": float("nan")},
        {"delta": 0.0},
        {"minimum_roster": 1},
        {"x": 1},
    ],
)
def test_bad_settings_are_refused_and_change_nothing(tmp_path: Path, changes: dict[str, float]) -> None:
    with new_device(tmp_path) as device:
        with pytest.raises(PenchantError):
            device.change_settings(**changes)
        assert device.settings == DeviceSettings()


def test_two_processes_may_set_up_one_device(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edge_runtime.device import Device\n"
        "print(Device.open(Path(sys.argv[1]), create=True, key_method='file').identity.public_bytes.hex())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
        for _ in range(3)
    ]
    identities = {process.communicate()[0].strip() for process in started}
    assert len(identities) == 1 and "" not in identities


def test_a_locked_device_holds_no_key_and_opens_again(tmp_path: Path) -> None:
    device = Device.open(tmp_path, create=True, passphrase="four blue herons", embedder=HashingEmbedder())
    device.memory.remember("I play the cello")
    identity, memory = device.identity.public_bytes, device.memory
    key = device._opened.key.candidates[0]
    assert device.has_passphrase and not device.locked and any(key)
    device.lock()
    device.lock()
    assert device.locked and not any(key) and set(vars(device)) == {"home", "_store", "_embedder"}
    for use in (lambda: device.memory, lambda: device.vault, lambda: device.identity, lambda: device.settings):
        with pytest.raises(PenchantError, match="locked"):
            use()
    with pytest.raises(PenchantError, match="closed or locked"):
        memory.items()
    with pytest.raises(PenchantError, match="Wrong passphrase"):
        device.unlock("five")
    assert device.locked
    device.unlock("four blue herons")
    device.unlock()
    assert device.identity.public_bytes == identity and len(device.memory) == 1
    device.close()


def test_protecting_and_rotating_keep_the_memory(tmp_path: Path) -> None:
    with new_device(tmp_path) as device:
        device.memory.remember("I play the cello")
        page = (tmp_path / "penchant.db").read_bytes()[:4096]
        device.protect("passphrase", "four blue herons")
        assert device.has_passphrase and (tmp_path / "penchant.db").read_bytes()[:4096] == page
        assert device.rotate_key() and (tmp_path / "penchant.db").read_bytes()[:4096] != page
        with (
            Device.open(tmp_path, passphrase="four blue herons"),
            pytest.raises(PenchantError, match="Another program"),
        ):
            device.protect("file")
        device.protect("file")
    with Device.open(tmp_path) as device:
        assert not device.has_passphrase and len(device.memory) == 1


def test_a_lost_file_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    with new_device(tmp_path) as device:
        device.memory.remember("I play the cello")
    (tmp_path / "penchant.db").write_bytes(b"")
    for create in (False, True):
        with pytest.raises(PenchantError, match="empty or gone"):
            Device.open(tmp_path, create=create)


def test_default_home_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("PENCHANT_HOME")
    assert default_home().name == "penchant"
