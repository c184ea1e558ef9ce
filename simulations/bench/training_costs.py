"""What training costs beside its time: privacy, and memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from client.device_profile import MAX_TOKENS
from client.dp_sgd import example_gradients, noisy_mean, prepare_examples
from client.torch_model import Text, TorchModel
from client.training_work import TextSettings, TextWork
from protocol.errors import PenchantError
from protocol.frames import Frame
from simulations.bench.case import Case

NOISE_MULTIPLIER, CLIP_NORM = 1.0, 0.5
REPEATS: Final = 3
MESSAGES: Final = 16
_CHILD: Final = f"""
import json, resource, sys
from pathlib import Path
from client.personal_training import train_device
from edge_runtime.device import Device
from simulations.datasets.village import load_village
with Device.open(Path(sys.argv[1]), create=True, key_method="file") as device:
    for each in load_village()[0].train_messages[:{MESSAGES}]:
        device.memory.remember(each.text, cue=each.cue, said_at=each.date)
    made = train_device(device, privacy=None, created="2000-01-01", on_progress=lambda stage, fraction: None)
assert made.steps
status = Path("/proc/self/status")
if status.exists():  # ru_maxrss would count what the parent had in memory when it started this process
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
print(json.dumps({{"peak_kib": peak}}))
"""


def private_cost(model: TorchModel, frame: Frame, texts: Sequence[Text], batch_size: int) -> Case:
    """Milliseconds per example of private and of plain steps on the same texts, turn by turn; medians of passes."""
    plain = TextWork(model, frame, texts, [], TextSettings(1, batch_size), max_tokens=MAX_TOKENS)
    examples, random = prepare_examples(model, texts, max_tokens=MAX_TOKENS), np.random.default_rng(0)
    theta = random.normal(0.0, 0.01, frame.dimension)

    def plain_pass() -> None:
        for step in range(plain.steps):
            plain.gradient(theta, 0, step, batch_size)

    def private_pass() -> None:
        for index in np.array_split(random.permutation(len(texts)), plain.steps):
            gradients = example_gradients(model, frame, examples, index, theta)
            noisy_mean(gradients, CLIP_NORM, NOISE_MULTIPLIER, batch_size, random)

    ours, peer = [], []
    for _ in range(REPEATS):
        ours.append(1e3 * _seconds(private_pass) / len(texts))
        peer.append(1e3 * _seconds(plain_pass) / len(texts))
    return Case(
        statistics.median(ours), statistics.median(peer), "ms per example", {"ours_all": ours, "peer_all": peer}
    )


def peak_memory() -> float:
    """Megabytes (10^6 bytes) at most of a fresh process that trains a person's adapter, from opening the model to the
    gate's verdict."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run([sys.executable, "-c", _CHILD, home], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PenchantError("the training process of this benchmark failed: check `penchant model info`")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_kib"]) * 1024 / 1e6


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
