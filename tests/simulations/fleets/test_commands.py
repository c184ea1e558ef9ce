"""The two commands for large fleets, on small ones: what they write, and that a run goes on after a stop."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from client.training import TrainingPlan, open_trainer
from protocol.errors import PenchantError
from simulations.choices.reward_recovery import taste_population
from simulations.fleets import adapters, rewards
from simulations.fleets.adapters import dealt_out
from simulations.stage_display import StageDisplay
from tests.tiny_model import write_tiny_model


@pytest.fixture
def blogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Four authors with posts, two newcomers, and a tiny model that serves."""
    folder = tmp_path / "data"
    (folder / "blogs").mkdir(parents=True)
    for file, authors in (("fleet", ("a", "b", "c", "a")), ("newcomers", ("x", "y"))):  # "a" is there twice
        with gzip.open(folder / "blogs" / f"{file}.jsonl.gz", "wt", encoding="utf-8") as out:
            for author in authors:
                posts = [
                    [f"2004-01-{day:02}", " ".join(f"{author}{day}w{n}" for n in range(30))] for day in range(1, 12)
                ]
                out.write(json.dumps({"user": author, "train": posts[:7], "val": [], "test": posts[7:]}) + "\n")
    monkeypatch.setenv("PENCHANT_DATA", str(folder))
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PENCHANT_MODEL", str(write_tiny_model(tmp_path / "tiny.gguf", 0)))
    monkeypatch.setattr(adapters, "JUDGED", 2)
    monkeypatch.setattr(adapters, "TrainingPlan", lambda: TrainingPlan(max_tokens=220))  # its tokens are bytes
    open_trainer.cache_clear()
    yield folder
    open_trainer.cache_clear()


def run(out: Path, **changed: Any) -> dict[str, Any]:
    settings = {"people": 6, "cohort": 3, "rounds": 3, "messages": 3, "noise_multiplier": 0.5, "delta": 1e-3}
    adapters.main(out, **{**settings, "workers": 1, "seed": 0, **changed})
    report: dict[str, Any] = json.loads((out / adapters.REPORT).read_text("utf-8"))
    return report


def test_authors_are_dealt_out_in_runs_of_posts_and_never_twice(blogs: Path) -> None:
    people = dealt_out(blogs, 6, 3)
    texts = [message.text for person in people for message in person]
    assert [len(person) for person in people] == [3] * 6 and len(set(texts)) == 18
    dates = [[message.date for message in person] for person in people]
    assert dates[0] == ["2004-01-01", "2004-01-02", "2004-01-03"] and dates[1][0] == "2004-01-04"
    with pytest.raises(PenchantError, match="the blogs make 6 people of 3 posts"):
        dealt_out(blogs, 7, 3)


@pytest.mark.usefixtures("blogs")
def test_a_fleet_of_adapters_states_what_it_spent_and_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    assert whole["epsilon"] > 0 and whole["sampling_probability"] == 0.5 and whole["numbers"] == 32
    assert "neighbours" in whole["unit"] and whole["judged_loss"][0] > 0 and whole["peak_memory_mb"] > 50

    (tmp_path / "stopped").mkdir()
    shutil.copy(tmp_path / "whole" / adapters.FRAME, tmp_path / "stopped")  # it takes seconds to make

    def stop(display: object, stage: str, fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(typer.Exit):
        patched.setattr(StageDisplay, "__call__", stop)
        run(tmp_path / "stopped")
    resumed = run(tmp_path / "stopped")
    for key in ("judged_loss", "judged_loss_before", "gain_percent", "epsilon"):
        assert resumed[key] == whole[key]
    assert resumed["people_trained_in_this_call"] <= whole["people_trained_in_this_call"]


def test_a_fleet_of_tastes_is_trained_from_a_stream(tmp_path: Path) -> None:
    rewards.main(tmp_path / "out.json", people=500, features=6, rank=1, choices=8, epsilon=20.0, seed=0)
    report = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert report["people"] == 500 and 19 < report["epsilon"] <= 20 and report["peak_memory_mb"] > 50
    assert report["newcomers_accuracy"][0] > 60 and np.isfinite(report["people_per_second_and_round"])
    with pytest.raises(PenchantError, match="page by page"):
        rewards.TasteStream(taste_population(people=1, features=3, rank=1, choices=1, seed=0), 9, 2, 0).block(1, 5)
