"""Several of the owner's replies told as turns of one chat, with the loss on each: what a personal training without
privacy minimises.

    L = - sum_j sum_t log p_theta(y_jt | x_1, y_1, ..., x_j, y_j<t) / number of target tokens,   j = 1 .. TOGETHER

A draft is prompted with earlier messages told as turns (``answering/drafting.py``), so this is the form that serves:
the first reply of a chat comes without notes, the others with the owner's own before them, which are there to copy from
and need not be learnt by heart. A text costs less than by itself, as the head of the prompt is read once for all.

Every *telling* puts the texts together anew, each into one chat, older ones first: the first telling as they lie in
time, the others as they are drawn. A pass takes one telling (``Objective.tellings``), so no pass repeats the chats of
another.

One text stands in the prompts of others: not for private training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.examples import Example, make_example
from client.objectives.objective import Objective
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import DEFAULT_CUE, plain_draft
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.statements import MemoryItem

TOGETHER: Final = 3  # texts in a chat: as many as a draft has turns
MAX_TOKENS: Final = 320  # of a chat; a longer text stands alone and is cut

Reply = tuple[Sequence[ChatMessage], str]  # the chat that asks for it, without notes, and the owner's reply


def turns(
    engine: Engine, messages: Sequence[MemoryItem], choices: Sequence[Preference], *, tellings: int = 1
) -> Objective:
    """The messages after the request they answered and the preferred answers after their question (both older to newer;
    a chat holds one kind), told ``tellings`` times."""
    drafts: list[Reply] = [(plain_draft(item.cue or DEFAULT_CUE), item.text) for item in messages]
    answers: list[Reply] = [(build_messages(choice.prompt, []), choice.chosen) for choice in choices]
    chats, of = [], []
    for telling in range(tellings):
        told = [
            chat
            for replies in (drafts, answers)
            for group in _groups(len(replies), telling)
            for chat in _chats(engine, [replies[place] for place in group])
        ]
        chats += told
        of += [telling] * len(told)
    return Objective("turns", tuple(chats), tellings=tuple(of), max_tokens=MAX_TOKENS)


def _groups(count: int, telling: int) -> Iterator[NDArray[np.int64]]:
    """Places 0 to count - 1 in groups of ``TOGETHER``, each in order."""
    order = np.random.default_rng(telling).permutation(count) if telling else np.arange(count)
    for first in range(0, count, TOGETHER):
        yield np.sort(order[first : first + TOGETHER])


def _chats(engine: Engine, replies: Sequence[Reply]) -> list[Example]:
    """The replies in as few chats as can be."""
    for count in range(len(replies), 1, -1):
        chat = _one_chat(engine, replies[:count])
        if chat is not None:
            return [chat, *_chats(engine, replies[count:])]
    return [make_example(engine, *replies[0]), *_chats(engine, replies[1:])] if replies else []


def _one_chat(engine: Engine, replies: Sequence[Reply]) -> Example | None:
    """All of the replies as turns of one chat, what stands between them with weight 0; None if that is too long, or if
    a reply in the middle is not read as it would be at the end (the template strips it, or it holds control tokens)."""
    chat: list[ChatMessage] = []
    told, weights = Example((), 0), list[float]()
    for asking, reply in replies:
        chat += asking[-1:] if chat else asking
        longer = make_example(engine, chat, reply)
        if longer.tokens[: len(told.tokens)] != told.tokens:
            return None
        first = told.prompt_length or longer.prompt_length
        weights += [0.0] * (longer.prompt_length - max(first, len(told.tokens)))
        weights += [1.0] * (len(longer.tokens) - longer.prompt_length)
        told = Example(longer.tokens, first, tuple(weights))
        chat.append(ChatMessage("assistant", reply))
    return told if len(told.tokens) <= MAX_TOKENS else None
