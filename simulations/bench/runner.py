"""`penchant bench NAME`: one benchmark, ours and the peer's in one run, written as one JSON document.

Every benchmark is a function that returns its cases; it measures both sides alternately in the same process or says why
not, so that what else the machine does hits both. Figures are medians over repeats unless the case says otherwise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from protocol.errors import PenchantError
from simulations.bench.case import Case
from simulations.machine import describe_machine

OnProgress = Callable[[str, float], None]

# name -> (module with `run(on_progress=...)`, one line)
BENCHMARKS: Final[Mapping[str, tuple[str, str]]] = {
    "adapters": ("simulations.bench.adapters", "changing a mix, swapping and loading adapters against bare llama.cpp"),
    "decode": ("simulations.bench.decode", "tokens per second against bare llama.cpp"),
    "prefix": ("simulations.bench.prefix", "first token after a shared prefix against reading it again"),
    "retrieval": ("simulations.bench.retrieval", "hybrid search in 20,000 encrypted chunks"),
    "memory": ("simulations.bench.memory", "peak memory of a chatting device"),
    "secagg": ("simulations.bench.secagg", "a secure sum against Flower's SecAgg+ and against plain summing"),
    "training": ("simulations.bench.training", "personal training in the frame against LoRA by peft"),
    "wire": ("simulations.bench.wire", "bytes per person and round of every federated strategy, from real messages"),
    "fleet": ("simulations.bench.fleet", "people per second of a simulated fleet against pfl and Flower"),
    "bases": ("simulations.bench.bases", "what fitting a newcomer costs, against LoRe's few-shot fit"),
    "recall": ("simulations.bench.recall", "evidence found in LoCoMo's chats against BM25"),
    "preferences": ("simulations.bench.preferences", "PrefEval: the right preference found, and the right choice made"),
    "summary": ("simulations.bench.summary", "a summary and a quarter of the memories against all of them"),
}
# name -> module with `draw(cases, path)`: a picture beside the figures
PICTURES: Final[Mapping[str, str]] = {
    "secagg": "simulations.bench.secagg_plot",
    "training": "simulations.bench.training_plot",
}
_VERSIONS = ("penchant", "llama-cpp-python", "numpy", "sqlcipher3-wheels", "flwr", "torch", "transformers", "peft")


def run_benchmark(name: str, on_progress: OnProgress) -> dict[str, Any]:
    """The document of one benchmark: name, machine, versions, seconds, cases. PenchantError for an unknown name."""
    if name not in BENCHMARKS:
        raise PenchantError(f"there is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    started = time.monotonic()
    cases: dict[str, Case] = import_module(BENCHMARKS[name][0]).run(on_progress=on_progress)
    return {
        "name": name,
        "machine": describe_machine(),
        "versions": {package: version(package) for package in _VERSIONS},
        "seconds": round(time.monotonic() - started, 1),
        "cases": {case: figures.to_dict() for case, figures in cases.items()},
    }


def draw_benchmark(document: Mapping[str, Any], path: Path) -> bool:
    """Write the benchmark's picture to `path` (PNG) and say whether there is one."""
    module = PICTURES.get(document["name"])
    if module is not None:
        import_module(module).draw(document["cases"], path)
    return module is not None


def median_milliseconds(action: Callable[[], object], repeats: int) -> float:
    """Median time of `action` in ms, after one unmeasured call."""
    action()
    return statistics.median(timed_milliseconds(action) for _ in range(repeats))


def timed_milliseconds(action: Callable[[], object]) -> float:
    """Time of one call in ms."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1e3
