"""The files in `deploy/` fit the program: commands, options, ports and the configuration they name exist."""

from __future__ import annotations

import configparser
import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer import Typer
from typer.main import get_command

from client.join_commands import join
from server import fleet_commands
from server.app import settings_from
from server.deploy.folder import load
from server.deploy.metrics import FleetCollector

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
UNITS = ("penchant-fleet@.service", "penchant-join.service")


def unit(name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / name)
    return dict(parser["Service"])


def options_of(command: Any) -> set[str]:
    app = Typer()
    app.command()(command)
    return {option for parameter in get_command(app).params for option in parameter.opts}


def test_the_units_call_commands_that_exist() -> None:
    server, device = (unit(name)["ExecStart"].split() for name in UNITS)
    assert server[1:3] == ["fleet", "up"] and callable(fleet_commands.up)
    assert {word for word in server if word.startswith("--")} <= options_of(fleet_commands.up)
    assert device[1] == "join" and set(device[2:]) <= options_of(join)


def test_the_server_unit_is_confined() -> None:
    service = unit(UNITS[0])
    for key, value in {
        "NoNewPrivileges": "true",
        "ProtectSystem": "strict",
        "PrivateTmp": "true",
        "CapabilityBoundingSet": "",
        "UMask": "0077",
        "LimitCORE": "0",
    }.items():
        assert service[key] == value
    assert "keys/authority.key" in service["InaccessiblePaths"]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_units(name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "verify", "--man=no", str(DEPLOY / name)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stderr
    assert not re.search("Unknown|Invalid|Failed to parse", said), said


def test_the_compose_file_starts_what_the_image_holds() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["penchant", "fleet"]' in dockerfile and 'CMD ["up",' in dockerfile
    assert services["server"]["read_only"] and services["server"]["cap_drop"] == ["ALL"]
    assert services["store"].get("ports") is None


def test_the_example_configuration_is_read(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "fleet.example.toml", tmp_path / "fleet.toml")
    _, config = load(tmp_path)
    assert config.store.startswith("postgresql://") and settings_from(config.run).minimum_survivors == 14
    assert config.dashboard_port == 9093


def test_the_alerts_name_metrics_that_exist() -> None:
    named = set(re.findall(r"penchant_fleet_(\w+)", (DEPLOY / "prometheus.yml").read_text()))
    source = inspect.getsource(FleetCollector)
    assert named and all(f'"{name}"' in source for name in named)
