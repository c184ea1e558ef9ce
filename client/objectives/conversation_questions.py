"""Question-answer pairs made from conversations, in time order, weighted (PLUM).

PLUM (On the Way to LLM Personalization: Learning to Remember User Conversations) up-samples a conversation into
questions and answers about it and trains on them, oldest conversation first, with a weighted cross entropy; its
questions are written by a large model. A model of 135M parameters is not asked to invent
questions. They are made by rules, from three things that what was said holds:

- its claims (`edge_runtime/memory/claims.py`): "I moved to Lyon" gives "Where do I live?" - "You live in Lyon.", in two
  wordings where there are two. What a later statement contradicts gives none;
- its longest sentence, asked for by its names or its rarest words: "What did I say about Minou and the vet?" - the
  sentence, as it was said;
- a turn in a chat that answers another person's question: 'When Ana asked me "Are you coming on Friday?", what did I
  say?' - "Yes, with the kids."

Weight of every token of a pair said at day s, with s_max the newest day:

    w = 2^(-(s_max - s) / HALF_LIFE),    then divided by the mean over all pairs

so that what was said last counts most; every pass takes them oldest first. One text makes several examples: not for
private training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from typing import Final

import numpy as np

from client.examples import make_example
from client.objectives.objective import Objective
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.words import COMMON_WORDS, names_in, sentences, words
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.claims import claims_of
from edge_runtime.memory.statements import MemoryItem
from edge_runtime.profile.evidence import observed
from edge_runtime.profile.wording import sentence_of

HALF_LIFE: Final = 180.0  # days
LONGEST_QUESTION: Final = 200  # characters of another person's question that is quoted
FEWEST_WORDS, TOPIC_WORDS = 6, 2  # of a sentence that is asked for, and of the question
_QUESTIONS: Final = {
    "name": ("What is my name?", "What am I called?"),
    "lives_in": ("Where do I live?", "Which place is my home?"),
    "lives": ("With whom do I live?",),
    "born_in": ("Where was I born?",),
    "born_on": ("When was I born?",),
    "birthday": ("When is my birthday?",),
    "grew_up_in": ("Where did I grow up?",),
    "comes_from": ("Where do I come from?",),
    "nationality": ("What is my nationality?",),
    "works_as": ("What is my job?", "What do I do for a living?"),
    "works_at": ("Where do I work?", "Who is my employer?"),
    "studies": ("What do I study?",),
    "speaks": ("Which languages do I speak?",),
    "learning": ("What am I learning?",),
    "allergic_to": ("What am I allergic to?", "Do I have an allergy?"),
    "intolerant_to": ("What am I intolerant to?",),
    "diet": ("What is my diet?",),
    "does_not_eat": ("What do I not eat?",),
    "likes": ("What do I like?", "What do I enjoy?"),
    "dislikes": ("What do I not like?", "What can I not stand?"),
    "prefers": ("What do I prefer?",),
    "plays": ("What do I play?",),
    "collects": ("What do I collect?",),
    "owns": ("What do I have?", "What do I own?"),
    "health": ("What about my health?",),
    "takes": ("Which medicine do I take?",),
    "marital_status": ("Am I married?",),
    "age": ("How old am I?",),
    "habit": ("What do I usually do?",),
    "plans": ("What are my plans?", "What am I going to do?"),
}
_OWNERS_WORDS: Final = (("I am ", "You are "), ("I was ", "You were "), ("I ", "You "), ("My ", "Your "))


@dataclass(frozen=True)
class QuestionAnswer:
    """What might be asked about something said on the day ``said_at`` (ISO), and the answer that it gives."""

    question: str
    answer: str
    said_at: str


def questions_of_claims(item: MemoryItem) -> list[QuestionAnswer]:
    """Questions about the owner's claims in a text that still holds, each with its answer."""
    if item.valid_until is not None:
        return []
    found = []
    for claim in claims_of(item.text, speaker=item.speaker):
        for seen in observed(claim, item.said_at, item.id):
            if seen.past or not seen.affirmed:
                continue
            asked = _QUESTIONS.get(seen.name, (f"What is my {seen.name.replace('_', ' ')}?",))
            answer = _to_owner(sentence_of(seen.name, seen.value))
            found += [QuestionAnswer(question, answer, item.said_at) for question in asked]
    return found


def questions_of_chat(turns: Sequence[MemoryItem]) -> list[QuestionAnswer]:
    """Questions about the owner's answers (speaker "") to the question right before them in the same chat."""
    ordered = sorted(turns, key=lambda turn: (turn.document, turn.position, turn.id))
    found = []
    for asked, answered in pairwise(ordered):
        follows = asked.document == answered.document != "" and asked.position + 1 == answered.position
        question = asked.text.strip()
        if follows and asked.speaker and not answered.speaker and question.endswith("?"):
            last = question[-LONGEST_QUESTION:]
            text = f'When {asked.speaker} asked me "{last}", what did I say?'
            found.append(QuestionAnswer(text, answered.text, answered.said_at))
    return found


def questions_of_sentences(items: Sequence[MemoryItem]) -> list[QuestionAnswer]:
    """A question about the longest sentence of each text, if it has ``FEWEST_WORDS``, by the names in it or else its
    words that the fewest of the texts have."""
    held = Counter(word for item in items for word in set(words(item.text)))
    found = []
    for item in items:
        stated = [sentence for sentence in sentences(item.text) if not sentence.endswith("?")]
        sentence = max(stated, key=len, default="")
        if len(words(sentence)) < FEWEST_WORDS:
            continue
        own = [word for word in dict.fromkeys(words(sentence)) if word not in COMMON_WORDS and len(word) > 2]
        rare = sorted(own, key=lambda word: held[word])[:TOPIC_WORDS]
        topic = list(names_in(sentence)[:TOPIC_WORDS]) or [word for word in own if word in rare]
        if topic:
            text = f"What did I say about {' and '.join(topic)}?"
            found.append(QuestionAnswer(text, sentence, item.said_at))
    return found


def in_time(pairs: Sequence[QuestionAnswer]) -> list[QuestionAnswer]:
    """Each question and answer once (the latest), oldest first."""
    latest = {(pair.question, pair.answer): pair for pair in sorted(pairs, key=lambda pair: pair.said_at)}
    return sorted(latest.values(), key=lambda pair: pair.said_at)


def recency_weights(days: Sequence[str], half_life: float = HALF_LIFE) -> list[float]:
    """2^(-age / half_life) of ISO ``days``, age in days from the newest; mean 1."""
    if not days:
        return []
    numbers = np.array([date.fromisoformat(day).toordinal() for day in days], dtype=np.float64)
    raw = np.exp2((numbers - numbers.max()) / half_life)
    return [float(value) for value in raw / raw.mean()]


def conversation_questions(engine: Engine, items: Sequence[MemoryItem], *, weight: float = 1.0) -> Objective:
    """Questions and answers about what the owner told and about chats, without notes: what is to be known by heart.

    ``items`` may hold other speakers' turns: their questions are asked again, and nothing else of theirs is used.
    """
    said = [item for item in items if item.kind == "statement" or item.source != "file"]
    own = [item for item in said if not item.speaker]
    pairs = [pair for item in own for pair in questions_of_claims(item)]
    pairs += questions_of_sentences(own) + questions_of_chat([item for item in said if item.kind == "passage"])
    pairs = in_time(pairs)
    texts = []
    for pair, share in zip(pairs, recency_weights([pair.said_at for pair in pairs]), strict=True):
        example = make_example(engine, build_messages(pair.question, []), pair.answer)
        texts.append(replace(example, weights=(share,) * (len(example.tokens) - example.prompt_length)))
    return Objective("conversation_questions", tuple(texts), weight=weight, in_order=True)


def _to_owner(sentence: str) -> str:
    """ "I live in Lyon." said to the owner: "You live in Lyon." """
    for mine, yours in _OWNERS_WORDS:
        if sentence.startswith(mine):
            return yours + sentence[len(mine) :]
    return sentence
