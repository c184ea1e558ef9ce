"""`fleet init` and `fleet enrol`: what is written, who may read it, and what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.join import read_invitation
from protocol.errors import PenchantError
from protocol.invitation import FleetInvitation, JoinRequest
from protocol.keys import SigningKey
from server.app import settings_from
from server.credentials import ServerCredentials
from server.deploy.enrolment import enrol_requests, read_members, remove_members
from server.deploy.folder import FleetFolder, load
from server.deploy.init import FleetPlanned, init_fleet, parse_address
from server.deploy.rotation import renew_server_key, renew_tls

PLANNED = FleetPlanned("village", "fleet.example.org:9092", people=12, rounds=7, noise_multiplier=1.5)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    init_fleet(tmp_path / "fleet", PLANNED)
    return tmp_path / "fleet"


def public_key(curve: ec.EllipticCurve | None = None) -> bytes:
    key = ec.generate_private_key(curve or ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def request_of(root: Path, identity: SigningKey, path: Path, key: bytes = b"", fleet_id: str = "") -> Path:
    name = fleet_id or read_invitation(root / "invitation.json").trust.fleet_id
    request = JoinRequest(fleet_id=name, identity=identity.public_bytes, node_key=key or public_key())
    path.write_text(request.signed(identity))
    return path


def test_nothing_but_public_files_can_be_read_by_others_and_nothing_is_overwritten(fleet: Path) -> None:
    for path in [fleet, *fleet.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        public = path.parent.name == "credentials" and path.name != "server.key"
        assert public or mode & 0o077 == 0, (path, oct(mode))
    before = {path: path.read_bytes() for path in fleet.rglob("*") if path.is_file()}
    with pytest.raises(PenchantError, match="holds a fleet already"):
        init_fleet(fleet, PLANNED)
    assert {path: path.read_bytes() for path in fleet.rglob("*") if path.is_file()} == before


def test_the_configuration_is_the_one_that_was_asked_for(fleet: Path) -> None:
    _, config = load(fleet)
    settings = settings_from(config.run)
    assert (settings.rounds, settings.noise_multiplier, settings.epsilon_budget) == (7, 1.5, 8.0)
    assert (config.host, config.port, config.wait_for, config.store) == ("127.0.0.1", 9092, 12, "")


def test_the_invitation_survives_its_file_and_a_changed_one_has_another_fingerprint(fleet: Path) -> None:
    data = (fleet / "invitation.json").read_bytes()
    invitation = FleetInvitation.from_bytes(data)
    assert invitation.to_bytes() == data and invitation.trust == load(fleet)[0].authority(_name(fleet)).invitation
    moved = FleetInvitation.from_bytes(data.replace(b"example.org:9092", b"example.com:9092"))
    assert moved.fingerprint != invitation.fingerprint
    for broken in (b"", b"[]", data[:-40], data.replace(b"BEGIN CERT", b"BEGIN CRET"), b" " * 70_000):
        with pytest.raises(PenchantError, match="not a fleet's invitation"):
            FleetInvitation.from_bytes(broken)


def _name(root: Path) -> str:
    return load(root)[1].name


def test_enrolment_signs_a_new_list_each_time_and_only_for_new_devices(fleet: Path, tmp_path: Path) -> None:
    folder, config = load(fleet)
    people = [SigningKey.generate() for _ in range(3)]
    files = [request_of(fleet, person, tmp_path / f"{number}") for number, person in enumerate(people)]
    assert len(enrol_requests(folder, config, files[:2])) == 2
    assert len(enrol_requests(folder, config, files)) == 1
    assert enrol_requests(folder, config, files) == []
    credentials = ServerCredentials.load(folder.credentials)
    assert credentials.members == {person.public_bytes for person in people}
    assert credentials.serial == read_members(folder).serial == 3
    gone = remove_members(folder, config, [people[0].public_bytes.hex()[:10]])
    assert [member.identity for member in gone] == [people[0].public_bytes.hex()]
    assert ServerCredentials.load(folder.credentials).serial == 4
    for prefix in ("abc", people[0].public_bytes.hex()):
        with pytest.raises(PenchantError, match="names no single member"):
            remove_members(folder, config, [prefix])


def test_a_bad_request_enrols_nobody(fleet: Path, tmp_path: Path) -> None:
    folder, config = load(fleet)
    good, thief = SigningKey.generate(), SigningKey.generate()
    fine = request_of(fleet, good, tmp_path / "fine")
    forged = JoinRequest(fleet_id=config.name, identity=good.public_bytes, node_key=public_key()).signed(thief)
    (tmp_path / "forged").write_text(forged)
    (tmp_path / "noise").write_text("hello")
    cases = {
        "not signed by its device": tmp_path / "forged",
        "not a join request": tmp_path / "noise",
        "another kind": request_of(fleet, thief, tmp_path / "p256", public_key(ec.SECP256R1())),
        "is for the fleet": request_of(fleet, thief, tmp_path / "other", fleet_id="other.00000000"),
        "can be read": tmp_path / "absent",
    }
    for reason, path in cases.items():
        with pytest.raises(PenchantError, match=reason):
            enrol_requests(folder, config, [fine, path])
    shared = public_key()
    twins = [request_of(fleet, SigningKey.generate(), tmp_path / f"twin{n}", shared) for n in range(2)]
    with pytest.raises(PenchantError, match="same connection key"):
        enrol_requests(folder, config, twins)
    assert read_members(folder).members == ()


def test_without_the_authoritys_key_nobody_is_enrolled_and_nothing_changes(fleet: Path, tmp_path: Path) -> None:
    folder, config = load(fleet)
    (fleet / "keys" / "authority.key").rename(tmp_path / "away.key")
    with pytest.raises(PenchantError, match=r"authority\.key is missing"):
        enrol_requests(folder, config, [request_of(fleet, SigningKey.generate(), tmp_path / "request")])
    assert read_members(folder).members == ()
    (tmp_path / "away.key").rename(fleet / "keys" / "authority.key")
    (fleet / "keys" / "authority.key").chmod(0o644)
    with pytest.raises(PenchantError, match="can be read by others"):
        folder.authority(config.name)


def test_new_keys_keep_the_fleet_and_its_members(fleet: Path, tmp_path: Path) -> None:
    folder, config = load(fleet)
    enrol_requests(folder, config, [request_of(fleet, SigningKey.generate(), tmp_path / "request")])
    before, tls = ServerCredentials.load(folder.credentials), folder.read(folder.key("tls.pem"))
    renew_tls(folder, config)
    renew_server_key(folder, config)
    after = ServerCredentials.load(folder.credentials)
    assert after.key.public_bytes != before.key.public_bytes and after.members == before.members
    assert after.invitation == before.invitation and folder.read(folder.key("tls.pem")) != tls


@pytest.mark.parametrize("address", ["example.org", "example.org:", ":9092", "example.org:0", "example.org:99999"])
def test_an_address_without_host_or_port_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="host:port"):
        init_fleet(tmp_path / "fleet", FleetPlanned("village", address))
    assert not (tmp_path / "fleet").exists()
    assert parse_address("[::1]:9092") == ("::1", 9092)


def test_a_damaged_configuration_is_one_line(fleet: Path) -> None:
    with pytest.raises(PenchantError, match="no fleet's folder"):
        load(fleet / "out")
    path = FleetFolder(fleet).config
    text = path.read_text()
    for broken, reason in ((text.replace("[server]", "[sever]"), "server"), (text.replace("port = 9092", ""), "port")):
        path.write_text(broken)
        with pytest.raises(PenchantError, match=reason):
            load(fleet)
