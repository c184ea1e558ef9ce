"""What `penchant train` says about what it did: one line for each question an owner might ask, and the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from client.personal_gate import GateDecision
from client.personal_training import NothingNew, RetrievalOnly, TrainingOutcome
from edge_runtime.adapters.log import TASKS, Task

Outcome = TrainingOutcome | RetrievalOnly | NothingNew
_STATES: Final = {TrainingOutcome: "finished", RetrievalOnly: "retrieval only", NothingNew: "nothing new"}
_JUDGED_BY: Final[dict[Task, str]] = {
    "drafts": "your {} newest messages",
    "answers": "the {} newest answers you preferred",
}
_MATERIAL: Final[dict[Task, str]] = {"drafts": "messages of yours", "answers": "answers that you preferred"}

_OBJECTIVES: Final = {
    "turns": "your words after their requests, three to a chat",
    "next_token": "your words after their requests, each by itself",
}


def outcome_lines(outcome: Outcome, unit: str) -> Iterator[str]:
    """The lines, in the order of the work; ``unit`` is what a private training protects as one."""
    if isinstance(outcome, RetrievalOnly):
        yield (
            f"Nothing was trained: there are {outcome.texts} texts to learn from, and an adapter takes "
            f"{outcome.needed}. Until then your memory alone makes the answers yours."
        )
        return
    if isinstance(outcome, NothingNew):
        yield (
            f"Nothing was trained: {outcome.texts} of your texts are new since the last training, and it takes "
            f"{outcome.needed}. --fresh trains on all of them from nothing."
        )
        return
    learnt = _OBJECTIVES[outcome.objective]
    stopped = f", and stopped by {outcome.stop_texts} more" if outcome.stop_texts else ""
    texts = f"{outcome.texts} texts"
    if outcome.increment > 1:
        texts = f"{outcome.new_texts} new texts and {outcome.texts - outcome.new_texts} learnt before"
    yield (
        f"Trained {outcome.numbers:,} numbers on {texts} ({learnt}): {outcome.steps} steps in "
        f"{outcome.seconds:.0f} s{stopped}."
    )
    yield from _privacy_lines(outcome, unit)
    for task, served in outcome.served.items():
        yield (
            f"Loss on {_JUDGED_BY[task].format(served.texts)}, which no training saw, with what your memory adds to "
            f"the prompt: {served.before:.3f} before, {served.after:.3f} after (nats per token); gain {_gain(served)}."
        )
    plain = outcome.plain
    yield f"Without your memory, to compare: {plain.before:.3f} before, {plain.after:.3f} after; gain {_gain(plain)}."
    if outcome.installed is None:
        if outcome.lost:
            yield f"It would not surely help with {' and '.join(outcome.lost)} any more, so what was live stays."
        else:
            yield "With your memory that is not surely a gain (it takes more than 0), so what was live stays."
        return
    serves = outcome.installed.serves
    yield f"Live as adapter {outcome.installed.id} for {' and '.join(serves)}. Undo: penchant adapters --off"
    for task in TASKS:
        if task not in serves:
            why = "it is not surely a gain" if task in outcome.served else f"there are no {_MATERIAL[task]} to judge by"
            yield f"For {task} {why}: there the model and your memory go on alone."


def _privacy_lines(outcome: TrainingOutcome, unit: str) -> Iterator[str]:
    if not math.isfinite(outcome.epsilon):
        yield "Without noise: this adapter stays on this device and may repeat your words; do not share it."
        return
    yield (
        f"What one {unit} loses to the adapter: epsilon {outcome.epsilon:.2f} at delta {outcome.delta:.1g} "
        f"({outcome.units} in all)."
    )
    if outcome.epsilon_so_far > outcome.epsilon:
        total = f"{outcome.epsilon_so_far:.2f}" if math.isfinite(outcome.epsilon_so_far) else "without bound"
        yield f"In all trainings of this device together, were all shown: {total}."


def _gain(decision: GateDecision) -> str:
    surely = (
        f"at least {decision.gain_low:.3f} with 90 % confidence" if math.isfinite(decision.gain_low) else "not sure"
    )
    return f"{decision.gain:.3f}, {surely}"


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON, which has no infinity: null means that nothing is guaranteed, or nothing is known."""
    fields: dict[str, Any] = {"state": _STATES[type(outcome)], **asdict(outcome)}
    if isinstance(outcome, TrainingOutcome):
        for task, decision in outcome.served.items():
            fields["served"][task]["accepted"] = decision.accepted
    return {name: _finite(value) for name, value in fields.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
