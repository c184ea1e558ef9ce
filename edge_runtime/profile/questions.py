"""The guided questions: a fixed list that a new owner can answer in two minutes, each giving one attribute.

(Guided profile generation: asking for the distinctive features one by one gives a better profile than raw context;
"Guided Profile Generation Improves Personalization with LLMs".)
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

QUESTION_STEPS: Final = (
    "CREATE TABLE profile_answers (question TEXT PRIMARY KEY, attribute_id INTEGER NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True)
class GuidedQuestion:
    """A question, and the attribute that its answer becomes."""

    id: str
    text: str
    attribute: str


GUIDED_QUESTIONS: Final = (
    GuidedQuestion("name", "What should I call you?", "name"),
    GuidedQuestion("home", "Where do you live?", "lives_in"),
    GuidedQuestion("household", "With whom do you live?", "lives"),
    GuidedQuestion("work", "What do you do for a living, or study?", "works_as"),
    GuidedQuestion("people", "Which people are important to you, and who are they?", "important people"),
    GuidedQuestion("pets", "Do you have pets, and what are they called?", "owns"),
    GuidedQuestion("allergies", "Are you allergic to anything?", "allergic_to"),
    GuidedQuestion("diet", "Is there anything you do not eat or drink?", "diet"),
    GuidedQuestion("likes", "What do you like to do when you are free?", "likes"),
    GuidedQuestion("dislikes", "What can you not stand?", "dislikes"),
    GuidedQuestion("week", "What do you do every week, and on which days?", "habit"),
    GuidedQuestion("languages", "Which languages do you speak?", "speaks"),
    GuidedQuestion("plans", "What do you want to get done this year?", "plans"),
    GuidedQuestion("answers", "How do you like answers: short or detailed, plain or warm?", "answer style"),
    GuidedQuestion("writing", "How do you write: long or short sentences, formal or not?", "writing style"),
)


class GuidedQuestions:
    """Which of the questions have been answered."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def open(self, known: Collection[str]) -> list[GuidedQuestion]:
        """The questions without an answer whose attribute is not among the `known` names."""
        answered = {name for (name,) in self._vault.connection.execute("SELECT question FROM profile_answers")}
        return [
            question for question in GUIDED_QUESTIONS if question.id not in answered and question.attribute not in known
        ]

    def question(self, question_id: str) -> GuidedQuestion:
        """The question with this id; PenchantError if there is none."""
        for question in GUIDED_QUESTIONS:
            if question.id == question_id:
                return question
        raise PenchantError(
            f"There is no such question; the ids are {', '.join(each.id for each in GUIDED_QUESTIONS)}."
        )

    def note_answer(self, question_id: str, attribute_id: int) -> None:
        """Notes the attribute that a question was answered with."""
        self._vault.connection.execute(
            "INSERT OR REPLACE INTO profile_answers VALUES (?, ?)", (question_id, attribute_id)
        )

    def reopen(self, attribute_ids: Collection[int]) -> None:
        """Asks again what these attributes had answered."""
        self._vault.connection.execute(
            "DELETE FROM profile_answers WHERE attribute_id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(attribute_ids)),),
        )
