"""`penchant audit` on a small fleet of real devices that learnt reward bases (no language model needed)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import client.app
import simulations.audit.audit
from protocol.errors import PenchantError
from protocol.skellam import DistributedSkellam
from server.reward_bases import RewardBases, RewardPlan
from simulations.attacks.finished_run import UPDATES_NAME, contributions, read_run
from simulations.audit.audit import run_audit
from simulations.audit.commands import audit as audit_command
from simulations.audit.parts import Effort
from simulations.audit.result import Audit
from tests.client.reward_help import choose_by_style, style_map
from tests.fleet_help import grid_of, make_fleet, run_fleet, settings_of
from tests.simulations.reports.report_fixture import smallest_report

pytest.importorskip("matplotlib")
PEOPLE, MEMBERS = 8, 6
SMALL = Effort(4000, 60, 200, 100, 2, 0, 0, 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Six members and two newcomers, three rounds, and a report beside them."""
    folder = tmp_path_factory.mktemp("finished")
    homes = make_fleet(folder / "devices", PEOPLE)
    choose_by_style(homes)
    plan = RewardPlan(shared_rounds=1, gradient_rounds=1, final_rounds=1, maximum_count=1)
    settings = settings_of(rounds=2, noise_multiplier=1.5, delta=1e-3)
    run_fleet(grid_of(homes[:MEMBERS]), settings, folder, RewardBases(style_map(), plan))
    client.app.close_devices()
    report = {**smallest_report(), "people": PEOPLE, "fleet": MEMBERS}
    (folder / "report.json").write_text(json.dumps(report), "utf-8")
    yield folder


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(simulations.audit.audit, "FULL", SMALL)
    monkeypatch.setattr(simulations.audit.audit, "QUICK", SMALL)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def by_name(found: Audit) -> dict[tuple[str, str], Any]:
    return {(finding.attack, finding.against): finding for finding in found.findings}


def test_a_whole_audit_leaves_the_run_alone_and_writes_its_results(run_folder: Path) -> None:
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    stages: dict[str, float] = {}
    found = run_audit(run_folder, on_stage=lambda name, fraction: stages.__setitem__(name, fraction))
    assert not found.above and set(stages.values()) == {1.0}
    assert all(path.read_bytes() == data for path, data in before.items())
    new = {path.name for path in run_folder.iterdir()} - {path.name for path in before if path.parent == run_folder}
    assert new - {"devices", "releases"} == {"audit.json", "audit.html", "audit.png", UPDATES_NAME}
    table = by_name(found)
    assert table["who is it?", "the bare update"].estimate.value == 1.0
    assert table["membership of a person, others known", "the same without noise"].estimate.value == 1.0
    caught = [finding for finding in found.findings if finding.against.startswith("fault")]
    assert len(caught) == 5 and all(finding.verdict == "succeeds" for finding in caught)
    very = table["membership of a person, in this very run", "all 2 released sums"]
    assert very.note == "6 members against 2 newcomers" and very.estimate.trials == PEOPLE
    written = json.loads((run_folder / "audit.json").read_text("utf-8"))
    assert len(written["findings"]) == len(found.findings) and written["epsilon"] == pytest.approx(found.epsilon)


def test_a_broken_mechanism_in_the_product_is_an_alarm(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very sampler that devices use draws a third of its noise: the audit says so and the command fails."""
    honest = DistributedSkellam._sample

    def quieter(self: DistributedSkellam, dimension: int, rng: np.random.Generator | None) -> Any:
        return np.rint(honest(self, dimension, rng) / 3).astype(np.int64)

    monkeypatch.setattr(DistributedSkellam, "_sample", quieter)
    app = typer.Typer()
    app.command()(audit_command)
    result = CliRunner().invoke(app, [str(run_folder), "--quick", "--json"])
    assert result.exit_code == 1, result.output
    written = json.loads(result.stdout)
    above = {(one["attack"], one["against"]) for one in written["findings"] if one["verdict"] == "above"}
    assert ("canary in the mechanism", "all 2 released sums") in above
    assert ("membership of a person, others known", "all 2 released sums") in above
    assert "above their ceiling" in written["headline"]


def test_contributions_are_computed_once(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workplaces = (tmp_path / "one", tmp_path / "two")
    for workplace in workplaces:
        workplace.mkdir()
    run = read_run(run_folder, workplaces[0])
    first = contributions(run, 2)
    assert [len(updates) for updates in first] == [PEOPLE, PEOPLE]

    def broken(*arguments: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr("simulations.attacks.finished_run.TaskWork.compute", broken)
    again = contributions(read_run(run_folder, workplaces[1]), 2)
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(a.update, b.update) for a, b in zip(one, other, strict=True))
        assert [a.loss_sum for a in one] == [b.loss_sum for b in other]
    (run_folder / UPDATES_NAME).write_bytes(b"cut short")
    with pytest.raises(AssertionError, match="again"):
        contributions(run, 2)


def test_what_is_no_finished_run_is_refused_in_one_line(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(PenchantError, match=r"no finished run: it has no report\.json; make one with penchant demo"):
        run_audit(tmp_path)
    (run_folder / "report.json").write_text("{", "utf-8")
    with pytest.raises(PenchantError, match=r"report\.json cannot be read"):
        run_audit(run_folder)
    (run_folder / "report.json").write_text("{}", "utf-8")
    with pytest.raises(PenchantError, match="model"):
        run_audit(run_folder)
