"""What the device takes its owner to be: attributes with times and probabilities, readable rules, a summary; visible,
editable, and rebuilt from the memories at any time.

Attributes come from the owner's statements by fixed rules (`memory/claims.py`, `evidence.py`) or from the owner's
own hand. What the owner entered stands, what they removed does not come back, however often the profile is rebuilt.
A later statement that contradicts an entry closes it in time, and a forgotten statement opens it again. What is
said about other people makes no attribute of the owner. Everything derived goes with the memory it came from
(`forget_traces`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.claims import claims_of
from edge_runtime.memory.statements import checked_text
from edge_runtime.profile.attributes import ATTRIBUTE_STEPS, Attribute, Attributes
from edge_runtime.profile.evidence import Observation, observed
from edge_runtime.profile.questions import QUESTION_STEPS, GuidedQuestion, GuidedQuestions
from edge_runtime.profile.removals import REMOVAL_STEPS, Removals
from edge_runtime.profile.rules import RULE_STEPS, Rule, Rules
from edge_runtime.profile.summary import SUMMARY_STEPS, Line, Summaries, Summary, write_summary
from edge_runtime.profile.wording import asks_about_owner, relevance, sentence_of
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Engine
    from edge_runtime.memory.memory import Memory

_STEPS: Final = (
    *ATTRIBUTE_STEPS,
    *REMOVAL_STEPS,
    *RULE_STEPS,
    *SUMMARY_STEPS,
    *QUESTION_STEPS,
)
_SUMMARY_LINE: Final = "summary:general"
_NOTHING: Final = re.compile(r"(?:no|none|nope|nothing|not really|no,? (?:nothing|none|i am not|i do not))[ .!]*", re.I)
_LIKELY: Final = 0.5  # less probable attributes are shown to the owner, not to the model


@dataclass(frozen=True)
class ProfileLine:
    """A line for a prompt; its id ("attribute:7", "rule:3", "summary:general") is what an answer can cite."""

    id: str
    text: str


class Profile:
    """The profile of one device's owner."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("profile", _STEPS)
        self._attributes, self._removals = Attributes(vault), Removals(vault)
        self._rules, self._summaries, self._questions = Rules(vault), Summaries(vault), GuidedQuestions(vault)

    # ---- attributes

    def attributes(self, as_of: str | None = None) -> list[Attribute]:
        """All attributes, those that hold today first; with `as_of` (ISO date) those that held on that day, as far as
        it was known by then."""
        return self._attributes.listing(as_of)

    def set_attribute(self, name: str, value: str, *, memory_ids: Sequence[int] = ()) -> Attribute:
        """Enters `value` as the owner's own word (probability 1) from today on; what it contradicts is closed, and a
        removal of the same is undone."""
        name, value = " ".join(checked_text(name).split()), " ".join(checked_text(value).split())
        with self._vault.transaction():
            self._removals.undo("attribute", name, value)
            row = self._attributes.enter(name, value, memory_ids)
            self._attributes.settle(self._attributes.observations(), self._removals.keys("attribute"))
        return self.attribute(row)

    def attribute(self, attribute_id: int) -> Attribute:
        """The attribute with this id; PenchantError if there is none."""
        for found in self.attributes():
            if found.id == attribute_id:
                return found
        raise PenchantError(f"There is no attribute {attribute_id}; `penchant profile show` lists the ids.")

    def remove_attribute(self, attribute_id: int) -> None:
        """Removes an attribute for good: it comes back only if the owner enters it again."""
        removed = self.attribute(attribute_id)
        with self._vault.transaction():
            self._attributes.remove(removed.name, removed.value)
            self._removals.note("attribute", removed.name, removed.value, removed.memory_ids)
            self._questions.reopen([attribute_id])

    def rebuild(self, memory: Memory) -> int:
        """Reads all memories again and returns how many attributes there are. The owner's own entries, removals and
        rules stand."""
        observations: list[Observation] = []
        items = [item for item in memory.items(kinds=("statement",)) if not item.speaker]
        for item in items:
            for claim in claims_of(item.text):
                observations += observed(claim, item.said_at, item.id, ends=item.valid_until)
        with self._vault.transaction():
            entries = self._attributes.entries()
            count = self._attributes.settle([*observations, *entries], self._removals.keys("attribute"))
            self._summaries.note_style([item.text for item in items])
            held = {(found.name, found.value.casefold()) for found in self.attributes() if found.until is None}
            preferred = [
                seen for seen in observations if seen.name == "prefers" and (seen.name, seen.value.casefold()) in held
            ]
            self._rules.propose_preferred(preferred, self._removals.keys("rule"))
        return count

    # ---- rules

    def rules(self) -> list[Rule]:
        """All rules, the owner's and those proposed to them; only active ones reach a prompt."""
        return self._rules.listing()

    def add_rule(self, text: str) -> Rule:
        """Adds the owner's own rule, active at once."""
        self._removals.undo("rule", "", checked_text(text))
        return self._rules.add(text)

    def change_rule(self, rule_id: int, text: str | None = None, active: bool | None = None) -> Rule:
        """Rewrites a rule or switches it; PenchantError if there is none."""
        return self._rules.change(rule_id, text, active)

    def remove_rule(self, rule_id: int) -> None:
        """Removes a rule; a proposed one is not proposed again."""
        with self._vault.transaction():
            key, memory_ids = self._rules.remove(rule_id)
            if key:
                self._removals.note("rule", "", key, memory_ids)

    def propose_rules(self, preferences: Sequence[Preference]) -> int:
        """Proposes (inactive) what the owner's choices between answers show clearly; how many proposals are new."""
        with self._vault.transaction():
            return self._rules.propose_from_choices(preferences, self._removals.keys("rule"))

    # ---- summary

    def summary(self, task: str = "general") -> Summary | None:
        """The summary for `task`; `stale` once the profile it was written from has changed."""
        return self._summaries.get(task, self.summary_lines(task))

    def set_summary(self, text: str, task: str = "general") -> Summary:
        """Stores the owner's own summary, which no model overwrites."""
        return self._summaries.put(task, checked_text(text), "you", (), self.summary_lines(task))

    def write_summary(self, engine: Engine | None, memory: Memory, task: str = "general") -> Summary:
        """Writes the summary for `task` again and stores it: the model's sentences as far as every one rests on the
        evidence, else (or without an engine) the plain lines. The owner's own summary is returned unchanged."""
        standing = self.summary(task)
        if standing is not None and standing.by == "you":
            return standing
        self.rebuild(memory)
        lines = self.summary_lines(task)
        if not lines:
            raise PenchantError("There is nothing to summarise yet; remember a few things about yourself first.")
        text, by, memory_ids = write_summary(engine, lines, task)
        return self._summaries.put(task, text, by, memory_ids, lines)

    def drop_summary(self, task: str = "general") -> bool:
        """Removes the summary for `task`, the owner's own too; whether there was one."""
        return self._summaries.drop(task)

    def summary_lines(self, task: str = "general") -> list[Line]:
        """The evidence of a summary, most important first: likely attributes, or for drafting the statistics of how the
        owner writes (as of the last rebuild)."""
        current = [found for found in self.attributes() if found.until is None and found.probability >= _LIKELY]
        return self._summaries.lines(current, task)

    # ---- guided questions

    def questions(self) -> list[GuidedQuestion]:
        """The guided questions that are still open, in their order: not answered, and not known from the memories."""
        known = {found.name for found in self.attributes() if found.until is None}
        return self._questions.open(known)

    def answer_question(self, question_id: str, text: str, memory: Memory) -> Attribute:
        """Stores an answer as a memory (its cue is the question) and as the owner's own attribute."""
        question = self._questions.question(question_id)
        text = checked_text(text)
        item = memory.remember(text, cue=question.text)
        said = [claim for claim in claims_of(text) if not claim.subject and claim.attribute == question.attribute]
        values = dict.fromkeys(claim.value for claim in said if claim.polarity)
        value = ", ".join(values) or ("nothing" if _NOTHING.fullmatch(text) else text.strip(" .!"))
        with self._vault.transaction():
            entered = self.set_attribute(question.attribute, value, memory_ids=(item.id,))
            self._questions.note_answer(question_id, entered.id)
        return entered

    # ---- for a prompt

    def prompt_lines(self, question: str, *, limit: int = 4) -> list[ProfileLine]:
        """At most `limit` lines that matter for `question`: active rules first, then attributes, most relevant first;
        the summary if the question is about the owner as a whole."""
        lines = [ProfileLine(f"rule:{rule.id}", rule.text) for rule in self.rules() if rule.active]
        summary = self.summary() if asks_about_owner(question) else None
        if summary is not None and not summary.stale:
            lines.append(ProfileLine(_SUMMARY_LINE, summary.text))
        scored = [
            (relevance(found.name, found.value, question), found)
            for found in self.attributes()
            if found.until is None and found.probability >= _LIKELY
        ]
        scored.sort(key=lambda pair: (-pair[0], -pair[1].probability, pair[1].id))
        lines += [
            ProfileLine(f"attribute:{found.id}", sentence_of(found.name, found.value))
            for score, found in scored
            if score > 0
        ]
        return lines[:limit]

    # ---- forgetting

    def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Drops what these memories alone said and what repeats their words; how many entries went. Rebuild afterwards:
        what they had closed opens again."""
        forgotten = frozenset(item_ids)
        with self._vault.transaction():
            attributes = self._attributes.forget_traces(forgotten, is_trace)
            self._questions.reopen(attributes)
            return len(attributes) + sum(
                part.forget_traces(forgotten, is_trace) for part in (self._removals, self._rules, self._summaries)
            )

    def forget_all(self) -> int:
        """Empties the profile, the owner's own entries too; how many entries went."""
        tables = (
            "profile_attributes", "profile_removed", "profile_rules", "profile_summaries", "profile_style",
            "profile_answers",
        )  # fmt: skip
        with self._vault.transaction() as connection:
            return sum(int(connection.execute(f"DELETE FROM {table}").rowcount) for table in tables)
