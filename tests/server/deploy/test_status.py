"""Status, dashboard and metrics of a fleet that has run: the figures, the token, and nothing about one device."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from typer import Typer
from typer.testing import CliRunner

from protocol.accounting import snr_bound
from protocol.invitation import JoinRequest
from protocol.keys import SigningKey
from server import fleet_commands
from server.deploy.dashboard import create_dashboard
from server.deploy.enrolment import enrol_requests
from server.deploy.folder import load
from server.deploy.init import FleetPlanned, init_fleet
from server.deploy.live import LiveState, read_live
from server.deploy.status import fleet_status
from tests.fleet_help import (
    DIMENSION,
    MeanAlgorithm,
    grid_of,
    lost_at,
    make_fleet,
    recorded_contributions,
    run_fleet,
    settings_of,
)
from tests.server.deploy.test_init import public_key

PEOPLE = 6
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet's folder whose store holds two rounds; in each, one device of six is lost while it works."""
    place = tmp_path_factory.mktemp("status")
    root = place / "fleet"
    init_fleet(root, FleetPlanned("village", "127.0.0.1:9092", people=PEOPLE, rounds=3))
    folder, config = load(root)
    identity = SigningKey.generate()
    request = JoinRequest(fleet_id=config.name, identity=identity.public_bytes, node_key=public_key())
    (place / "request").write_text(request.signed(identity))
    enrol_requests(folder, config, [place / "request"])
    homes = make_fleet(place / "devices", PEOPLE)
    with recorded_contributions():
        run_fleet(
            grid_of(homes, dropped=lost_at({"collect": {1}})),
            settings_of(run_id="village-1", rounds=2, noise_multiplier=1.0, minimum_survivors=4),
            root / "out",
            MeanAlgorithm(),
        )
    LiveState(process=os.getpid(), online=5, round=2, stage="share", answered=3, asked=6, bytes_up=1500).save(
        folder.live
    )
    return root


def test_the_figures_are_those_of_the_store(root: Path) -> None:
    status = fleet_status(root)
    assert status.running and (status.rounds_done, status.rounds_planned) == (2, 3)
    for entry in status.rounds:
        assert (entry.stage, entry.cohort, entry.survivors, entry.dropped) == ("done", PEOPLE, PEOPLE - 1, 1)
        noise = (5 / 4) ** 0.5  # shares are sized for 4 survivors, 5 gave theirs
        assert entry.signal_to_noise == pytest.approx(snr_bound(5, noise, DIMENSION), rel=1e-6)
    assert status.epsilon is not None and status.epsilon > 1.0
    assert (status.epsilon_budget, status.delta) == (8.0, 1e-5)
    assert [release.round for release in status.releases] == [0, 1]


def test_looking_at_a_new_fleet_makes_no_store(tmp_path: Path) -> None:
    init_fleet(tmp_path / "fleet", FleetPlanned("village", "127.0.0.1:9092"))
    status = fleet_status(tmp_path / "fleet")
    assert not status.running and status.rounds == () and status.epsilon == 0.0
    assert list((tmp_path / "fleet" / "out").iterdir()) == []


def test_a_server_that_died_is_not_called_running(root: Path, tmp_path: Path) -> None:
    live = load(root)[0].live
    before = read_live(live)
    try:
        replace(before, process=2**22 + 1).save(live)  # beyond the numbers that a process can have
        assert not fleet_status(root).running
        live.write_text("{")
        assert not fleet_status(root).running
    finally:
        before.save(live)


def test_the_dashboard_answers_only_to_its_token_and_holds_no_name(root: Path) -> None:
    client = TestClient(create_dashboard(root, "secret"))
    for path in ("/api/status", "/metrics"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert client.get(path, headers=headers).status_code == 401
    for method in ("post", "put", "delete", "patch"):
        assert getattr(client, method)("/api/status", headers=TOKEN).status_code == 405
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404
    body = client.get("/api/status", headers=TOKEN)
    assert body.json() == json.loads(json.dumps(fleet_status(root).to_dict()))
    members = json.loads((root / "members.json").read_text())["members"]
    shown = body.text + client.get("/metrics", headers=TOKEN).text + client.get("/").text
    assert members and all(member["identity"][:8] not in shown for member in members)


def test_the_page_loads_nothing_from_elsewhere(root: Path) -> None:
    page = TestClient(create_dashboard(root, "secret")).get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "http://" not in page.text and "https://" not in page.text and "src=" not in page.text
    assert "innerHTML" not in page.text and "secret" not in page.text


def test_the_metrics_are_prometheus_text_with_the_same_figures(root: Path) -> None:
    text = TestClient(create_dashboard(root, "secret")).get("/metrics", headers=TOKEN).text
    samples = {
        sample.name.removeprefix("penchant_fleet_"): (sample.value, sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert all(labels == {} for _, labels in samples.values())
    status = fleet_status(root)
    for name, value in {
        "rounds_done": 2,
        "last_cohort": PEOPLE,
        "last_dropped": 1,
        "devices_online": 5,
        "received_bytes": 1500,
        "releases": 2,
        "epsilon_spent": status.epsilon,
        "epsilon_budget": 8.0,
    }.items():
        assert samples[name][0] == value, name


def test_the_commands_print_for_people_and_for_programs(root: Path, tmp_path: Path) -> None:
    app = Typer(pretty_exceptions_enable=False)
    app.command()(fleet_commands.status)
    app.command()(fleet_commands.release)
    runner = CliRunner()
    shown = runner.invoke(app, ["status", str(root)])
    assert shown.exit_code == 0 and "2 of 3 rounds" in shown.stdout
    as_json = runner.invoke(app, ["status", str(root), "--json"])
    assert json.loads(as_json.stdout)["rounds_done"] == 2
    published = runner.invoke(app, ["release", str(root), "--publish", str(tmp_path / "public"), "--json"])
    assert published.exit_code == 0 and len(json.loads(published.stdout)["releases"]) == 2
    newest = fleet_status(root).releases[-1]
    assert (tmp_path / "public" / "shared").read_bytes() == (root / "out" / newest.path).read_bytes()
    missing = runner.invoke(app, ["status", str(tmp_path)])
    assert missing.exit_code == 2 and "is no fleet's folder" in missing.output
