"""Next-token loss on what the owner wrote and what they preferred, without notes: the adapter learns the voice, the
notes carry the facts.

    L = - sum_i sum_t log p_theta(y_it | x_i, y_i<t) / number of target tokens

with x_i the short serving prompt and y_i the reply to the end of its turn. One text makes one example, so private
training takes it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from client.examples import choice_example, message_example
from client.objectives.objective import Objective
from edge_runtime.engine.engine import Engine
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.statements import MemoryItem


def next_token(
    engine: Engine, messages: Sequence[MemoryItem], choices: Sequence[Preference], *, weight: float = 1.0
) -> Objective:
    """The messages and the preferred answers, each after the prompt that serves it."""
    texts = [message_example(engine, item) for item in messages]
    texts += [choice_example(engine, choice) for choice in choices]
    return Objective("next_token", tuple(texts), weight=weight)
