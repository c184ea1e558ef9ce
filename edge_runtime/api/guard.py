"""What every request passes before it reaches the app, and every answer on its way out.

On loopback the danger is not the network but other programs and, above all, other pages in the owner's browser:
- the name in `Host` must be a loopback name, or a page elsewhere could point its own name at 127.0.0.1 and read
  answers as its own (DNS rebinding);
- an `Origin` that is not this server is refused, and no answer carries an Access-Control header (CORS closed);
- everything but the page's files and the health check needs the owner's token;
- sizes, rates and waiting times are bounded (`limits.py`), bodies are read before the app sees the request.

An exception nobody expected is logged by its type and place only: its message may hold a person's text.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_runtime.api.errors import ApiError, BusyError, describe_error, error_response
from edge_runtime.api.limits import Clock, Limits, TokenBucket

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_LOOPBACK_HOST: Final = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_log = logging.getLogger(__name__)


def needs_token(path: str) -> bool:
    """Whether `path` is personal: all but the page's own files and the health check."""
    return not (path in ("/", "/api/health") or path.startswith("/page/"))


class Guard:
    """ASGI middleware. `accepts` tells whether a token is the owner's."""

    def __init__(
        self, app: ASGIApp, *, accepts: Callable[[str], bool], limits: Limits, clock: Clock = time.monotonic
    ) -> None:
        self._app, self._accepts, self._limits = app, accepts, limits
        # Two buckets: whoever has no token cannot use up the owner's.
        self._owner = TokenBucket(limits.requests_per_second, limits.burst, clock)
        self._others = TokenBucket(limits.requests_per_second, limits.burst, clock)
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        try:
            self._check(scope)
            await self._pass_on(scope, receive, send_guarded)
        except Exception as error:
            told = describe_error(error)
            if told.code == "internal_error":
                _log.error("internal error at the local API: %s at %s", type(error).__name__, _place(error))
            if not started:
                response = error_response(told.status, told.code, str(told), retry_after=told.retry_after)
                await response(scope, receive, send_guarded)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > self._limits.header_bytes:
            raise ApiError(431, "too_large", f"The headers have at most {self._limits.header_bytes} bytes.")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not _LOOPBACK_HOST.fullmatch(hosts[0]):
            raise ApiError(403, "wrong_host", "This server answers only under 127.0.0.1, [::1] and localhost.")
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in headers.getlist("origin")):
            raise ApiError(403, "foreign_origin", "Another page may not use this server.")
        if not needs_token(scope["path"]):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._accepts(token.strip()):
            self._take(self._owner)
            return
        self._take(self._others)
        raise ApiError(
            401, "invalid_token", "Send the owner's token as `Authorization: Bearer ...`; penchant serve shows it."
        )

    @staticmethod
    def _take(bucket: TokenBucket) -> None:
        if wait := bucket.take():
            raise BusyError("Too many requests in a short time.", retry_after=wait)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._running >= self._limits.requests:
            raise BusyError("Too many requests at once.")
        self._running += 1
        try:
            body = await self._read_body(scope, receive)
            if body is not None:
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._running -= 1

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if the caller went away."""
        limit = self._limits.body_bytes
        too_large = ApiError(413, "too_large", f"A request has at most {limit} bytes.")
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(408, "too_slow", "The request did not arrive in time.") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands over the body that was read, then what really comes (the end of the connection)."""
    handed_over = False

    async def replayed() -> Message:
        nonlocal handed_over
        if handed_over:
            return await receive()
        handed_over = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _place(error: BaseException) -> str:
    """File and line where an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
