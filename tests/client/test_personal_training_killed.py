"""`penchant train` in a process of its own, killed: what goes on from there ends in the same file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import client.device_profile as device_profile
import client.personal_training as personal
from client.training_ledger import TrainingLedger
from client.training_run import kept_state
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.device import Device
from edge_runtime.memory.statements import Statement
from tests.client import test_personal_training
from tests.client.test_personal_training import text_of, train, trained

device = test_personal_training.device  # the fixture

_CHILD = """
import sys, time
from pathlib import Path
import client.device_profile
import client.personal_plan
import client.personal_training
from client.personal_training import train_device
from edge_runtime.device import Device
from edge_runtime.models.resources import MIB, DeviceProfile
from tests.edge_runtime.memory_helpers import HashingEmbedder

client.device_profile.LORA_RANK = 2
client.personal_plan.probe = lambda: DeviceProfile(cores=2, memory_bytes=4096 * MIB, on_mains=True, load=0.0)
client.personal_training.public_text = lambda: [("Say it.", "here it is"), ("What is it?", "a thing")]

def show(stage, fraction):
    print(stage, fraction, flush=True)
    if stage == "training":
        time.sleep(0.05)

with Device.open(Path(sys.argv[1]), embedder=HashingEmbedder()) as device:
    train_device(device, privacy=None, created="2025-03-01", on_progress=show)
"""


def test_a_killed_training_ends_in_the_same_bytes(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another process, killed (SIGKILL) between two checkpoints; what goes on from there makes the file that a
    training without interruption makes."""
    device.memory.remember_many(Statement(f"{text_of(n)} again", "Say it.", f"2025-03-{n + 1:02d}") for n in range(28))
    monkeypatch.setattr(device_profile, "LORA_RANK", 2)
    made = list[bytes]()
    written = personal.adapter_file
    monkeypatch.setattr(personal, "adapter_file", lambda *rest, **more: made.append(written(*rest, **more)) or made[-1])
    plain = trained(train(device))
    assert plain.steps >= 15 and plain.stop_texts > 0
    AdapterLog(device.vault).use(None)
    planned = TrainingLedger(device.vault).entries()[-1].planned

    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path / "home")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("training") and float(line.split()[-1]) * planned > 12.5:
            break
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    state, lines = kept_state(device.vault), list[str]()
    assert state is not None and 10 <= state.step < 13  # the steps that were taken since are done again
    assert TrainingLedger(device.vault).entries()[-1].steps >= 13
    resumed = trained(train(device, lines=lines))
    assert f"after step {state.step}" in lines[0] and resumed.steps == plain.steps
    assert made[0] == made[1] and len(made) == 2
    assert TrainingLedger(device.vault).entries()[-1].steps == plain.steps
