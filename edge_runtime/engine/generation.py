"""The loop that chooses one token after another, with or without drafts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edge_runtime.engine.contexts import Segment
from edge_runtime.engine.lookup import PromptLookup
from edge_runtime.engine.sampling import Sampler, Sampling
from edge_runtime.engine.sequences import Sequences


def answer_tokens(
    sequences: Sequences,
    segments: Sequence[Segment],
    prompt: list[int] | None,
    *,
    sampling: Sampling,
    ends_answer: Callable[[int], bool],
    room: int,
) -> Iterator[int]:
    """At most `room` tokens after `segments`, up to and without the one that ends the answer.

    The last token of `room` is chosen but not evaluated. With `prompt` (its tokens), drafts are looked up there.
    """
    sequence = sequences.fill(segments)
    weights = segments[-1].weights
    lookup = None if prompt is None else PromptLookup(list(prompt))
    with Sampler(sampling, sequences.context.pointer, sequences.context.vocabulary_size) as sampler:
        token = sampler.choose(-1)
        while True:
            if ends_answer(token):
                return
            room -= 1
            yield token
            if room <= 0:
                return
            if lookup is None or not (drafted := _draft(lookup, token, room - 1)):
                sequences.extend(sequence, Segment(weights, np.array([token], dtype=np.int32)))
                token = sampler.choose(-1)
                continue
            held = len(sequence.entries)
            sequences.extend_all(sequence, Segment(weights, np.array([token, *drafted], dtype=np.int32)))
            # Row i holds what follows draft i: every row whose draft was chosen yields a token more.
            accepted = 0
            token = sampler.choose(0)
            while accepted < len(drafted) and token == drafted[accepted] and not ends_answer(token):
                lookup.tokens.append(token)
                accepted += 1
                room -= 1
                yield token
                token = sampler.choose(accepted)
            lookup.verified(len(drafted), accepted)
            sequences.keep(sequence, held + 1 + accepted)


def _draft(lookup: PromptLookup, token: int, room: int) -> list[int]:
    lookup.tokens.append(token)
    return lookup.draft(room)
