"""An objective as data: examples or pairs, how much they count, and in which order they are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.examples import Example
from protocol.errors import PenchantError

# Why an objective cannot have the promise of example-level private training (`client/dp_sgd.py`): that one example,
# added or removed, changes one gradient and no other.
NOT_PRIVATE: Final = {
    "turns": "texts are told in one chat, so an earlier one would take part in the gradients of those after it",
    "grounded": "an earlier message is a note in the prompts of later ones, so it would take part in many gradients",
    "influence": "an earlier message changes the token weights of later ones, so it would take part in many gradients",
    "conversation_questions": "one statement makes several examples, and its weight follows the newest one's date",
}


@dataclass(frozen=True)
class Pair:
    """For one prompt the reply that the owner preferred, and the one that they did not."""

    chosen: Example
    rejected: Example

    def has_targets(self, max_tokens: int) -> bool:
        """Whether something of both replies is left of ``max_tokens``."""
        return self.chosen.has_targets(max_tokens) and self.rejected.has_targets(max_tokens)


@dataclass(frozen=True)
class Objective:
    """``weight`` (lambda, above 0) times the mean loss of ``examples`` or of ``pairs`` (one of the two is empty), each
    cut to ``max_tokens``.

    ``in_order``: every pass takes the examples as they come, oldest first, so that the newest has the last word.
    ``tellings``: where the same texts are told several times, the number of the telling (from 0) of each example; a
    pass takes those of one telling, the next pass the next. Empty: every pass takes all.
    """

    name: str
    examples: tuple[Example, ...] = ()
    pairs: tuple[Pair, ...] = ()
    weight: float = 1.0
    max_tokens: int = 160
    in_order: bool = False
    tellings: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.examples and self.pairs:
            raise PenchantError("an objective has examples or pairs, not both")
        if self.tellings and len(self.tellings) != len(self.examples):
            raise PenchantError("each example of an objective that is told several times belongs to one telling")
        if not self.weight > 0:
            raise PenchantError("the weight of an objective must be a positive number; leave it out instead")

    def __len__(self) -> int:
        return len(self.examples) + len(self.pairs)

    def usable(self) -> Objective:
        """The same without what ``max_tokens`` leave nothing of."""
        kept = [text.has_targets(self.max_tokens) for text in self.examples]
        return replace(
            self,
            examples=tuple(compress(self.examples, kept)),
            tellings=tuple(compress(self.tellings, kept)),
            pairs=tuple(pair for pair in self.pairs if pair.has_targets(self.max_tokens)),
        )

    def passes(self) -> list[NDArray[np.int64]]:
        """The places of the examples or pairs that a pass takes, for as many passes as differ."""
        if not self.tellings:
            return [np.arange(len(self))]
        return [np.flatnonzero(np.array(self.tellings) == telling) for telling in sorted(set(self.tellings))]

    @property
    def content(self) -> list[object]:
        """All that the training reads of it, as plain values: what a digest of the texts is taken of."""
        texts = [*self.examples, *(text for pair in self.pairs for text in (pair.chosen, pair.rejected))]
        rows = [[list(text.tokens), text.prompt_length, list(text.weights)] for text in texts]
        return [self.name, self.weight, self.max_tokens, self.in_order, bool(self.pairs), rows, list(self.tellings)]


def check_private(objectives: Sequence[Objective]) -> None:
    """PenchantError if one of these cannot be trained with privacy per example."""
    for objective in objectives:
        if objective.name in NOT_PRIVATE:
            reason = NOT_PRIVATE[objective.name]
            raise PenchantError(f"the objective {objective.name} cannot be private per text ({reason}); leave it out")
