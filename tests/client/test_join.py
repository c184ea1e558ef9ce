"""Joining: consent, the key and the request, the list of members, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from client import join_commands
from client.enrol import pinned_fleet
from client.join import enrolled_fleet, join_request, keep_invitation, kept_invitation, node_key
from edge_runtime.device import Device
from protocol.errors import PenchantError
from protocol.fleet_trust import FleetAuthority
from protocol.invitation import FleetInvitation, JoinRequest, PrivacyPromise
from protocol.keys import SigningKey
from server.deploy.certificates import make_authority

AUTHORITY = FleetAuthority("village.00000000", SigningKey.generate())
INVITATION = FleetInvitation(
    AUTHORITY.invitation,
    "127.0.0.1:9",  # nobody listens there
    make_authority("village").certificate.decode(),
    PrivacyPromise(8.0, 1e-5, 20),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    Device.open(tmp_path / "home", create=True, key_method="file").close()
    return tmp_path / "home"


def join(*arguments: str) -> tuple[int, str]:
    app = Typer(pretty_exceptions_enable=False)
    app.command()(join_commands.join)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_the_connection_key_and_the_invitation_survive_a_restart(home: Path) -> None:
    with Device.open(home) as device:
        with pytest.raises(PenchantError, match="accepted no invitation"):
            kept_invitation(device)
        keep_invitation(device, INVITATION)
        key = node_key(device).private_numbers()
    with Device.open(home) as device:
        assert node_key(device).private_numbers() == key
        assert kept_invitation(device) == INVITATION


def test_a_request_names_the_device_and_its_key_and_is_for_one_fleet(home: Path) -> None:
    with Device.open(home) as device:
        text = join_request(device, INVITATION)
        request = JoinRequest.read(text, "village.00000000")
        assert request.identity == device.identity.public_bytes and b"BEGIN PUBLIC KEY" in request.node_key
    with pytest.raises(PenchantError, match="not for another"):
        JoinRequest.read(text, "another")
    for place in (20, 120, len(text) - 10):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(PenchantError):
            JoinRequest.read(changed, "village.00000000")


def test_a_device_believes_only_its_authoritys_newest_list(home: Path) -> None:
    other = FleetAuthority("village.00000000", SigningKey.generate())
    with Device.open(home) as device:
        mine, peer = device.identity.public_bytes, SigningKey.generate().public_bytes
        assert enrolled_fleet(device, INVITATION, None) is None
        assert enrolled_fleet(device, INVITATION, AUTHORITY.enrol([peer], 5)) is None
        with pytest.raises(PenchantError, match="not signed"):
            enrolled_fleet(device, INVITATION, other.enrol([mine, peer], 6))
        fleet = enrolled_fleet(device, INVITATION, AUTHORITY.enrol([mine, peer], 6))
        assert fleet is not None and fleet.members == {mine, peer}
        assert enrolled_fleet(device, INVITATION, None) == fleet  # the server may be away
        with pytest.raises(PenchantError, match="no newer"):
            enrolled_fleet(device, INVITATION, AUTHORITY.enrol([mine], 5))
        assert pinned_fleet(device) == fleet
        elsewhere = FleetInvitation(other.invitation, *list(vars(INVITATION).values())[1:])
        with pytest.raises(PenchantError, match="belongs to another fleet"):
            enrolled_fleet(device, elsewhere, None)


def test_nothing_is_shared_before_the_owner_agrees(home: Path, tmp_path: Path) -> None:
    file, request = tmp_path / "invitation.json", tmp_path / "out.request"
    file.write_bytes(INVITATION.to_bytes())
    code, shown = join(str(file), "--home", str(home), "--request", str(request))
    assert code == 2 and "needs the owner's word" in shown and INVITATION.fingerprint in shown
    with Device.open(home) as device:
        assert not device.settings.share
    assert not request.exists()

    code, shown = join(str(file), "--home", str(home), "--request", str(request), "--yes", "--json")
    assert code == 0
    assert json.loads(shown.splitlines()[-1]) == {
        "enrolled": False,
        "request": str(request),
        "fleet": "village.00000000",
    }
    with Device.open(home) as device:
        assert device.settings.share
        assert JoinRequest.read(request.read_text(), "village.00000000").identity == device.identity.public_bytes


def test_bad_input_is_one_line(home: Path, tmp_path: Path) -> None:
    (tmp_path / "noise").write_text("{}")
    for arguments, reason in (
        ([str(tmp_path / "absent")], "cannot be read"),
        ([str(tmp_path / "noise")], "not a fleet's invitation"),
        ([], "accepted no invitation"),
    ):
        code, shown = join(*arguments, "--home", str(home), "--yes")
        assert code == 2 and reason in shown and len(shown.strip().splitlines()) == 1
