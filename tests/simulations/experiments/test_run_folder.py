"""What a stopped run leaves: its folder is taken up again by the same run and by no other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from protocol.errors import PenchantError
from simulations.datasets.village import load_village
from simulations.experiments.run_folder import RunFolder, job_key, people_digest, plan_digest
from simulations.experiments.scoring import Job, JobResult, ScoredText

JOB = Job("rag", 3, (ScoredText("message", (1, 2), (3,)),), b"adapter", "ab")


@dataclass(frozen=True)
class Settings:
    seed: int = 0


def test_the_digest_follows_settings_words_and_model() -> None:
    people = load_village()[:2]
    changed = [replace(people[0], train_messages=people[0].train_messages[1:]), people[1]]
    digests = {
        plan_digest(Settings(), people, "model"),
        plan_digest(Settings(1), people, "model"),
        plan_digest(Settings(), people[::-1], "model"),
        plan_digest(Settings(), changed, "model"),
        plan_digest(Settings(), people, "other"),
    }
    assert len(digests) == 5 and plan_digest(Settings(), list(people), "model") in digests
    assert people_digest(people) != people_digest(changed)


def test_the_same_run_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    first = RunFolder.open(tmp_path / "out", "plan")
    first.traffic["up"]["collect"] = 7
    first.save()
    assert RunFolder.open(tmp_path / "out", "plan") == first
    with pytest.raises(PenchantError, match="stopped run of other settings"):
        RunFolder.open(tmp_path / "out", "other plan")
    (tmp_path / "out" / "report.json").write_text("{}")
    with pytest.raises(PenchantError, match="finished run"):
        RunFolder.open(tmp_path / "out", "plan")


@pytest.mark.parametrize("content", ["", "{}", '{"run_id": 1', "[]"])
def test_a_damaged_state_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(PenchantError, match="cannot be read: choose another --out"):
        RunFolder.open(tmp_path, "plan")


def test_devices_of_something_else_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    with pytest.raises(PenchantError, match="earlier run"):
        RunFolder.open(tmp_path, "plan")


def test_scores_come_back_for_the_same_job_only(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, "plan")
    result = JobResult("rag", 3, {"message": (0.1 + 0.2, 1)}, 11, 2.5)
    folder.keep_score(JOB, result)
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('["cut off by a ki')
    assert folder.scores([JOB]) == [result] and job_key(result) == job_key(JOB)
    assert folder.scores([replace(JOB, adapter_sha256="cd")]) == []
    assert folder.scores([replace(JOB, texts=(ScoredText("message", (1, 2), (4,)),))]) == []
    folder.keep_score(JOB, result)
    assert folder.scores([JOB]) == [result, result]
