"""Sockets that only this machine can reach, and what the server around the app does not tell."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from edge_runtime.api.server import address_of, loopback_socket
from protocol.errors import PenchantError
from tests.edge_runtime.api.api_helpers import serving


def test_sockets_are_loopback_only() -> None:
    with loopback_socket(0) as four:
        assert address_of(four) == f"http://127.0.0.1:{four.getsockname()[1]}"
        with pytest.raises(PenchantError, match="cannot be used"):
            loopback_socket(four.getsockname()[1])
    if socket.has_ipv6:
        try:
            six = loopback_socket(0, "::1")
        except PenchantError:
            pytest.skip("this machine has no ::1")
        with six:
            assert address_of(six) == f"http://[::1]:{six.getsockname()[1]}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost", "192.168.1.2", "", "127.0.0.2"])
def test_no_other_address_is_served(host: str) -> None:
    with pytest.raises(PenchantError, match="for this machine only"):
        loopback_socket(0, host)


def test_the_server_does_not_name_itself_and_takes_no_endless_headers(session: Any) -> None:
    with serving(session) as address:
        answer = httpx.get(f"{address}/api/health")
        assert answer.status_code == 200 and "server" not in answer.headers
        assert httpx.get(f"{address}/api/health", headers={"X-Long": "x" * 40_000}).status_code == 431
        assert httpx.get(f"{address}/api/health", headers={"X-Long": "x" * 8_000}).status_code == 200
