"""A device that serves, for every test of the local API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from edge_runtime.api.session import Session
from tests.edge_runtime.api.api_helpers import ScriptedEngine, client_of, make_device, opened_session


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def session(tmp_path: Path, engine: ScriptedEngine) -> Iterator[Session]:
    with opened_session(make_device(tmp_path / "home"), engine) as opened:
        yield opened


@pytest.fixture
def client(session: Session) -> TestClient:
    return client_of(session)
