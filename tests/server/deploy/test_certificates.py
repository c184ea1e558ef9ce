"""TLS material, judged by the ssl library that will use it."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from protocol.errors import PenchantError
from server.deploy.certificates import Pair, days_left, make_authority, make_server_certificate


def handshake(folder: Path, server: Pair, authority: Pair, name: str) -> None:
    """One TLS connection over a socket pair; raises what the client's verification raises."""
    (folder / "tls.pem").write_bytes(server.certificate)
    (folder / "tls.key").write_bytes(server.key)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.load_verify_locations(cadata=authority.certificate.decode())
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    one, other = socket.socketpair()

    def serve() -> None:
        try:
            with ours.wrap_socket(one, server_side=True) as wrapped:
                wrapped.recv(1)
        except OSError:
            one.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with theirs.wrap_socket(other, server_hostname=name) as wrapped:
            wrapped.send(b"x")
    finally:
        other.close()
        thread.join(10)


@pytest.mark.parametrize("name", ["fleet.example.org", "127.0.0.1", "localhost", "::1"])
def test_the_certificate_is_good_for_its_names_and_for_loopback(tmp_path: Path, name: str) -> None:
    authority = make_authority("village")
    handshake(tmp_path, make_server_certificate(authority, ["fleet.example.org"]), authority, name)


def test_other_names_and_other_authorities_are_not_believed(tmp_path: Path) -> None:
    authority, other = make_authority("village"), make_authority("village")
    server = make_server_certificate(authority, ["10.1.2.3"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server, authority, "10.1.2.4")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server, other, "10.1.2.3")


def test_a_server_certificate_cannot_sign_another(tmp_path: Path) -> None:
    authority = make_authority("village")
    server = make_server_certificate(authority, ["fleet.example.org"])
    forged = make_server_certificate(server, ["fleet.example.org"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, Pair(forged.certificate + server.certificate, forged.key), authority, "fleet.example.org")


def test_days_left_and_names_that_are_none() -> None:
    authority = make_authority("village")
    assert 390 < days_left(make_server_certificate(authority, ["fleet.example.org"]).certificate) < 398
    with pytest.raises(PenchantError, match="neither a host name"):
        make_server_certificate(authority, ["a" * 70 + ".org"])
