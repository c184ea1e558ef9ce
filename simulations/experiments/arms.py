"""The arms: what each person's device could do, all judged on the same held-out rows of the same person.

    none        the model alone
    rag         with the person's own memory in the prompt (what ``recall`` finds for the request)
    shared      with the fleet's shared adapter
    personal    shared adapter plus the person's own residual, trained on their device
    bases       shared adapter plus the fleet's bases in the person's private proportions
    rag+shared, rag+bases

Controls: a stranger's memory (the next person's, searched with the same requests) and a stranger's adapter (the
next person's ``personal``). Held-out rows: messages, answers to questions about the person's facts, and preferred
answers; memory is consulted for the first two kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from client.lora_layout import AdapterSpace
from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import build_draft
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.statements import MemoryItem, Recalled
from edge_runtime.models.catalogue import ModelFile, ModelShape
from protocol.frames import Frame, Vector
from simulations.experiments.scoring import Job, JobResult, ScoredText
from simulations.people import Person
from simulations.statistics import mean_interval

ARMS = ("none", "rag", "shared", "personal", "bases", "rag+shared", "rag+bases")
CONTROLS = {
    "stranger_memory": "none",
    "stranger_adapter": "shared",
}
WITHOUT_MEMORY = {
    "rag": "none",
    "stranger_memory": "none",
    "rag+shared": "shared",
    "rag+bases": "bases",
}
# Every arm gets the same layout: a question without any note is asked with this one, and a draft without earlier
# messages after worked turns. What memory adds is then its content, not the look of the prompt.
NOTHING_FOUND = Recalled(MemoryItem(0, "There is no note about this.", "", "2025-01-01", "me", ""), 0.0, {}, None)
DRAFT_MEMORIES, FACT_MEMORIES = 2, 2


@dataclass(frozen=True)
class HeldOut:
    """How many held-out rows of each kind (the first after the split) are scored, and their length in tokens."""

    messages: int = 2
    facts: int = 1
    choices: int = 1
    max_tokens: int = 64


def held_out_texts(engine: Engine, person: Person, limits: HeldOut, memory_of: Device | None) -> tuple[ScoredText, ...]:
    """The person's held-out rows as scored texts, with what the memory of ``memory_of`` holds on each request."""

    def scored(kind: str, prompt: str, reply: str) -> ScoredText:
        ids = [*engine.tokenise(reply, special=False), engine.end_of_turn[0]][: limits.max_tokens]
        return ScoredText(kind, tuple(engine.tokenise(prompt)), tuple(ids))

    texts = []
    for message in person.test_messages[: limits.messages]:
        notes = memory_of.memory.recall(message.cue, k=DRAFT_MEMORIES) if memory_of else []
        texts.append(scored("message", engine.chat_prompt(build_draft(message.cue, notes)), message.text))
    for fact in person.facts[: limits.facts]:
        notes = memory_of.memory.recall(fact.question, k=FACT_MEMORIES) if memory_of else []
        notes = notes or [NOTHING_FOUND]
        texts.append(scored("fact", engine.chat_prompt(build_messages(fact.question, notes)), fact.answer))
    # Memory has no part in general questions: those rows are scored once and count in both kinds of arm.
    for choice in person.test_choices[: 0 if memory_of else limits.choices]:
        prompt = engine.chat_prompt(build_messages(choice.prompt, []))
        texts.append(scored("choice", prompt, choice.chosen))
    return tuple(texts)


def adapter_bytes(
    space: AdapterSpace, theta: Vector, model: ModelFile, shape: ModelShape, *, round: int, epsilon: float | None
) -> bytes:
    """The adapter ``theta`` as a GGUF for llama.cpp; ``epsilon`` None: no privacy is claimed for it."""
    frame_sha256 = space.digest if isinstance(space, Frame) else ""
    return write_adapter(
        space.lora_factors(theta),
        alpha=float(space.rank),
        metadata=AdapterMetadata(base_sha256=model.sha256, frame_sha256=frame_sha256, round=round, epsilon=epsilon),
        architecture=shape.architecture,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
    )


@dataclass(frozen=True)
class PersonAdapters:
    """GGUF bytes of one person's three adapters."""

    shared: bytes
    personal: bytes
    bases: bytes


def plan_jobs(
    plain: Sequence[tuple[ScoredText, ...]],
    with_memory: Sequence[tuple[ScoredText, ...]],
    with_stranger: Sequence[tuple[ScoredText, ...]],
    adapters: Sequence[PersonAdapters],
) -> list[Job]:
    """Every arm and control for every person; jobs with equal adapters lie side by side."""
    jobs = []

    def add(arm: str, person: int, texts: tuple[ScoredText, ...], adapter: bytes | None = None) -> None:
        jobs.append(Job(arm, person, texts, adapter, sha256(adapter).hexdigest() if adapter else ""))

    count = len(plain)
    for person in range(count):
        add("none", person, plain[person])
        add("rag", person, with_memory[person])
        add("stranger_memory", person, with_stranger[person])
    for person in range(count):
        add("shared", person, plain[person], adapters[person].shared)
        add("rag+shared", person, with_memory[person], adapters[person].shared)
    for person in range(count):
        add("bases", person, plain[person], adapters[person].bases)
        add("rag+bases", person, with_memory[person], adapters[person].bases)
    for person in range(count):
        add("personal", person, plain[person], adapters[person].personal)
        add("stranger_adapter", (person - 1) % count, plain[(person - 1) % count], adapters[person].personal)
    return jobs


def summarise(
    results: Sequence[JobResult], people: Sequence[Person]
) -> tuple[dict[str, dict[str, object]], dict[str, dict[str, object]]]:
    """(arms, controls) of the report. A gain is the mean over people of 1 - loss / loss of what is compared with."""
    by_arm: dict[str, dict[int, JobResult]] = {}
    for result in results:
        row = by_arm.setdefault(result.arm, {})
        earlier = row[result.person].sums if result.person in row else {}
        row[result.person] = JobResult(result.arm, result.person, {**earlier, **result.sums})
    for arm, plain in WITHOUT_MEMORY.items():
        for person, result in by_arm[arm].items():
            choices = {k: v for k, v in by_arm[plain][person].sums.items() if k == "choice"}
            by_arm[arm][person] = JobResult(arm, person, {**result.sums, **choices})

    def block(arm: str, against: str) -> dict[str, object]:
        rows, base = by_arm[arm], by_arm[against]
        losses = [rows[person].loss for person in range(len(people))]
        gains = [1.0 - rows[p].loss / base[p].loss for p in range(len(people))]
        loss, low, high = mean_interval(losses)
        gain, gain_low, gain_high = mean_interval(gains)
        kinds = sorted({kind for row in rows.values() for kind in row.sums})
        new = [gains[p] for p, person in enumerate(people) if person.role == "newcomer"]
        summary: dict[str, object] = {
            "loss": loss,
            "interval": [low, high],
            "gain": gain,
            "gain_interval": [gain_low, gain_high],
            "by_kind": {
                kind: float(np.mean([r.sums[kind][0] / r.sums[kind][1] for r in rows.values() if kind in r.sums]))
                for kind in kinds
            },
            "people": len(people),
            "losses": losses,
        }
        if len(new) > 1:
            mean, new_low, new_high = mean_interval(new)
            summary["newcomers"] = {"people": len(new), "gain": mean, "gain_interval": [new_low, new_high]}
        return summary

    arms = {arm: block(arm, "none") for arm in ARMS}
    controls = {name: {**block(name, against), "compared_with": against} for name, against in CONTROLS.items()}
    return arms, controls
