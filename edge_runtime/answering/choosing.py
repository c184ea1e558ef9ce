"""Which of several answers suits the owner: what the model expects plus how far each leans their way.

    score(option) = mean log-probability per token after the question + LEANING_WEIGHT * leaning(option)

a product of experts: the model knows what is an answer, the owner's own statements say which they would take. The
weight was chosen on four of PrefEval's topics; `penchant bench preferences` reports the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_runtime.answering.guard import as_data
from edge_runtime.answering.leaning import leanings
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.memory.memory import TextEmbedder
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Engine

LEANING_WEIGHT: Final = 7.0
_SYSTEM: Final = "You are a helpful assistant."
_OPENING: Final = "I suggest:"
_WORKED: Final = (
    ("Which dessert should I bake?", "Bake a lemon tart."),
    ("How should I travel to the island?", "Take the small plane to the island."),
    ("How can I read more this year?", "Carry a paperback with you."),
)


@dataclass(frozen=True)
class RankedOption:
    """An option with its score and what it is made of: nats per token, and the leaning before its weight."""

    option: str
    score: float
    likelihood: float
    leaning: float


def choose(
    engine: Engine, embedder: TextEmbedder, question: str, options: Sequence[str], statements: Sequence[str]
) -> list[RankedOption]:
    """The options, best first; `statements` are the owner's own words that matter here (none: likelihood alone).

    PenchantError for fewer than two options or an empty one.
    """
    if len(options) < 2 or any(not option.strip() for option in options):
        raise PenchantError("A choice needs at least two options, none of them empty.")
    prompt = engine.tokenise(_prompt(engine, question))
    scored = engine.score(prompt, [engine.tokenise(f" {option}", special=False) for option in options])
    ranked = [
        RankedOption(option, float(logs.mean()) + LEANING_WEIGHT * float(leaning), float(logs.mean()), float(leaning))
        for option, logs, leaning in zip(options, scored, leanings(statements, options, embedder), strict=True)
    ]
    return sorted(ranked, key=lambda one: -one.score)


def _prompt(engine: Engine, question: str) -> str:
    turns = [ChatMessage("system", _SYSTEM)]
    for asked, advice in _WORKED:
        turns += [ChatMessage("user", asked), ChatMessage("assistant", f"{_OPENING} {advice}")]
    return engine.chat_prompt([*turns, ChatMessage("user", as_data(engine, question))]) + _OPENING
