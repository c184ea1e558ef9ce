"""Prompt lookup: drafting the next tokens from what the prompt and the answer so far already say.

Answers grounded in a source repeat it. Where the last tokens occurred before, what followed them then is a draft;
one batch verifies all of it, and the tokens are chosen by the model's own sampler, so the answer is the one without
drafts (Saxena 2023, prompt lookup decoding; Leviathan et al. 2023, speculative decoding with a deterministic
draft). That holds token for token where the arithmetic of a batch and of a single token agrees; on quantised
weights their last bits differ (`scoring.py`), and a near tie may fall the other way.

On a processor a batch is hardly cheaper than its tokens one by one, so drafts need a match of three tokens, grow only
after one was right to its end, and stop for the rest of the answer once they have cost more than they gave. Lookup
pays where an answer quotes its sources and costs a few tokens' time where it does not: turn it on for answers from
sources. A match of two tokens drafts too much, one of four too little (tried on the default model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# Cost of a batch of n tokens in single tokens, measured on the default model: about FIXED + n * EACH.
_FIXED, _EACH = 1.2, 0.33
_MATCH = 3  # tokens that must have occurred before
_SHORT_DRAFT, _LONG_DRAFT = 3, 7
_PATIENCE = 4.0  # single tokens that drafts may lose before they end


@dataclass
class PromptLookup:
    """Drafts for one answer. `tokens` is the prompt and the answer so far."""

    tokens: list[int]
    _after: dict[tuple[int, ...], int] = field(default_factory=dict)
    _indexed: int = 0
    _gain: float = 0.0
    _length: int = _SHORT_DRAFT

    def draft(self, room: int) -> list[int]:
        """Up to `room` tokens that may come next."""
        self._index()
        if self._gain < -_PATIENCE or len(self.tokens) < _MATCH:
            return []
        start = self._after.get(tuple(self.tokens[-_MATCH:]))
        return [] if start is None else self.tokens[start : start + min(room, self._length)]

    def verified(self, drafted: int, accepted: int) -> None:
        """Account for a batch of 1 + `drafted` tokens that gave 1 + `accepted`."""
        self._length = _LONG_DRAFT if accepted == drafted else _SHORT_DRAFT
        self._gain = min(_PATIENCE, self._gain + 1 + accepted - _FIXED - _EACH * (1 + drafted))

    def _index(self) -> None:
        """Remember where each run of _MATCH tokens was last followed by another token."""
        for end in range(max(self._indexed, _MATCH), len(self.tokens)):
            self._after[tuple(self.tokens[end - _MATCH : end])] = end
        self._indexed = len(self.tokens)


def agreeing(drafted: Sequence[int], chosen: Sequence[int]) -> int:
    """How many first tokens of a draft were chosen."""
    for index, (one, other) in enumerate(zip(drafted, chosen, strict=False)):
        if one != other:
            return index
    return min(len(drafted), len(chosen))
