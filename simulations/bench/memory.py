"""`penchant bench memory`: the peak memory of a device that chats, with the default models.

A fresh process opens a device, remembers, recalls (so the embedder is loaded), and answers three questions; what the
system says was its largest resident set is the figure (memory-mapped model pages included). No peer: runtimes that have
no memory of their own do less.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from protocol.errors import PenchantError
from simulations.bench.case import Case
from simulations.bench.runner import OnProgress

_CHILD = """
import json, resource, sys
from pathlib import Path
from edge_runtime.answering.pipeline import Assistant
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import find_model
with Device.open(Path(sys.argv[1]), create=True, key_method="file") as device:
    with Engine.open(find_model(), threads=1) as engine:
        device.memory.remember("My dog is called Bruno.")
        device.memory.remember("On Thursdays I sing in a choir.")
        assistant, conversation = Assistant(device, engine), device.conversations.new()
        for question in ("What is my dog called?", "When do I sing?", "Write a line to my choir."):
            stream = assistant.stream(question, conversation=conversation)
            text = "".join(stream.pieces)
            assert text.strip()
status = Path("/proc/self/status")
if status.exists():  # ru_maxrss would count what the parent had in memory when it started this process
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
print(json.dumps({"peak_kib": peak}))
"""


def run(on_progress: OnProgress) -> dict[str, Case]:
    """One case in megabytes (10^6 bytes)."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run([sys.executable, "-c", _CHILD, home], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PenchantError("the chatting process of this benchmark failed: check `penchant model info`")
    on_progress("chatting", 1.0)
    return {"chat": Case(json.loads(done.stdout.splitlines()[-1])["peak_kib"] * 1024 / 1e6, None, "MB")}
