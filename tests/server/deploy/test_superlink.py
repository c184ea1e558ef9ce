"""One server and one device's node in this process: what passes between them, and who is let in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from client.join import fetch_roster, read_invitation
from client.supernode import RefusedError, SuperNode
from protocol.errors import PenchantError
from protocol.invitation import FleetInvitation
from server.deploy.certificates import make_authority
from server.deploy.folder import load
from server.deploy.grid import LinkGrid
from server.deploy.init import FleetPlanned, init_fleet
from server.deploy.superlink import SuperLink
from server.transport import Answer, ask
from tests.test_deployment import stopping
from tests.test_flower_engine import free_port

LARGE = bytes(range(256)) * 8000  # 2 MB: several objects on the wire


@pytest.fixture
def invitation(tmp_path: Path) -> FleetInvitation:
    init_fleet(tmp_path / "fleet", FleetPlanned("village", f"127.0.0.1:{free_port()}"))
    return read_invitation(tmp_path / "fleet" / "invitation.json")


@pytest.fixture
def link(tmp_path: Path, invitation: FleetInvitation) -> Iterator[SuperLink]:
    folder, config = load(tmp_path / "fleet")
    keys = (folder.key("tls.pem"), folder.key("tls.key"), folder.key("ca.pem"))
    link = SuperLink("127.0.0.1", config.port, *keys, lambda: folder.read(folder.roster))
    link.start()
    try:
        yield link
    finally:
        link.stop()


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def echo_app() -> ClientApp:
    """Answers every share with its own bytes, backwards."""
    app = ClientApp()

    @app.query("share")
    def share(message: Message, context: object) -> Message:
        data = message.content.config_records["m"]["cbor"]
        assert isinstance(data, bytes)
        return Message(RecordDict({"m": ConfigRecord({"cbor": data[::-1]})}), reply_to=message)

    return app


def node_of(invitation: FleetInvitation, key: ec.EllipticCurvePrivateKey, home: Path) -> SuperNode:
    return SuperNode(echo_app(), home, invitation.address, invitation.ca_certificate, key, lambda line: None)


def one_question(grid: LinkGrid, stage: str, node: int, request: bytes, answers: list[Answer]) -> None:
    """Ask as the server: Flower keeps who is speaking per process, and here server and node share one."""
    TaskIdentity.run_id, TaskIdentity.node_id = grid.run.run_id, SUPERLINK_NODE_ID
    ask(grid, stage, {node: request}, group="g", seconds=20.0, on_answers=answers.extend)


def test_messages_go_there_and_back_whole_and_are_counted(
    link: SuperLink, invitation: FleetInvitation, tmp_path: Path
) -> None:
    key, stop, answers = ec.generate_private_key(ec.SECP384R1()), threading.Event(), list[Answer]()
    link.admit([pem(key)])
    grid = LinkGrid(link.state)
    node = threading.Thread(target=node_of(invitation, key, tmp_path).run, args=(stop,), daemon=True)
    node.start()
    try:
        stop_at = time.monotonic() + 20
        while not (ids := list(grid.get_node_ids())) and time.monotonic() < stop_at:
            time.sleep(0.05)
        (number,) = ids
        for request in (b"ab", LARGE):
            one_question(grid, "share", number, request, answers)
        assert [answer.data for answer in answers] == [b"ba", LARGE[::-1]]
        # A kind of message that the device's app does not know is an error, not the end of the node.
        one_question(grid, "unmask", number, b"?", answers)
        assert answers[-1].data is None and "unknown message" in answers[-1].problem
        one_question(grid, "share", number, b"xy", answers)
        assert answers[-1].data == b"yx"
        assert all(len(LARGE) < count < 1.01 * len(LARGE) for count in (grid.bytes_up, grid.bytes_down))
    finally:
        stop.set()
        node.join(15)
        grid.close()
    assert not node.is_alive()
    assert list(grid.get_node_ids()) == []  # it said goodbye


def test_only_registered_keys_get_in_and_struck_off_ones_get_out(
    link: SuperLink, invitation: FleetInvitation, tmp_path: Path
) -> None:
    member, stranger = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    link.admit([pem(member)])
    with pytest.raises(RefusedError), stopping() as stop:
        node_of(invitation, stranger, tmp_path).run(stop)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with stopping() as stop:
                node_of(invitation, member, tmp_path).run(stop)
        except RefusedError as error:
            failures.append(error)

    grid = LinkGrid(link.state)
    node = threading.Thread(target=run, daemon=True)
    node.start()
    stop_at = time.monotonic() + 20
    while not list(grid.get_node_ids()) and time.monotonic() < stop_at:
        time.sleep(0.05)
    link.admit([])
    node.join(20)
    grid.close()
    assert len(failures) == 1


def test_the_list_of_members_comes_only_from_the_fleets_own_server(
    link: SuperLink, invitation: FleetInvitation, tmp_path: Path
) -> None:
    assert fetch_roster(invitation) == (tmp_path / "fleet" / "credentials" / "roster").read_bytes()
    elsewhere = replace(invitation, ca_certificate=make_authority("village").certificate.decode())
    with pytest.raises(PenchantError, match="does not prove to be the fleet's server"):
        fetch_roster(elsewhere)
    assert fetch_roster(replace(invitation, address=f"127.0.0.1:{free_port()}")) is None


def test_a_taken_port_is_one_line(link: SuperLink, tmp_path: Path) -> None:
    folder, config = load(tmp_path / "fleet")
    keys = (folder.key("tls.pem"), folder.key("tls.key"), folder.key("ca.pem"))
    with pytest.raises(PenchantError, match="is another fleet running"):
        SuperLink("127.0.0.1", config.port, *keys, lambda: b"").start()
