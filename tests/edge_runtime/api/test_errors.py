"""What is told about an error: its own words if they are meant for a reader, else nothing."""

from __future__ import annotations

import json

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

from edge_runtime.api.errors import (
    ApiError,
    BusyError,
    LockedError,
    NotFoundError,
    describe_error,
    error_body,
    error_response,
)
from protocol.errors import PenchantError


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (LockedError(), 423, "locked"),
        (NotFoundError("There is no turn 3."), 404, "not_found"),
        (BusyError("Too many."), 429, "too_many_requests"),
        (PenchantError("A date is written YYYY-MM-DD."), 400, "refused"),
        (sqlcipher.OperationalError("database is locked"), 503, "storage"),
        (ValueError("Oriane"), 500, "internal_error"),
    ],
)
def test_each_kind_has_its_status(error: Exception, status: int, code: str) -> None:
    told = describe_error(error)
    assert isinstance(told, ApiError) and (told.status, told.code) == (status, code)
    assert "Oriane" not in str(told)


def test_errors_have_openais_shape_and_say_when_to_come_back() -> None:
    response = error_response(429, "too_many_requests", "Too\n many.", retry_after=0.2)
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "Too many.", "type": "invalid_request_error", "code": "too_many_requests"}
    }
    assert response.headers["Retry-After"] == "1"
    assert error_body(503, "storage", "x")["error"]["type"] == "server_error"
