"""An objective as data: examples or pairs, how much they count, and in which order they are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from client.examples import Example
from protocol.errors import PenchantError

# Why an objective cannot have the promise of example-level private training (`client/dp_sgd.py`): that one example,
# added or removed, changes one gradient and no other.
NOT_PRIVATE: Final = {
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
    """

    name: str
    examples: tuple[Example, ...] = ()
    pairs: tuple[Pair, ...] = ()
    weight: float = 1.0
    max_tokens: int = 160
    in_order: bool = False

    def __post_init__(self) -> None:
        if self.examples and self.pairs:
            raise PenchantError("an objective has examples or pairs, not both")
        if not self.weight > 0:
            raise PenchantError("the weight of an objective must be a positive number; leave it out instead")

    def __len__(self) -> int:
        return len(self.examples) + len(self.pairs)

    def usable(self) -> Objective:
        """The same without what ``max_tokens`` leave nothing of."""
        examples = tuple(text for text in self.examples if text.has_targets(self.max_tokens))
        return replace(self, examples=examples, pairs=tuple(p for p in self.pairs if p.has_targets(self.max_tokens)))

    @property
    def content(self) -> list[object]:
        """All that the training reads of it, as plain values: what a digest of the texts is taken of."""
        texts = [*self.examples, *(text for pair in self.pairs for text in (pair.chosen, pair.rejected))]
        rows = [[list(text.tokens), text.prompt_length, list(text.weights)] for text in texts]
        return [self.name, self.weight, self.max_tokens, self.in_order, bool(self.pairs), rows]


def check_private(objectives: Sequence[Objective]) -> None:
    """PenchantError if one of these cannot be trained with privacy per example."""
    for objective in objectives:
        if objective.name in NOT_PRIVATE:
            reason = NOT_PRIVATE[objective.name]
            raise PenchantError(f"the objective {objective.name} cannot be private per text ({reason}); leave it out")
