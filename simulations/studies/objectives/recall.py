"""The people and the measures of the question ablation: facts that a chat of LoCoMo holds, asked of its two speakers.

Each speaker owns a device that holds both sides of the first ``SESSIONS`` sessions; the adapter learns from the owner's
side. Asked are the questions about the owner whose evidence lies in what they said there, put into their mouth ("When
did Ana move?" is "When did I move?"). `answer` is the loss of the right answer (nats per token), `wrong answers` the
share of questions where one of ``OTHERS`` answers to other questions is likelier per token; both without and with what
recall finds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from client.examples import Example, make_example
from client.objectives.conversation_questions import conversation_questions
from client.objectives.next_token import next_token
from client.objectives.objective import Objective
from edge_runtime.answering.answering import build_messages
from edge_runtime.memory.memory import TextEmbedder
from edge_runtime.memory.statements import MemoryItem, Recalled, Statement
from simulations.datasets.locomo import Chat, load_chats
from simulations.studies.objectives.choices import sums
from simulations.studies.personal_fleet import Workshop, device_of

SESSIONS, QUESTIONS, OTHERS, NOTES = 5, 8, 3, 3
FACTUAL: Final = frozenset({1, 2, 4})  # multi-hop, temporal, single-hop
_FORMS: Final = (
    (r"\b{}'s\b", "my"),
    (r"\b[Dd]oes {}\b", "do I"),
    (r"\b[Ii]s {}\b", "am I"),
    (r"\b[Hh]as {}\b", "have I"),
    (r"\b{} (?:is)\b", "I am"),
    (r"\b{} has\b", "I have"),
    (r"\b{}\b", "I"),
    (r"\b(?:his|her)\b", "my"),
    (r"\b(?:he|she)\b", "I"),
)


@dataclass(frozen=True)
class Owner:
    """One speaker of a chat: what their device holds, and (question, right answer) pairs."""

    name: str
    items: tuple[MemoryItem, ...]
    facts: tuple[tuple[str, str], ...]


def fact_people(folder: Path, group: str, people: int) -> list[Owner]:
    """The speakers of the tuning chats, or of the others, at most ``people``, with at least two facts."""
    owners = []
    for chat in load_chats(folder, "tuning" if group == "tuning" else "report"):
        answers = {row["question"]: str(row.get("answer", "")) for row in _questions(folder / f"{chat.name}.json")}
        owners += [owner_of(chat, speaker, answers) for speaker in sorted({turn.speaker for turn in chat.turns})]
    return [owner for owner in owners if len(owner.facts) >= 2][:people]


def _questions(path: Path) -> Iterator[Mapping[str, str]]:
    yield from json.loads(path.read_text(encoding="utf-8"))["qa"]


def owner_of(chat: Chat, speaker: str, answers: Mapping[str, str]) -> Owner:
    """The device of ``speaker`` and its owner's facts."""
    turns = [turn for turn in chat.turns if turn.session <= SESSIONS]
    own = {turn.id for turn in turns if turn.speaker == speaker}
    others = {turn.speaker for turn in chat.turns} - {speaker}
    items = tuple(
        MemoryItem(
            number, turn.text, "", turn.said_at, "chat", turn.said_at, "passage",
            "" if turn.speaker == speaker else turn.speaker, f"session {turn.session}", turn.position,
        )
        for number, turn in enumerate(turns, start=1)
    )  # fmt: skip
    facts = [
        (in_first_person(question.text, speaker), answers[question.text])
        for question in chat.questions
        if question.category in FACTUAL
        and question.evidence <= own
        and speaker in question.text
        and not any(other in question.text for other in others)
        and answers.get(question.text)
    ]
    return Owner(f"{chat.name}/{speaker}", items, tuple(facts[:QUESTIONS]))


def in_first_person(question: str, name: str) -> str:
    """A question about ``name`` as they would ask it themselves."""
    for pattern, mine in _FORMS:
        question = re.sub(pattern.format(re.escape(name)), mine, question)
    return question[:1].upper() + question[1:]


def judge_facts(
    shop: Workshop, owner: Owner, weight: float, embedder: TextEmbedder
) -> tuple[dict[str, list[Objective]], Callable[[bytes | None], Mapping[str, float]]]:
    """The arms of one person and how their adapters are judged."""
    said = next_token(shop.engine, [item for item in owner.items if not item.speaker], ())
    asked = conversation_questions(shop.engine, owner.items, weight=weight)
    arms = {"next_token": [said], "questions": [asked], "next_token+questions": [said, asked]}
    with device_of((), embedder) as device:
        device.memory.remember_many(
            Statement(item.text, "", item.said_at, item.source, item.kind, item.speaker, item.document, item.position)
            for item in owner.items
        )
        recalled = [device.memory.recall(question, k=NOTES) for question, _ in owner.facts]
    texts = {
        "without notes": _texts(shop, owner, [()] * len(owner.facts)),
        "with notes": _texts(shop, owner, recalled),
    }

    def judge(adapter: bytes | None) -> Mapping[str, float]:
        measures = {}
        for name, scored in texts.items():
            rows = sums(shop, scored, adapter).reshape(len(owner.facts), -1, 2)
            per_token = rows[:, :, 0] / rows[:, :, 1]
            measures[f"answer, {name}"] = float(rows[:, 0, 0].sum() / rows[:, 0, 1].sum())
            measures[f"wrong answers, {name}"] = float(np.mean(per_token[:, 0] > per_token[:, 1:].min(axis=1)))
        return measures

    return arms, judge


def _texts(shop: Workshop, owner: Owner, recalled: Sequence[Sequence[Recalled]]) -> list[Example]:
    """Every question behind its notes, with the right answer and then ``OTHERS`` answers to other questions."""
    answers, texts = [answer for _, answer in owner.facts], []
    for place, ((question, right), notes) in enumerate(zip(owner.facts, recalled, strict=True)):
        others = [answers[(place + step) % len(answers)] for step in range(1, OTHERS + 1)]
        texts += [make_example(shop.engine, build_messages(question, notes), reply) for reply in (right, *others)]
    return texts
