"""The loops that choose one token after another: one answer, with or without drafts; several answers to one prompt,
side by side; one answer under several prompts, whose logits are composed; one answer that looks a token ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.contexts import Segment, after, common_length
from edge_runtime.engine.lookup import PromptLookup
from edge_runtime.engine.sampling import Sampler, Sampling, penalise
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


def candidate_tokens(
    sequences: Sequences,
    segments: Sequence[Segment],
    samplings: Sequence[Sampling],
    *,
    ends_answer: Callable[[int], bool],
    room: int,
) -> Generator[None, None, list[list[int]]]:
    """One answer of at most `room` tokens after `segments` per sampling, without the token that ends it. What they
    share is evaluated once and each step is one batch; yields between two steps.
    """
    source = sequences.fill(segments)
    weights = segments[-1].weights
    with ExitStack() as stack:
        branches = stack.enter_context(sequences.branches(source, [len(source.entries)] * len(samplings)))
        pointer, size = sequences.context.pointer, sequences.context.vocabulary_size
        samplers = [stack.enter_context(Sampler(sampling, pointer, size)) for sampling in samplings]
        chosen = [sampler.choose(-1) for sampler in samplers]
        answers: list[list[int]] = [[] for _ in samplings]
        growing = list(range(len(samplings)))
        while growing:
            growing = [one for one in growing if not ends_answer(chosen[one])]
            for one in growing:
                answers[one].append(chosen[one])
            growing = [one for one in growing if len(answers[one]) < room]
            if growing:
                yield
                sequences.step([branches[one] for one in growing], weights, [chosen[one] for one in growing])
                for row, one in enumerate(growing):
                    chosen[one] = samplers[one].choose(row)
    return answers


def composed_tokens(
    sequences: Sequences,
    segments: Sequence[Segment],
    others: Sequence[Sequence[Segment]],
    compose: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    sampling: Sampling,
    ends_answer: Callable[[int], bool],
    room: int,
) -> Iterator[int]:
    """As `answer_tokens`, where `compose` makes the logits (vocabulary,) of each token from those of the same answer
    after `segments` (row 0) and after each of `others`: (1 + others, vocabulary). What an other has in common with
    `segments` is not evaluated again.
    """
    source = sequences.fill(segments)
    weights = segments[-1].weights
    wanted = [[entry for segment in other for entry in segment.entries] for other in others]
    common = [min(common_length(source.entries, entries), len(entries) - 1) for entries in wanted]
    with (
        Sampler(sampling, sequences.context.pointer, sequences.context.vocabulary_size) as sampler,
        sequences.branches(source, [len(source.entries), *common]) as branches,
    ):
        rows = [sequences.context.logits(1)[0].copy()]
        for branch, other, shared in zip(branches[1:], others, common, strict=True):
            for part in after(other, shared):
                sequences.extend(branch, part)
            rows.append(sequences.context.logits(1)[0].copy())
        logits = np.stack(rows)
        while True:
            token = sampler.choose_from(compose(logits))
            if ends_answer(token):
                return
            room -= 1
            yield token
            if room <= 0:
                return
            logits = sequences.step(branches, weights, [token] * len(branches))


def guided_tokens(
    sequences: Sequences,
    segments: Sequence[Segment],
    rewards: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    *,
    breadth: int,
    plausible: float,
    width: int,
    repeat_penalty: float,
    ends_answer: Callable[[int], bool],
    room: int,
) -> Iterator[int]:
    """As `answer_tokens`, greedily: of the most probable tokens the one with the highest log-probability plus reward.
    Candidates are at most `breadth` tokens, each at least `plausible` times as probable as the first; `rewards` (n,)
    are of the hidden states (n, width) that they lead to, and evaluating those gives the logits behind each as well.
    Where the model is sure there is one candidate and no choice. An answer ends where the model itself would end it.
    """
    source = sequences.fill(segments)
    weights = segments[-1].weights
    said: list[int] = []
    with sequences.branches(source, [len(source.entries)] * breadth) as branches:
        logits = sequences.context.logits(1)[0].copy()
        while len(said) < room:
            penalise(logits, said, repeat_penalty)
            if ends_answer(int(logits.argmax())):
                return
            likely = np.argpartition(-logits, breadth)[: breadth + 1]
            ordered = likely[np.argsort(-logits[likely], kind="stable")].tolist()
            lowest = logits[ordered[0]] + np.log(plausible)
            tokens = [token for token in ordered if logits[token] >= lowest and not ends_answer(token)][:breadth]
            rows, states = sequences.step_with_states(branches[: len(tokens)], weights, tokens, width)
            best = int(np.argmax(logits[tokens] + rewards(states)))
            logits = rows[best].copy()
            sequences.follow(branches, branches[best])
            said.append(tokens[best])
            yield tokens[best]


def _draft(lookup: PromptLookup, token: int, room: int) -> list[int]:
    lookup.tokens.append(token)
    return lookup.draft(room)
