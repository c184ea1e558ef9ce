"""A remembered text as serving would have prompted for it just before it was said: with what memory held then.

    message    ``penchant draft``: the messages recalled for its request, told as turns         drafting.build_draft
    choice     ``penchant ask``: recall, plan, ranking, telling parts, key words, layout        answering/pipeline.py

A text must not be its own note, nor may anything that was said after it be one: recall looks at the day of the text,
and of that day only what was remembered before it counts. What has the same words is left out too, whenever it was
said. The profile stays out of the prompt: it was made from later texts as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from client.examples import Example, make_example
from edge_runtime.answering.answering import lay_out
from edge_runtime.answering.drafting import DEFAULT_CUE, build_draft
from edge_runtime.answering.evidence import gather, rank
from edge_runtime.answering.gist import gist, key_line
from edge_runtime.answering.guard import as_note
from edge_runtime.answering.pipeline import DEFAULT_MEMORIES
from edge_runtime.answering.planner import drop_unplanned, plan_sources, recall_floor
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.ranking import RELEVANCE_FLOOR
from edge_runtime.memory.statements import MemoryItem, Recalled, content_digest

DRAFT_MEMORIES = 2  # what `penchant draft` shows
_CANDIDATES_PER_MEMORY = 4


def recalled_before(
    memory: Memory, query: str, *, said_at: str, text: str, item_id: int | None, k: int, floor: float = RELEVANCE_FLOOR
) -> list[Recalled]:
    """The at most ``k`` memories that recall finds for ``query`` among those older than a text: said on an earlier day
    than ``said_at``, or on that day and (with ``item_id``, the text's own) remembered before it.
    """
    own = content_digest(text)
    barred = {
        item.id
        for item in memory.items()
        if (item_id is not None and item.said_at == said_at and item.id >= item_id) or content_digest(item.text) == own
    }
    found = memory.recall(query, k=k + len(barred), as_of=said_at, floor=floor)
    return [one for one in found if one.item.id not in barred][:k]


def served_message(engine: Engine, memory: Memory, item: MemoryItem, *, room: int) -> Example:
    """A remembered message behind the prompt that drafting would have built for its request, in ``room`` tokens."""
    cue = item.cue or DEFAULT_CUE
    notes = recalled_before(memory, cue, said_at=item.said_at, text=item.text, item_id=item.id, k=DRAFT_MEMORIES)
    return _fitted(engine, lambda count: build_draft(cue, notes[:count]), len(notes), item.text, room)


def served_choice(engine: Engine, memory: Memory, choice: Preference, *, room: int) -> Example:
    """A preferred answer behind the prompt that answering would have built for its question, in ``room`` tokens."""
    asked, k = choice.prompt, DEFAULT_MEMORIES
    found = recalled_before(
        memory,
        asked,
        said_at=choice.said_at,
        text=choice.chosen,
        item_id=None,
        k=_CANDIDATES_PER_MEMORY * k,
        floor=recall_floor(asked),
    )
    candidates = gather(asked, found)
    planned = drop_unplanned(candidates, asked, plan_sources(asked, candidates, profile=False))
    notes = [as_note(engine, gist(one.text, asked)) for one in rank(planned, k=k) if one.kept]

    def chat(count: int) -> list[ChatMessage]:
        return lay_out(asked, notes[:count], key_line=key_line(notes[:count], asked))

    return _fitted(engine, chat, len(notes), choice.chosen, room)


def _fitted(engine: Engine, chat: Callable[[int], Sequence[ChatMessage]], notes: int, reply: str, room: int) -> Example:
    """The example with as many of the ``notes`` (best first) as leave the prompt within ``room`` tokens."""
    while True:
        example = make_example(engine, chat(notes), reply)
        if example.prompt_length <= room or not notes:
            return example
        notes -= 1
