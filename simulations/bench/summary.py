"""`penchant bench summary`: does a summary of a person with a quarter of the retrieved memories do as well as all of
them? (Richardson et al. 2023, arXiv:2310.20081, report so on most tasks of LaMP, with summaries by a large model.)

The bundled village: 32 people, each a device that holds what they wrote before the split, judged on what they wrote
and asked after it, in nats per token under the bundled model. Messages are drafted with the owner's own earlier
messages and a summary of how they write; questions about their facts are answered from notes and a summary of what is
known of them. Both summaries are the profile's plain lines (no model's words). Arms, with k memories:

    all               k memories
    summary+quarter   the summary and k/4 memories
    quarter           k/4 memories alone
    summary           the summary alone
    none              neither; the layout is the same

What is reported is the difference to `all`, paired over people: negative is better than all of them. It does not come
out as in the paper: with this model and these plain lines, 12 people and k = 8, the summary adds nothing to a quarter,
and both lose 0.32 nats per token to all memories (messages: 95 % interval 0.03 to 0.61; facts: -0.06 to 0.70).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edge_runtime.answering.answering import lay_out
from edge_runtime.answering.drafting import build_draft
from edge_runtime.answering.gist import gist
from edge_runtime.device import SharedEmbedder
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import Memory, TextEmbedder
from edge_runtime.memory.statements import Recalled, Statement
from edge_runtime.models.catalogue import find_model
from edge_runtime.profile.profile import Profile
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from simulations.bench.case import Case
from simulations.bench.runner import OnProgress
from simulations.datasets.village import load_village
from simulations.experiments.arms import NOTHING_FOUND
from simulations.people import Person
from simulations.statistics import mean_interval

MEMORIES: Final = 8
ARMS: Final = ("all", "summary+quarter", "quarter", "summary", "none")
KINDS: Final = ("messages", "facts")
_CONTEXT_TOKENS: Final = 4096
_REPLY_TOKENS: Final = 64


@dataclass(frozen=True)
class Scored:
    """One arm of one person: summed negative log-likelihood (nats), tokens scored, tokens of all prompts."""

    nats: float
    tokens: int
    prompt_tokens: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens


def run(
    on_progress: OnProgress = lambda stage, fraction: None,
    *,
    people: int = 32,
    messages: int = 2,
    facts: int = 2,
    k: int = MEMORIES,
) -> dict[str, Case]:
    """Losses of the arms over the first `people`, with `messages` and `facts` held-out rows of each."""
    if k < 4 or people < 2:
        raise PenchantError("this benchmark needs at least 2 people and k of 4 or more, so that a quarter is a memory")
    village, embedder = load_village()[:people], SharedEmbedder()
    scored: dict[tuple[str, str], list[Scored]] = {(kind, arm): [] for kind in KINDS for arm in ARMS}
    with Engine.open(find_model(), context_tokens=_CONTEXT_TOKENS, threads=1) as engine:
        for done, person in enumerate(village):
            for key, result in score_person(engine, person, embedder, messages=messages, facts=facts, k=k).items():
                scored[key].append(result)
            on_progress("people", (done + 1) / len(village))
    return {kind: _case(kind, scored, k) for kind in KINDS}


def score_person(
    engine: Engine, person: Person, embedder: TextEmbedder, *, messages: int, facts: int, k: int
) -> dict[tuple[str, str], Scored]:
    """(kind, arm) -> what the held-out rows of one person cost."""
    rows = {
        "messages": [(row.cue, row.text) for row in person.test_messages[:messages]],
        "facts": [(row.question, row.answer) for row in person.facts[:facts]],
    }
    with tempfile.TemporaryDirectory() as folder, Vault.open(Path(folder), bytes(32)) as vault:
        memory, profile = Memory(vault, embedder), Profile(vault)
        memory.remember_many(Statement(row.text, row.cue, row.date) for row in person.train_messages)
        profile.rebuild(memory)
        summaries = {"messages": _summary(profile, memory, "drafting"), "facts": _summary(profile, memory, "general")}
        results = {}
        for kind, asked in rows.items():
            for arm in ARMS:
                nats, tokens, prompt_tokens = 0.0, 0, 0
                for request, reply in asked:
                    count = {"all": k, "summary+quarter": k // 4, "quarter": k // 4}.get(arm, 0)
                    found = memory.recall(request, k=count) if count else []
                    prompt = _prompt(kind, request, found, summaries[kind] if arm.startswith("summary") else "")
                    ids = engine.tokenise(engine.chat_prompt(prompt))
                    answer = [*engine.tokenise(reply, special=False), engine.end_of_turn[0]][:_REPLY_TOKENS]
                    logs = engine.score(ids, [answer])[0]
                    nats, tokens, prompt_tokens = nats - float(logs.sum()), tokens + len(logs), prompt_tokens + len(ids)
                results[kind, arm] = Scored(nats, tokens, prompt_tokens)
    return results


def _summary(profile: Profile, memory: Memory, task: str) -> str:
    """The profile's plain lines; empty if it knows nothing."""
    return profile.write_summary(None, memory, task).text if profile.summary_lines(task) else ""


def _prompt(kind: str, request: str, found: Sequence[Recalled], summary: str) -> list[ChatMessage]:
    if kind == "messages":
        return build_draft(request, found, summary)
    notes = [gist(one.item.text, request) for one in found]
    return lay_out(request, [*notes, *([summary] if summary else [])] or [NOTHING_FOUND.item.text])


def _case(kind: str, scored: dict[tuple[str, str], list[Scored]], k: int) -> Case:
    """Ours is the summary with a quarter, the peer all memories, both as mean nats per token over people."""
    losses = {arm: np.array([one.loss for one in scored[kind, arm]]) for arm in ARMS}
    rows = scored[kind, "all"]
    differences = {arm: list(mean_interval((losses[arm] - losses["all"]).tolist())) for arm in ARMS[1:]}
    over_quarter = (losses["summary+quarter"] - losses["quarter"]).tolist()
    more: dict[str, object] = {
        "losses": {arm: float(values.mean()) for arm, values in losses.items()},
        "difference_to_all": differences,  # mean, low, high
        "summary+quarter_to_quarter": list(mean_interval(over_quarter)),
        "no_worse_than_all": differences["summary+quarter"][2] <= 0.01 * float(losses["all"].mean()),
        "prompt_tokens": {arm: float(np.mean([one.prompt_tokens for one in scored[kind, arm]])) for arm in ARMS},
        "people": len(rows),
        "k": k,
    }
    return Case(float(losses["summary+quarter"].mean()), float(losses["all"].mean()), "nats per token", more)
