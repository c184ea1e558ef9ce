"""A few memories and choices, made by hand, and pairs of noise for the tiny model of `tests/client/framed_help.py`."""

from __future__ import annotations

from client.examples import Example
from client.objectives.objective import Pair
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.statements import Kind, MemoryItem
from tests.client.framed_help import some_texts


def item(
    id: int,
    text: str,
    *,
    cue: str = "",
    said_at: str = "2025-01-01",
    source: str = "me",
    kind: Kind = "statement",
    speaker: str = "",
    document: str = "",
    position: int = 0,
    valid_until: str | None = None,
) -> MemoryItem:
    return MemoryItem(id, text, cue, said_at, source, said_at, kind, speaker, document, position, valid_until)


def choice(prompt: str = "Tea?", chosen: str = "green", rejected: str = "black") -> Preference:
    return Preference(1, prompt, chosen, rejected, "2025-01-01")


def some_examples(count: int = 6, seed: int = 0) -> tuple[Example, ...]:
    return tuple(Example(tuple(tokens), prompt) for tokens, prompt in some_texts(count, seed))


def some_pairs(count: int = 3) -> tuple[Pair, ...]:
    """Pairs of different lengths; the two replies of one have the same prompt."""
    pairs = []
    for first, second in zip(some_examples(count, 1), some_examples(count, 2), strict=True):
        prompt = first.tokens[: first.prompt_length]
        other = Example(prompt + second.tokens[second.prompt_length :], first.prompt_length)
        pairs.append(Pair(first, other))
    return tuple(pairs)
