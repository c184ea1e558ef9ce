"""Scoring by llama.cpp in worker processes: the only numbers that the arms are judged by.

Each worker opens the quantised file once, with one thread (llama.cpp with a thread on every core collapses as soon
as anything else runs), and scores whole jobs: one person under one adapter and one way of prompting.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from edge_runtime.engine.adapter_loading import Adapter
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile

CONTEXT_TOKENS = 2048


@dataclass(frozen=True)
class ScoredText:
    """``prompt`` and ``reply`` token ids; only the reply is scored. ``kind`` groups the result."""

    kind: str
    prompt: tuple[int, ...]
    reply: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """Score ``texts`` under one adapter (GGUF bytes with its SHA-256, or None for the model alone)."""

    arm: str
    person: int
    texts: tuple[ScoredText, ...]
    adapter: bytes | None = None
    adapter_sha256: str = ""


@dataclass(frozen=True)
class JobResult:
    """Summed negative log-likelihood (nats) and tokens per kind; ``peak_mb`` of the process that scored."""

    arm: str
    person: int
    sums: dict[str, tuple[float, int]]
    worker: int = 0
    peak_mb: float = 0.0

    @property
    def loss(self) -> float:
        """Nats per token over all kinds."""
        return sum(nll for nll, _ in self.sums.values()) / sum(count for _, count in self.sums.values())


def peak_memory_mb() -> float:
    """Largest resident size of this process so far. ``ru_maxrss`` would count the parent's at the fork, too."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass
class Scorer:
    """One open engine and the adapter that it uses now."""

    engine: Engine
    adapter: Adapter | None = None

    def use(self, job: Job) -> None:
        """Put the job's adapter in place; jobs with the same adapter in a row load it once."""
        if (self.adapter.sha256 if self.adapter else "") == job.adapter_sha256:
            return
        self.engine.use_adapters([])
        if self.adapter:
            self.engine.unload_adapter(self.adapter)
        self.adapter = self.engine.load_adapter(job.adapter, sha256=job.adapter_sha256) if job.adapter else None
        self.engine.use_adapters([(self.adapter, 1.0)] if self.adapter else [])

    def score(self, job: Job) -> JobResult:
        """Score one job. Texts go by kind, so that the engine reads what their prompts begin with once."""
        self.use(job)
        sums: dict[str, tuple[float, int]] = {}
        for text in sorted(job.texts, key=lambda text: text.kind):
            row = self.engine.score(text.prompt, [text.reply])[0]
            nll, tokens = sums.get(text.kind, (0.0, 0))
            sums[text.kind] = (nll - float(row.sum()), tokens + len(row))
        return JobResult(job.arm, job.person, sums, os.getpid(), peak_memory_mb())


_scorer: Scorer | None = None


def _start_worker(model: ModelFile) -> None:
    global _scorer
    os.nice(5)
    _scorer = Scorer(Engine.open(model, context_tokens=CONTEXT_TOKENS, threads=1))


def _run(job: Job) -> JobResult:
    if _scorer is None:
        raise RuntimeError("the scoring worker has no engine")
    return _scorer.score(job)


def split_by_kind(jobs: Sequence[Job]) -> list[Job]:
    """The same work in jobs of one kind each, so that neighbours share their adapter and the head of their prompts.

    The engine keeps what a prompt has in common with the one before it; with this order the worked turns of a kind
    are read once per adapter and not once per person and arm.
    """
    split = []
    for _, group in groupby(jobs, key=lambda job: job.adapter_sha256):
        alike = list(group)
        for kind in sorted({text.kind for job in alike for text in job.texts}):
            for job in alike:
                texts = tuple(text for text in job.texts if text.kind == kind)
                if texts:
                    split.append(replace(job, texts=texts))
    return split


def score_all(model: ModelFile, jobs: Sequence[Job], *, workers: int) -> Iterator[JobResult]:
    """Score all jobs, in any order, on ``workers`` processes."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (model,)) as pool:
        futures = [pool.submit(_run, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
