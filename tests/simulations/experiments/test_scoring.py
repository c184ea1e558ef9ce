"""Scoring of whole jobs on the tiny model: the engine's own numbers, whatever process they come from."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile
from protocol.errors import PenchantError
from simulations.experiments.scoring import Job, JobResult, ScoredText, Scorer, score_all, split_by_kind
from tests.edge_runtime.model_helpers import adapter_bytes, open_tiny, random_factors, random_tokens

TEXTS = tuple(
    ScoredText(kind, tuple(random_tokens(seed, 12)), tuple(random_tokens(100 + seed, 5 + seed)))
    for seed, kind in enumerate(["message", "fact", "message", "choice"])
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("scoring")) as opened:
        yield opened


@pytest.fixture
def scorer(engine: Engine) -> Iterator[Scorer]:
    yield Scorer(engine)
    engine.use_adapters([])


def job(person: int, adapter: bytes | None = None, texts: tuple[ScoredText, ...] = TEXTS, arm: str = "arm") -> Job:
    return Job(arm, person, texts, adapter, sha256(adapter).hexdigest() if adapter else "")


def adapter(engine: Engine, seed: int) -> bytes:
    return adapter_bytes(engine, random_factors(seed), alpha=4.0)


def direct(engine: Engine, texts: tuple[ScoredText, ...] = TEXTS) -> dict[str, tuple[float, int]]:
    """The sums per kind from the engine itself, under the adapters in use."""
    sums: dict[str, tuple[float, int]] = {}
    for text in texts:
        logs = engine.score(text.prompt, [text.reply])[0]
        nll, count = sums.get(text.kind, (0.0, 0))
        sums[text.kind] = (nll - float(logs.sum()), count + len(text.reply))
    return sums


def assert_same(found: dict[str, tuple[float, int]], wanted: dict[str, tuple[float, int]]) -> None:
    assert found.keys() == wanted.keys()
    for kind, (nll, count) in wanted.items():
        assert found[kind][0] == pytest.approx(nll, rel=1e-6) and found[kind][1] == count


def test_a_job_is_what_the_engine_says(engine: Engine, scorer: Scorer) -> None:
    result = scorer.score(job(3))
    assert (result.arm, result.person) == ("arm", 3)
    assert_same(result.sums, direct(engine))
    assert result.sums["message"][1] == 5 + 7 and result.sums["fact"][1] == 6 and result.sums["choice"][1] == 8


def test_the_loss_is_per_token_over_all_kinds() -> None:
    assert JobResult("arm", 0, {"message": (30.0, 10), "fact": (4.0, 2), "choice": (2.0, 6)}).loss == pytest.approx(2.0)


def test_an_adapter_counts_only_for_its_own_job(engine: Engine, scorer: Scorer) -> None:
    plain = scorer.score(job(0))
    one, two = adapter(engine, 1), adapter(engine, 2)
    first, second, third = scorer.score(job(0, one)), scorer.score(job(0, two)), scorer.score(job(0))
    facts = [result.sums["fact"][0] for result in (plain, first, second)]
    assert min(abs(facts[0] - facts[1]), abs(facts[0] - facts[2]), abs(facts[1] - facts[2])) > 0.5
    assert_same(third.sums, plain.sums)
    engine.use_adapters([(engine.load_adapter(one, sha256=sha256(one).hexdigest()), 1.0)])
    assert_same(first.sums, direct(engine))


def test_jobs_with_the_same_adapter_in_a_row_load_it_once(
    engine: Engine, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = engine.load_adapter

    def counting(data: bytes, *, sha256: str) -> Any:
        loads.append(sha256)
        return load(data, sha256=sha256)

    monkeypatch.setattr(engine, "load_adapter", counting)
    one, two = adapter(engine, 1), adapter(engine, 2)
    results = [scorer.score(job(person, one)) for person in range(3)]
    assert len(loads) == 1 and results[0].sums == results[2].sums
    scorer.score(job(0, two))
    scorer.score(job(0))
    scorer.score(job(0, one))
    assert loads == [sha256(data).hexdigest() for data in (one, two, one)]


def test_an_adapter_that_was_altered_is_not_scored(engine: Engine, scorer: Scorer) -> None:
    data = adapter(engine, 1)
    with pytest.raises(PenchantError, match="digest"):
        scorer.score(Job("arm", 0, TEXTS, data[:-1] + b"x", sha256(data).hexdigest()))


def test_two_worker_processes_give_the_same_numbers(engine: Engine, scorer: Scorer, tmp_path: Path) -> None:
    model: ModelFile = engine.model
    jobs = [job(person, adapter(engine, 1) if person % 2 else None, TEXTS[person:]) for person in range(4)]
    results = {result.person: result for result in score_all(model, jobs, workers=2)}
    assert sorted(results) == [0, 1, 2, 3]
    for one in jobs:
        assert_same(results[one.person].sums, scorer.score(one).sums)


def test_leaving_early_ends_the_workers(engine: Engine) -> None:
    stream = score_all(engine.model, [job(person) for person in range(6)], workers=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def test_splitting_by_kind_loses_nothing_and_keeps_adapters_together() -> None:
    def text(kind: str, mark: int) -> ScoredText:
        return ScoredText(kind, (1, mark), (2,))

    jobs = [
        Job("none", 0, (text("message", 3), text("fact", 4))),
        Job("none", 1, (text("fact", 5),)),
        Job("bases", 0, (text("message", 6), text("fact", 7)), b"adapter", "digest"),
    ]
    split = split_by_kind(jobs)
    assert [(job.arm, job.person, job.texts[0].kind) for job in split] == [
        ("none", 0, "fact"),
        ("none", 1, "fact"),
        ("none", 0, "message"),
        ("bases", 0, "fact"),
        ("bases", 0, "message"),
    ]
    assert sorted(t.prompt for job in split for t in job.texts) == sorted(t.prompt for job in jobs for t in job.texts)
    assert all(job.adapter == (b"adapter" if job.arm == "bases" else None) for job in split)
