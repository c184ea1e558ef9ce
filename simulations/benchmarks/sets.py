"""Which benchmarks there are, by name, and where each lies below the data folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from protocol.errors import PenchantError
from simulations.benchmarks import memory_chats, own_sets
from simulations.benchmarks.form import Benchmark
from simulations.benchmarks.lamp import LAMP, lamp
from simulations.benchmarks.longlamp import LONG_LAMP, longlamp
from simulations.benchmarks.peft_u import peft_u
from simulations.benchmarks.preference_pairs import personalllm, prism

Loader = Callable[[Path, int, int], Benchmark]  # data folder, people, seed


def _lamp(name: str, folder: Path, people: int, seed: int) -> Benchmark:
    return lamp(folder, name, people)


def _longlamp(name: str, folder: Path, people: int, seed: int) -> Benchmark:
    return longlamp(folder, name, people)


SETS: Final[Mapping[str, Loader]] = {
    "blogs": lambda folder, people, seed: own_sets.writing(folder, "blogs", people, seed),
    "novels": lambda folder, people, seed: own_sets.writing(folder, "novels", people, seed),
    "prefeval": own_sets.prefeval,
    "ukpconvarg": own_sets.ukpconvarg,
    "movielens": own_sets.movielens,
    "locomo": lambda folder, people, seed: memory_chats.locomo(folder, people),
    "realtalk": lambda folder, people, seed: memory_chats.realtalk(folder, people),
    **{name: partial(_lamp, name) for name in LAMP},
    **{name: partial(_longlamp, name) for name in LONG_LAMP},
    "peft_u": lambda folder, people, seed: peft_u(folder, people),
    "prism": lambda folder, people, seed: prism(folder, people),
    "personalllm": lambda folder, people, seed: personalllm(folder, people),
}


def load(name: str, folder: Path, people: int, seed: int) -> Benchmark:
    """The benchmark ``name`` with at most ``people`` people, chosen by ``seed`` where there is a choice."""
    if name not in SETS:
        raise PenchantError(f"there is no benchmark {name!r}: take one of {', '.join(SETS)}")
    return SETS[name](folder, people, seed)
