"""The study of the user projection end to end, on the tiny model: rounds, tokens, scores and their bookkeeping."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import app as client_app
from client.frame_builder import public_text
from client.training import forget_batches, open_trainer
from client.user_vector import UserVectorPlan, open_full_trainer
from client.user_vector_frame import token_embeddings
from edge_runtime.device import SharedEmbedder
from edge_runtime.models.catalogue import find_model
from simulations.datasets.village import load_village
from simulations.studies.user_vector import study as user_vector_study
from simulations.studies.user_vector.arms import arm_table
from simulations.studies.user_vector.soft_scoring import SoftScorer
from simulations.studies.user_vector.study import StudySettings, run_study
from tests.edge_runtime.model_helpers import needs_bundled_embedder, random_tokens
from tests.tiny_model import WIDTH, write_tiny_model

# The tiny vocabulary is bytes: its texts are longer than a real model's.
SETTINGS = StudySettings(
    fleet=8,
    newcomers=2,
    input_rank=3,
    output_rank=4,
    rounds=1,
    held_out=1,
    max_tokens=200,
    bases_epochs=1,
    training=UserVectorPlan(messages=1, max_tokens=200, batch_size=2, step=0.1),
)


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_MODEL", str(path))
        patch.setattr("client.torch_model.fast_dtype", lambda: torch.float32)
        open_trainer.cache_clear()
        forget_batches()
        yield path
        open_full_trainer().engine.close()
        open_trainer.cache_clear()
        forget_batches()


@needs_bundled_embedder
def test_the_study_runs_through_the_deployment_and_reports_every_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_vector_study, "public_text", lambda: public_text()[:12])
    people = [
        replace(person, train_messages=person.train_messages[:4], facts=(), train_choices=())
        for person in load_village()
    ]
    said: list[str] = []
    report = run_study(SETTINGS, people, tmp_path, SharedEmbedder(), said.append)
    assert json.loads((tmp_path / "report.json").read_text())["numbers_trained"] == 4 * (3 + 1)
    arms: dict[str, Any] = report["arms"]
    kinds = ("shared", "own", "own_mean", "stranger")
    assert set(arms) == {"none", "anchor", *(f"{run}/{k}" for run in ("without_noise", "private") for k in kinds)}
    assert report["runs"]["without_noise"]["epsilon"] is None
    assert report["runs"]["private"]["epsilon"] == pytest.approx(SETTINGS.epsilon, rel=0.02)
    assert report["runs"]["without_noise"]["norm_of_bias"] > 0.01
    assert report["bases"]["gradient"]["captured"] > report["bases"]["token_embeddings"]["captured"]
    # Float32 weights in both engines; llama.cpp keeps keys and values in float16.
    assert report["torch_and_llama"]["largest_difference"] < 0.01
    assert len(said) == 3
    assert client_app.work_factory is client_app.default_work


def test_the_table_sets_each_arm_beside_what_it_should_beat() -> None:
    losses = {"none": [4.0, 5.0, 6.0], "anchor": [4.1, 5.1, 6.1]}
    losses |= {
        f"run/{arm}": [3.0, 4.0, 5.0 + shift] for arm, shift in (("shared", 0.0), ("stranger", 0.3), ("own", 0.6))
    }
    table = arm_table(losses, fleet=1)
    assert table["run/own"]["change"]["run/shared"]["mean"] == pytest.approx(0.2)
    assert table["run/own"]["newcomers_change"]["run/stranger"]["mean"] == pytest.approx(0.15)
    assert set(table["run/shared"]["change"]) == {"none", "anchor"}
    assert table["none"]["change"] == {}


def test_a_score_does_not_depend_on_what_was_scored_before_and_a_token_row_is_that_token(tiny: Path) -> None:
    model = find_model(str(tiny))
    prompt, reply = random_tokens(1, 12), random_tokens(2, 9)
    row = token_embeddings(open_full_trainer().torch_model)[7:8].astype(np.float32)
    other = np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)
    with SoftScorer(model) as scorer:
        first = scorer.score(other, prompt, reply)
        plain = scorer.score(None, prompt, reply)
        as_token = scorer.score(None, [7, *prompt], reply)
        as_row = scorer.score(row, prompt, reply)
        assert np.array_equal(scorer.score(other, prompt, reply), first)
        assert np.array_equal(scorer.score(None, prompt, reply), plain)
    assert as_row == pytest.approx(as_token, abs=0.02)
    assert np.abs(first - plain).max() > 0.05
