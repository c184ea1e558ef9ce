"""Readable rules about how the owner wants answers: typed by the owner, or proposed to them.

A proposal is derived by fixed rules where the evidence is clear: a stated preference about answers ("I prefer short
answers"), or choices between answers that nearly all lean one way (a sign test: at least `_LEAST_CHOICES` choices
that differ in a trait and a two-sided p below `_SIGNIFICANT`). A proposal is inactive until the owner switches it
on: no prompt changes by itself. Only rules, never the records behind them, are meant to be shown to a larger model.
(Written preference rules of a small local agent: "Unsupervised Human Preference Learning".)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import comb
from typing import Final, Literal

from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.statements import checked_text
from edge_runtime.profile.evidence import Observation
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

RULE_STEPS: Final = (
    # `proposal` is the text as it was proposed, '' for the owner's own rule
    "CREATE TABLE profile_rules (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL, active INTEGER NOT NULL, "
    "proposal TEXT NOT NULL, memory_ids TEXT NOT NULL)",
)
_LEAST_CHOICES: Final = 6
_SIGNIFICANT: Final = 0.05
_STATED = re.compile(
    r"(?:(?:short|brief|concise|long|detailed|direct|formal|informal|simple|plain|polite|friendly|honest|bulleted|"
    r"metric|"
    r"numbered|step-by-step|technical|precise)\b.*\b(?:answers?|replies|reply|responses?|explanations?|messages?|"
    r"tone|"
    r"language|lists?|units?|style)\b.*|(?:answers?|replies|explanations?|lists?|bullet points|tables?|examples?|"
    r"plain english|"
    r"metric units?|celsius|kilomet(?:re|er)s|british spelling|american spelling)\b.*)",
    re.IGNORECASE,
)
_KIND_WORD = re.compile(r"(?:i'm (?:so )?sorry|sorry|oh|what a|that (?:must|sounds)|great question)\b", re.IGNORECASE)
_EMOJI = re.compile(r"[\U0001f300-\U0001faff\u2600-\u27bf]|[:;]-?[)D(]")


@dataclass(frozen=True)
class Rule:
    """One rule in plain words; `source` is "you" or, as long as the owner has not rewritten it, "proposed"."""

    id: int
    text: str
    active: bool
    source: Literal["you", "proposed"]


@dataclass(frozen=True)
class _Trait:
    """Something about an answer that can be counted, and the rule for more and for less of it."""

    count: Callable[[str], float]
    more: str
    less: str


_TRAITS: Final = (
    _Trait(lambda text: float(len(text.split())), "Give long, detailed answers.", "Keep answers short."),
    _Trait(lambda text: float(len(re.findall(r"(?m)^\s*(?:[-*•]|\d+[.)])\s", text)) > 1), "Answer in lists.",
           "Answer in running text, not in lists."),
    _Trait(lambda text: float(text.count("!")), "Exclamation marks are welcome.", "Use no exclamation marks."),
    _Trait(lambda text: float(len(_EMOJI.findall(text))), "Use emoji.", "Use no emoji."),
    _Trait(lambda text: float("?" in text), "Ask a question back.", "Ask no questions back."),
    _Trait(lambda text: float(len(re.findall(r"\d+", text))), "Give numbers.", "Use few numbers."),
    _Trait(lambda text: float(text[:1].islower()), "Begin in lower case.", "Begin with a capital letter."),
    _Trait(lambda text: float(_KIND_WORD.match(text) is not None),
           "Begin with a kind word.", "Begin with the answer, without a kind word first."),
)  # fmt: skip


class Rules:
    """The rules of a profile; every method that writes works inside a transaction of the vault."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def listing(self) -> list[Rule]:
        rows = self._vault.connection.execute("SELECT id, text, active, proposal FROM profile_rules ORDER BY id")
        return [
            Rule(row, text, bool(active), "proposed" if text == proposal else "you")
            for row, text, active, proposal in rows
        ]

    def add(self, text: str) -> Rule:
        text = checked_text(text)
        for rule in self.listing():
            if rule.text.casefold() == text.casefold():
                return self.change(rule.id, active=True)
        return self._rule(self._insert(text, active=True, proposal="", memory_ids=()))

    def change(self, rule_id: int, text: str | None = None, active: bool | None = None) -> Rule:
        rule = self._rule(rule_id)
        new = (checked_text(text) if text is not None else rule.text, rule.active if active is None else active)
        self._vault.connection.execute("UPDATE profile_rules SET text = ?, active = ? WHERE id = ?", (*new, rule_id))
        return self._rule(rule_id)

    def remove(self, rule_id: int) -> tuple[str, tuple[int, ...]]:
        """Removes a rule; returns the proposal it came from ("" for the owner's own) and the memories behind it."""
        self._rule(rule_id)
        proposal, ids = self._vault.connection.execute(
            "SELECT proposal, memory_ids FROM profile_rules WHERE id = ?", (rule_id,)
        ).fetchone()
        self._vault.connection.execute("DELETE FROM profile_rules WHERE id = ?", (rule_id,))
        return str(proposal), tuple(json.loads(ids))

    def propose_preferred(self, preferred: Sequence[Observation], removed: set[tuple[str, str]]) -> int:
        """Proposes a rule for every stated preference about answers, with the memories that state it."""
        found: dict[str, list[int]] = {}
        for seen in preferred:
            if _STATED.fullmatch(seen.value):
                found.setdefault(f"Prefer {seen.value}.", []).append(seen.evidence.memory_id)
        return sum(self._propose(text, ids, removed) for text, ids in found.items())

    def propose_from_choices(self, choices: Sequence[Preference], removed: set[tuple[str, str]]) -> int:
        return sum(self._propose(text, (), removed) for text in rules_of_choices(choices))

    def forget_traces(self, forgotten: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Removes the rules that these memories alone stated and those whose text is a trace; how many."""
        rows = self._vault.connection.execute("SELECT id, text, proposal, memory_ids FROM profile_rules").fetchall()
        gone = 0
        for row, text, proposal, stored in rows:
            ids = json.loads(stored)
            left = [memory_id for memory_id in ids if memory_id not in forgotten]
            if (ids and not left) or is_trace(f"{text} {proposal}"):
                gone += 1
                self._vault.connection.execute("DELETE FROM profile_rules WHERE id = ?", (row,))
            elif left != ids:
                self._vault.connection.execute(
                    "UPDATE profile_rules SET memory_ids = ? WHERE id = ?", (json.dumps(left), row)
                )
        return gone

    def _propose(self, text: str, memory_ids: Sequence[int], removed: set[tuple[str, str]]) -> bool:
        known = self._vault.connection.execute(
            "SELECT 1 FROM profile_rules WHERE proposal = ? OR text = ?", (text, text)
        )
        if known.fetchone() is not None or ("", text.casefold()) in removed:
            return False
        self._insert(text, active=False, proposal=text, memory_ids=memory_ids)
        return True

    def _insert(self, text: str, *, active: bool, proposal: str, memory_ids: Sequence[int]) -> int:
        cursor = self._vault.connection.execute(
            "INSERT INTO profile_rules (text, active, proposal, memory_ids) VALUES (?, ?, ?, ?)",
            (text, active, proposal, json.dumps(list(memory_ids))),
        )
        return int(cursor.lastrowid or 0)

    def _rule(self, rule_id: int) -> Rule:
        for rule in self.listing():
            if rule.id == rule_id:
                return rule
        raise PenchantError(f"There is no rule {rule_id}; `penchant profile show` lists the ids.")


def rules_of_choices(choices: Sequence[Preference]) -> list[str]:
    """The rules that the choices show clearly, in the order of `_TRAITS`; none from too few or mixed choices."""
    rules = []
    for trait in _TRAITS:
        differences = [trait.count(choice.chosen) - trait.count(choice.rejected) for choice in choices]
        more, less = (
            sum(difference > 0 for difference in differences),
            sum(difference < 0 for difference in differences),
        )
        if more + less >= _LEAST_CHOICES and sign_test(more, less) < _SIGNIFICANT:
            rules.append(trait.more if more > less else trait.less)
    return rules


def sign_test(more: int, less: int) -> float:
    """Two-sided p value of `more` against `less` under a fair coin."""
    trials, extreme = more + less, min(more, less)
    return min(1.0, 2.0 * sum(comb(trials, k) for k in range(extreme + 1)) / 2.0**trials)
