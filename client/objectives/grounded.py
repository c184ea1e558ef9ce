"""Replies given retrieved context: what the owner wrote after the very prompt that would serve it, earlier texts as
notes, so that the adapter learns what the notes do not give, and to use what they give.

    L = - sum_i sum_t log p_theta(y_it | notes_i, x_i, y_i<t) / number of target tokens

notes_i are what recall finds for the request x_i among what memory held *before* text i: never the text itself, nor
anything later; `client/served_prompts.py` lays them out as at serving time. Without them in training, an adapter and a
prompt with notes repeat each other. (Training with the retrieved context in the prompt: RAFT, Zhang et al. 2024.)

A message is a note in the prompts of later ones, so one message takes part in many gradients: not for private training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from client.objectives.objective import Objective
from client.served_prompts import served_choice, served_message
from edge_runtime.engine.engine import Engine
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import MemoryItem

MAX_TOKENS: Final = 400
ROOM: Final = 300  # tokens of the prompt, from which on notes are left out


def grounded(
    engine: Engine,
    memory: Memory,
    messages: Sequence[MemoryItem],
    choices: Sequence[Preference],
    *,
    weight: float = 1.0,
) -> Objective:
    """The messages and the preferred answers, each after the prompt that ``memory`` would have given it."""
    texts = [served_message(engine, memory, item, room=ROOM) for item in messages]
    texts += [served_choice(engine, memory, choice, room=ROOM) for choice in choices]
    return Objective("grounded", tuple(texts), weight=weight, max_tokens=MAX_TOKENS)
