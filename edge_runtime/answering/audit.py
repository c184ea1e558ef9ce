"""What went into an answer, as JSON: enough to explain it and to find it when something is forgotten.

Texts of memories are not repeated in it (they are named by id); the question, its rewritten form and profile lines
are, so `Conversations.forget_traces` searches audits too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from edge_runtime.answering.evidence import Evidence
from edge_runtime.answering.planner import Plan


@dataclass
class Audit:
    """One answer's record; `to_dict` is complete once its last piece was read.

    `prompt_tokens` counts each part on its own and `total` as the model saw it; `seconds` are per stage; `cited` are
    the sources that the answer rests on; `stopped` says that it was broken off. `turn_id` is where the answer is kept
    (None: nowhere) and no part of the dict, which is stored there.
    """

    query: str = ""
    plan: Plan = field(default_factory=lambda: Plan(("none",), ""))
    candidates: list[Evidence] = field(default_factory=list)
    profile: list[tuple[str, str]] = field(default_factory=list)
    prompt_tokens: dict[str, int] = field(default_factory=dict)
    adapters: list[tuple[str, float]] = field(default_factory=list)
    model_sha256: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, bool] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cited: tuple[str, ...] = ()
    answer_tokens: int = 0
    stopped: bool = False
    turn_id: int | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds of a block to those of `stage`."""
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + perf_counter() - started, 4)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "query": self.query,
            "plan": {"sources": list(self.plan.sources), "reason": self.plan.reason},
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "profile": [{"id": id_, "text": text} for id_, text in self.profile],
            "prompt_tokens": dict(self.prompt_tokens),
            "adapters": [{"sha256": sha256, "scale": scale} for sha256, scale in self.adapters],
            "model_sha256": self.model_sha256,
            "sampling": dict(self.sampling),
            "stages": dict(self.stages),
            "seconds": dict(self.seconds),
            "cited": list(self.cited),
            "answer_tokens": self.answer_tokens,
            "stopped": self.stopped,
        }
