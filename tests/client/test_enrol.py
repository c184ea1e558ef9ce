from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.enrol import enrol, pinned_fleet
from edge_runtime.device import Device
from protocol.errors import PenchantError, ProtocolError
from protocol.fleet_trust import FleetAuthority
from protocol.keys import SigningKey

AUTHORITY = FleetAuthority("fleet", SigningKey.generate())
OTHER = b"o" * 32


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path / "one", create=True, key_method="file") as device:
        yield device


def test_a_device_pins_the_fleet_whose_list_it_is_on(device: Device) -> None:
    with pytest.raises(PenchantError, match="enrolled in no fleet"):
        pinned_fleet(device)
    mine = device.identity.public_bytes
    with pytest.raises(PenchantError, match="not on the fleet roster"):
        enrol(device, AUTHORITY.invitation, AUTHORITY.enrol([OTHER]))
    enrol(device, AUTHORITY.invitation, AUTHORITY.enrol([OTHER, mine, mine], serial=4))
    fleet = pinned_fleet(device)
    assert (fleet.fleet_id, fleet.serial, fleet.members) == ("fleet", 4, {mine, OTHER})


def test_a_list_that_the_authority_has_not_signed_is_refused(device: Device) -> None:
    mine = device.identity.public_bytes
    signed = AUTHORITY.enrol([mine])
    impostor = FleetAuthority("fleet", SigningKey.generate())
    elsewhere = FleetAuthority("other", AUTHORITY.key)
    for wrong in (impostor.enrol([mine]), signed[:-1] + b"\0", signed[64:], b"", AUTHORITY.certify(mine)):
        with pytest.raises(ProtocolError, match="not signed for this fleet"):
            enrol(device, AUTHORITY.invitation, wrong)
    with pytest.raises(ProtocolError, match="another fleet"):
        enrol(device, AUTHORITY.invitation, elsewhere.enrol([mine]))
    with pytest.raises(PenchantError, match="enrolled in no fleet"):
        pinned_fleet(device)


def test_an_older_or_second_list_does_not_replace_the_pinned_one(device: Device) -> None:
    mine = device.identity.public_bytes
    enrol(device, AUTHORITY.invitation, AUTHORITY.enrol([mine], serial=2))
    for serial in (1, 2):
        with pytest.raises(ProtocolError, match="no newer"):
            enrol(device, AUTHORITY.invitation, AUTHORITY.enrol([mine, OTHER], serial=serial))
    enrol(device, AUTHORITY.invitation, AUTHORITY.enrol([mine], serial=2))  # the same list again
    enrol(device, AUTHORITY.invitation, AUTHORITY.enrol([mine, OTHER], serial=3))
    assert pinned_fleet(device).members == {mine, OTHER}
    moved = FleetAuthority("another", SigningKey.generate())
    assert enrol(device, moved.invitation, moved.enrol([mine], serial=1)).fleet_id == "another"


def test_only_a_certified_server_speaks_for_the_fleet(device: Device) -> None:
    server = SigningKey.generate().public_bytes
    fleet = enrol(device, AUTHORITY.invitation, AUTHORITY.enrol([device.identity.public_bytes]))
    assert fleet.server_key(AUTHORITY.certify(server, not_after=1 << 40)) == server
    with pytest.raises(ProtocolError, match="expired"):
        fleet.server_key(AUTHORITY.certify(server, not_after=1))
    with pytest.raises(ProtocolError, match="not signed"):
        fleet.server_key(FleetAuthority("fleet", SigningKey.generate()).certify(server))
