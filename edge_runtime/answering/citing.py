"""Which notes an answer rests on: those whose words it says that the question did not.

Deterministic overlap, since a model of 135M parameters cannot be trusted to name its sources. An answer in words of
its own, or from general knowledge, rests on none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_runtime.answering.words import telling_words

_LEAST_SHARE: Final = 0.25  # of what the answer says beyond the question


def notes_behind(answer: str, question: str, notes: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Ids of the (id, text) in `notes` that `answer` rests on, the most telling first. A note counts for the words
    that no better one has already explained."""
    said = set(telling_words(answer)) - set(telling_words(question))
    least = max(1.0, _LEAST_SHARE * len(said))
    held = {id_: set(telling_words(text)) & said for id_, text in notes}
    behind: list[str] = []
    while held:
        best = max(held, key=lambda id_: len(held[id_]))
        explained = held.pop(best)
        if len(explained) < least:
            break
        behind.append(best)
        held = {id_: left - explained for id_, left in held.items()}
    return tuple(behind)
