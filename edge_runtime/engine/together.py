"""What an engine does with several texts that grow side by side (`generation.py` has the loops): many answers to one
prompt, one answer under several prompts, one answer that looks a token ahead.

These are functions beside `Engine`, whose inner parts they use as its own methods do; the engine's rules hold for them:
one thread, one answer at a time, `abort` stops them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.contexts import common_length
from edge_runtime.engine.engine import BRANCHES, Engine
from edge_runtime.engine.generation import candidate_tokens, composed_tokens, guided_tokens
from edge_runtime.engine.sampling import Sampling, whole_characters
from protocol.errors import PenchantError

Rewards = Callable[[NDArray[np.float32]], NDArray[np.float64]]  # hidden states (n, n_embd) -> (n,)
Compose = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # logits (prompts, vocabulary) -> (vocabulary,)


def candidates(
    engine: Engine, prompt: Sequence[int], samplings: Sequence[Sampling], *, max_tokens: int
) -> Generator[str, None, list[list[str]]]:
    """Return one answer of at most `max_tokens` per sampling, in the pieces that `Engine.generate` would give, all to
    the same prompt. Up to 16 grow side by side as far as the context has room, the others after them; yields "" between
    two steps.
    """
    engine._check_prompt(prompt)
    if max_tokens < 1:
        raise PenchantError("max_tokens must be at least 1")
    turn = engine._begin()
    segments = engine._in_use.segments(prompt)
    free = engine.context_tokens + 1 - len(prompt)
    abreast = min(len(samplings), BRANCHES, max(1, free // max_tokens))
    answers: list[list[str]] = []
    for start in range(0, len(samplings), abreast):
        steps = candidate_tokens(
            engine._generation_sequences(),
            segments,
            samplings[start : start + abreast],
            ends_answer=engine._vocabulary.ends_answer,
            room=min(max_tokens, free),
        )
        for tokens in (yield from _paused(engine, steps, turn)):
            answers.append(list(whole_characters(map(engine._vocabulary.bytes_of, tokens))))
    return answers


def _paused(
    engine: Engine, steps: Generator[None, None, list[list[int]]], turn: int
) -> Generator[str, None, list[list[int]]]:
    """`steps` with "" between two of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answers: list[list[int]] = end.value
            return answers
        yield ""
        engine._check_turn(turn)


def composed_answer(
    engine: Engine,
    prompt: Sequence[int],
    others: Sequence[Sequence[int]],
    compose: Compose,
    *,
    max_tokens: int,
    sampling: Sampling,
) -> Iterator[str]:
    """Stream an answer as `Engine.generate` does, each of its tokens chosen by `compose` from the logits after `prompt`
    (row 0) and after each of the `others` (at most 15).

    All of them hold the whole answer, so it ends earlier where the context has no room for that.
    """
    prompts = [list(prompt), *map(list, others)]
    for one in prompts:
        engine._check_prompt(one)
    own = sum(len(other) - common_length(prompt, other) for other in others)
    free = engine.context_tokens - len(prompt) - own
    if free < len(prompts):
        raise PenchantError("an answer under several prompts needs room for them all: open a larger context")
    room = min(max_tokens, free // len(prompts))

    def begin() -> Iterator[int]:
        first, *rest = [engine._in_use.segments(one) for one in prompts]
        ends_answer, sequences = engine._vocabulary.ends_answer, engine._generation_sequences()
        return composed_tokens(sequences, first, rest, compose, sampling=sampling, ends_answer=ends_answer, room=room)

    return _text(engine, begin)


def guided_answer(
    engine: Engine,
    prompt: Sequence[int],
    rewards: Rewards,
    *,
    breadth: int,
    plausible: float,
    max_tokens: int,
    repeat_penalty: float = 1.0,
) -> Iterator[str]:
    """Stream a greedy answer as `Engine.generate` does, each token chosen by log-probability plus `rewards` of the
    hidden states that the candidates lead to: at most `breadth` (2 to 16) of the most probable tokens, each at least
    `plausible` (above 0) times as probable as the first.
    """
    engine._check_prompt(prompt)
    if not 2 <= breadth <= BRANCHES or not 0 < plausible <= 1:
        raise PenchantError(f"a guided answer looks at 2 to {BRANCHES} plausible tokens at a time")

    def begin() -> Iterator[int]:
        return guided_tokens(
            engine._generation_sequences(),
            engine._in_use.segments(prompt),
            rewards,
            breadth=breadth,
            plausible=plausible,
            width=engine.embeddings_width,
            repeat_penalty=repeat_penalty,
            ends_answer=engine._vocabulary.ends_answer,
            room=min(max_tokens, engine.context_tokens + 1 - len(prompt) - breadth),
        )

    return _text(engine, begin)


def _text(engine: Engine, begin: Callable[[], Iterator[int]]) -> Iterator[str]:
    """The text of tokens that begin to be chosen when the first piece is asked for."""

    def pieces() -> Iterator[bytes]:
        turn = engine._begin()
        for token in begin():
            yield engine._vocabulary.bytes_of(token)
            engine._check_turn(turn)

    return whole_characters(pieces())
