"""The objectives that are on, and how much each counts: what `penchant train` minimises unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from client.objectives.grounded import grounded
from client.objectives.next_token import next_token
from client.objectives.objective import Objective
from edge_runtime.engine.engine import Engine
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import MemoryItem

# lambda of each; what is not here is off: nothing yet shows that it helps (`simulations.objective_study` asks).
WEIGHTS: Final = {"next_token": 1.0}


def default_objectives(
    engine: Engine,
    memory: Memory,
    messages: Sequence[MemoryItem],
    choices: Sequence[Preference],
    *,
    private: bool,
) -> list[Objective]:
    """The objectives of these messages and choices (older to newer), without empty ones. ``private``: only those whose
    items are one text each."""
    made = [next_token(engine, messages, choices, weight=WEIGHTS["next_token"])]
    if not private and "grounded" in WEIGHTS:
        made.append(grounded(engine, memory, messages, choices, weight=WEIGHTS["grounded"]))
    return [objective for objective in made if len(objective)]
