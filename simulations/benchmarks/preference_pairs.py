"""Which of several answers a person preferred: PRISM and PersonalLLM.

PRISM (Kirk et al. 2024, "The PRISM alignment dataset"; human texts CC BY 4.0, models' texts CC BY-NC 4.0): read is
``prism/utterances.jsonl``, a line for every answer with ``user_id``, ``conversation_id``, ``turn``, ``within_turn_id``,
``user_prompt``, ``model_response``, ``if_chosen``. A choice is a turn of a conversation with one chosen answer and at
least another one; earlier turns are not shown.

PersonalLLM (Zollo et al., "PersonalLLM: tailoring LLMs to individual preferences", ICLR 2025): read is
``personalllm/interactions.jsonl``, a line for every simulated person as the authors' script of the interaction database
makes them: ``person_id``, and for j from 1 on ``prompt_j``, ``response_j_a``, ``response_j_b``, ``chosen_j`` ("a" or
"b"), null after the person's last.

History is what was preferred of the earlier choices; the latest quarter, ten at most, are the queries. Answers are cut
to their first words, all alike, and nothing of how a pair is written tells which one was chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict

from protocol.errors import PenchantError
from simulations.benchmarks.form import (
    Benchmark,
    FileRow,
    Number,
    Query,
    Task,
    Text,
    cut,
    history_of,
    read_json_lines,
    shortened,
)

TUNING: Final = 4
MOST_QUERIES: Final = 10
FEWEST_CHOICES: Final = 4
_CONVERSATION: Final = re.compile(r"c(\d+)")
Choice = tuple[str, str, tuple[str, ...]]  # prompt, preferred, all options


class _Utterance(FileRow):
    user_id: Text
    conversation_id: Text
    turn: int
    within_turn_id: int
    user_prompt: str
    model_response: str
    if_chosen: bool


class _Person(FileRow):
    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    person_id: Number


def prism(folder: Path, people: int) -> Benchmark:
    """``folder`` holds ``prism/utterances.jsonl``; the first people of the file are for tuning."""
    rows = read_json_lines(folder / "prism" / "utterances.jsonl", _Utterance, "PRISM")
    turns: dict[str, dict[tuple[int, str, int], list[_Utterance]]] = {}
    for row in rows:
        found = _CONVERSATION.fullmatch(row.conversation_id)
        place = (int(found[1]) if found else 0, row.conversation_id, row.turn)
        turns.setdefault(row.user_id, {}).setdefault(place, []).append(row)
    choices = {
        user: [_choice(sorted(own[place], key=lambda row: row.within_turn_id)) for place in sorted(own)]
        for user, own in turns.items()
    }
    return _benchmark("prism", {user: [one for one in own if one] for user, own in choices.items()}, people)


def _choice(rows: list[_Utterance]) -> Choice | None:
    chosen = [row.model_response for row in rows if row.if_chosen]
    return (
        _cut_choice(rows[0].user_prompt, chosen[0], [row.model_response for row in rows]) if len(chosen) == 1 else None
    )


def personalllm(folder: Path, people: int) -> Benchmark:
    """``folder`` holds ``personalllm/interactions.jsonl``; the first people of the file are for tuning."""
    rows = read_json_lines(folder / "personalllm" / "interactions.jsonl", _Person, "PersonalLLM")
    choices = {f"persona-{row.person_id}": [*_interactions(place, row)] for place, row in enumerate(rows)}
    return _benchmark("personalllm", choices, people)


def _interactions(place: int, person: _Person) -> Iterator[Choice]:
    fields: dict[str, Any] = person.model_extra or {}
    number = 1
    while fields.get(f"prompt_{number}") is not None:
        names = [f"prompt_{number}", f"response_{number}_a", f"response_{number}_b", f"chosen_{number}"]
        prompt, first, second, chosen = (fields.get(name) for name in names)
        if not all(isinstance(text, str) for text in (prompt, first, second)) or chosen not in ("a", "b"):
            raise PenchantError(
                f"interactions.jsonl is not of PersonalLLM's form: see row {place}, interaction {number}"
            )
        cut_choice = _cut_choice(str(prompt), str(first if chosen == "a" else second), [str(first), str(second)])
        if cut_choice:
            yield cut_choice
        number += 1


def _cut_choice(prompt: str, preferred: str, options: list[str]) -> Choice | None:
    """The choice with its texts cut; None if they cannot be told apart then, or one is empty."""
    texts = tuple(shortened(option) for option in options)
    if len(texts) < 2 or len(set(texts)) < len(texts) or not all(texts) or not prompt.strip():
        return None
    return shortened(prompt), shortened(preferred), texts


def _benchmark(name: str, choices: dict[str, list[Choice]], people: int) -> Benchmark:
    tasks = []
    for person, own in choices.items():
        if len(own) < FEWEST_CHOICES:
            continue
        held_out = min(MOST_QUERIES, len(own) // 4)
        history = history_of([("", prompt, preferred) for prompt, preferred, _ in own[:-held_out]])
        queries = tuple(Query(*one) for one in own[-held_out:])
        tasks.append(Task(person, history, queries))
    return Benchmark(name, "writing", "accuracy", *cut(name, tasks, people, TUNING))
