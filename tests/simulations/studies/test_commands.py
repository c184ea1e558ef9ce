"""The commands end to end on tiny models: tables and pictures are written, and a second run asks nothing again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import describe_model
from simulations.datasets.prefeval import PreferenceQuestion
from simulations.studies.decay import study as prefeval_decay_study
from simulations.studies.decay.adapter import AdapterRecipe
from simulations.studies.drift import study as drift_study
from simulations.studies.drift.fleet import DriftRecipe, World
from simulations.studies.drift.memory import CHANGE
from simulations.studies.judge import study as judge_study
from simulations.studies.quantisation import study as quantisation_study
from simulations.studies.quantisation.quantisation import FORMS
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import adapter_bytes, random_factors
from tests.simulations.studies.drift.test_fleet import world  # noqa: F401
from tests.simulations.studies.prefeval_help import write_prefeval
from tests.tiny_model import write_tiny_model


@dataclass(frozen=True)
class RandomAdapters:
    """In place of trained ones (`test_preference_adapter.py`)."""

    engine: Engine
    recipe: AdapterRecipe

    def adapter(self, row: PreferenceQuestion) -> bytes:
        return adapter_bytes(self.engine, random_factors(1), alpha=4.0)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data, with a tiny model and a hashing embedder in place of the real ones."""
    model = describe_model(write_tiny_model(tmp_path / "tiny.gguf", 0))
    for module in (prefeval_decay_study, judge_study, quantisation_study):
        monkeypatch.setattr(module, "find_model", lambda **_: model)
    for module in (prefeval_decay_study, judge_study, quantisation_study, drift_study):
        monkeypatch.setattr(module, "SharedEmbedder", HashingEmbedder)
    for name in ("decay.study.TUNING_TOPICS", "judge.cases.TUNING_TOPICS"):
        monkeypatch.setattr(f"simulations.studies.{name}", 1)
    monkeypatch.setenv("PENCHANT_DATA", str(tmp_path))
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    write_prefeval(tmp_path / "prefeval")
    return tmp_path


def rows(out: Path) -> int:
    return len((out / "results.jsonl").read_text("utf-8").splitlines())


def test_decay(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefeval_decay_study, "TURNS", (0, 1))
    monkeypatch.setattr(prefeval_decay_study, "AdapterMaker", RandomAdapters)
    out = tiny / "out"
    prefeval_decay_study.main(out, questions=2, adapters=1, implicit=True, context=2048, seed=0)
    report = json.loads((out / "decay.json").read_text("utf-8"))["summary"]
    assert set(report) == {"explicit", "choice-based", "persona-driven"}
    assert report["explicit"]["arms"]["adapter"]["1"]["questions"] == 1
    nones = [report[form]["arms"]["none"]["1"]["right"] for form in report]
    assert nones[0] == nones[1] == nones[2]
    assert "stranger" not in report["choice-based"]["arms"]
    assert all((out / f"decay-{form}.png").is_file() for form in report) and rows(out) == 6
    prefeval_decay_study.main(out, questions=2, adapters=1, implicit=True, context=2048, seed=0)
    assert rows(out) == 6
    assert "cinnamon" not in (out / "results.jsonl").read_text("utf-8")


def test_judge(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_study, "SETS", ("prefeval",))
    monkeypatch.setattr(judge_study, "CHOICE_SETS", ())
    out = tiny / "out"
    judge_study.main(out, cases=3, tuning=2, threshold=0.8, model="", seed=0)
    reports = json.loads((out / "judge.json").read_text("utf-8"))["reports"]
    assert set(reports) == {"local, prefeval", "product, prefeval"}
    assert (out / "judge.png").is_file() and "product, prefeval" in (out / "judge.md").read_text("utf-8")
    monkeypatch.delenv("PENCHANT_JUDGE_URL", raising=False)
    with pytest.raises(typer.Exit):
        judge_study.main(out, cases=3, tuning=2, threshold=0.8, model="m", seed=0)


def test_quantisation(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation_study, "CELLS", ("none@0", "hybrid@3"))
    monkeypatch.setattr(quantisation_study, "DEPTHS", (3,))
    monkeypatch.setattr(quantisation_study, "RETRIEVERS", ("hybrid",))
    out = tiny / "out"
    quantisation_study.main(out, questions=2, source="village", model="smollm2-135m", seed=0)
    report: dict[str, Any] = json.loads((out / "quantisation.json").read_text("utf-8"))
    assert set(report["files"]) == set(FORMS)
    assert report["summary"]["f16"]["hybrid@3"]["nats"]["gap"] == [0.0, 0.0, 0.0]
    assert report["summary"]["q4_0"]["hybrid@3"]["nats"]["gap"][0] != 0.0
    count = rows(out)
    assert count == 4 * 2 * 2 + 1 and (out / "quantisation.png").is_file()
    quantisation_study.main(out, questions=2, source="village", model="smollm2-135m", seed=0)
    assert rows(out) == count
    with pytest.raises(typer.Exit):
        quantisation_study.main(out, questions=2, source="dreams", model="smollm2-135m", seed=0)


def test_drift(tiny: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:  # noqa: F811
    monkeypatch.setattr(drift_study, "make_world", lambda folder, recipe, seed: world)
    recipe = DriftRecipe(choices=120, change=60, learnt=40)
    monkeypatch.setattr(drift_study, "DriftRecipe", lambda people: recipe)
    out = tiny / "out"
    drift_study.main(out, seeds=1, people=8, lives=2)
    report = json.loads((out / "drift.json").read_text("utf-8"))
    assert report["taste"]["methods"]["frozen"]["parts"]["at the end"][0] > 0.6
    assert (
        report["facts"]["plainly"]["memory"][-1]["stale"][0] < report["facts"]["plainly"]["memory"][CHANGE]["stale"][0]
    )
    assert (out / "drift-taste.png").is_file() and (out / "drift-facts.png").is_file() and rows(out) == 5
    drift_study.main(out, seeds=1, people=8, lives=2)
    assert rows(out) == 5
