"""What goes wrong at the API, and how it is told: one JSON object in OpenAI's shape, `{"error": {"message", "type",
"code"}}`, that never repeats what was sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlcipher3 import dbapi2 as sqlcipher
from starlette.exceptions import HTTPException

from protocol.errors import PenchantError


class ApiError(PenchantError):
    """An answer other than 200: HTTP `status`, a `code` for programs, and when to come back, in seconds."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


class LockedError(ApiError):
    """The device is locked: nothing personal can be read or asked."""

    def __init__(self) -> None:
        super().__init__(423, "locked", "This device is locked; unlock it with its passphrase.")


class NotFoundError(ApiError):
    """There is no such memory, turn, model ..."""

    def __init__(self, message: str, code: str = "not_found") -> None:
        super().__init__(404, code, message)


class BusyError(ApiError):
    """Too many requests at once, or too quickly."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(429, "too_many_requests", message, retry_after=retry_after)


def error_body(status: int, code: str, message: str) -> dict[str, Any]:
    """The JSON of an error."""
    kind = "server_error" if status >= 500 else "authentication_error" if status == 401 else "invalid_request_error"
    return {"error": {"message": " ".join(message.split()), "type": kind, "code": code}}


def error_response(
    status: int, code: str, message: str, *, retry_after: float | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as an HTTP response; `retry_after` is rounded up to whole seconds."""
    sent = dict(headers or {})
    if retry_after is not None:
        sent["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(status, code, message), status, headers=sent)


def describe_error(error: Exception) -> ApiError:
    """What to tell about an exception. Anything that is not meant for a reader is an internal error without details:
    the message of a foreign exception may hold a person's text."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PenchantError):
        return ApiError(400, "refused", str(error))
    if isinstance(error, sqlcipher.OperationalError):
        return ApiError(
            503, "storage", "The device's file cannot be used now; check the disk and close other programs that use it."
        )
    return ApiError(500, "internal_error", "Something failed inside Penchant; the request was not carried out.")


def add_error_handlers(app: FastAPI) -> None:
    """Every error of `app` in one shape."""

    @app.exception_handler(PenchantError)
    @app.exception_handler(sqlcipher.OperationalError)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        told = describe_error(error)
        return error_response(told.status, told.code, str(told), retry_after=told.retry_after)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # pydantic's errors carry the input: only where it went wrong and why is told
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return error_response(400, "invalid_request", f"{where}: {first['msg']}" if where else str(first["msg"]))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        phrase = HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "_")
        return error_response(error.status_code, code, str(error.detail or phrase), headers=error.headers)
