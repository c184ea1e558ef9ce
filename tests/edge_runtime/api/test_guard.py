"""Who gets in, how much they may ask, and what no log may hold."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from edge_runtime.api.guard import SECURITY_HEADERS, Guard
from edge_runtime.api.limits import Limits
from edge_runtime.api.session import Session
from tests.edge_runtime.api.api_helpers import client_of, make_device, opened_session

SECRET = "my sister Oriane sings"


def error_code(response: Any) -> str:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code"} and error["message"]
    return str(error["code"])


def test_everything_personal_needs_the_token(session: Session) -> None:
    nobody = client_of(session, Authorization="")
    document = client_of(session).get("/openapi.json").json()
    asked = 0
    for path, operations in document["paths"].items():
        for method in operations:
            if path == "/api/health":
                continue
            response = nobody.request(method, path.replace("{", "").replace("}", ""), json={})
            assert response.status_code == 401 and error_code(response) == "invalid_token", (method, path)
            assert response.headers["WWW-Authenticate"] == "Bearer"
            asked += 1
    assert asked == 32
    for path in ("/openapi.json", "/docs", "/redoc", "/nowhere", "/v1", "/api", "/pages/x", "/api/healthx"):
        assert nobody.get(path).status_code == 401
    assert nobody.get("/api/health").json() == {"status": "ok"} and nobody.get("/").status_code in (200, 404)


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer ", "Bearer wrong", "Basic {token}", "{token}", "Bearer {token}x", "Bearer {other}"]
)
def test_a_wrong_token_opens_nothing(session: Session, value: str) -> None:
    given = value.format(token=session.token, other=session.token.swapcase())
    assert client_of(session, Authorization=given).get("/api/status").status_code == 401


def test_the_token_opens_with_any_case_of_bearer(session: Session) -> None:
    assert client_of(session, Authorization=f"bearer {session.token}").get("/api/status").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:8765"])
def test_loopback_names_are_answered(session: Session, host: str) -> None:
    assert client_of(session, Host=host).get("/api/status").status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "evil.example:8765", "0.0.0.0", "127.0.0.1:x", "localhost@evil", ""],
)
def test_another_name_for_this_machine_is_refused(session: Session, host: str) -> None:
    for path in ("/", "/api/health", "/api/status"):
        response = client_of(session, Host=host).get(path)
        assert response.status_code == 403 and error_code(response) == "wrong_host"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8765", "http://127.0.0.1:9"])
def test_other_pages_are_refused_and_cors_is_closed(session: Session, origin: str) -> None:
    client = client_of(session)
    for method, path in (("POST", "/api/lock"), ("GET", "/api/status"), ("OPTIONS", "/api/memories")):
        response = client.request(method, path, headers={"Origin": origin})
        assert response.status_code == 403 and error_code(response) == "foreign_origin"
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert not session.locked
    own = client.get("/api/status", headers={"Origin": "http://127.0.0.1:8765"})
    assert own.status_code == 200 and not [name for name in own.headers if name.startswith("access-control")]


def test_every_answer_carries_the_security_headers(session: Session) -> None:
    client = client_of(session)
    nobody = client_of(session, Authorization="")
    for response in (client.get("/"), client.get("/api/status"), client.get("/nowhere"), nobody.get("/api/status")):
        assert {name: response.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy


def test_large_bodies_are_refused_declared_or_not(tmp_path: Path) -> None:
    limits = Limits(body_bytes=2000)
    with opened_session(make_device(tmp_path / "home"), limits=limits) as session:
        client = client_of(session)
        large = b'{"text": "' + b"x" * 3000 + b'"}'
        kind = {"Content-Type": "application/json"}
        for content in (large, iter([large[:1500], large[1500:]])):
            response = client.post("/api/memories", content=content, headers=kind)
            assert response.status_code == 413 and error_code(response) == "too_large"
        assert client.post("/api/memories", json={"text": "x" * 1500}).status_code == 200


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 100_000, b'{"text":' + b"[" * 900 + b"]" * 900 + b"}"])
def test_deeply_nested_json_is_refused(client: TestClient, body: bytes) -> None:
    for path in ("/api/memories", "/v1/chat/completions"):
        response = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400 and "error" in response.json()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"null", b"NaN", b'"text"'])
def test_what_is_not_json_is_refused(client: TestClient, body: bytes) -> None:
    response = client.post("/api/memories", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"


def test_too_many_requests_are_told_when_to_come_back(tmp_path: Path) -> None:
    limits = Limits(requests_per_second=0.1, burst=3)
    with opened_session(make_device(tmp_path / "home"), limits=limits) as session:
        app = client_of(session).app
        owner = TestClient(app, base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {session.token}"})
        stranger = TestClient(app, base_url="http://127.0.0.1")
        assert [stranger.get("/api/status").status_code for _ in range(5)] == [401, 401, 401, 429, 429]
        answers = [owner.get("/v1/models") for _ in range(4)]  # a stranger uses up nothing of the owner's
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 10


async def call(guard: Guard, receive: Any, *, path: str = "/api/status") -> int:
    """The status that a bare ASGI call gets."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer t")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    await guard(scope, receive, send)
    return int(sent[0]["status"]) if sent else 0


async def whole() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


def test_requests_at_once_are_bounded() -> None:
    async def scenario() -> None:
        go = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        guard = Guard(app, accepts=lambda token: token == "t", limits=Limits(requests=2))
        waiting = [asyncio.create_task(call(guard, whole)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await call(guard, whole) == 429
        go.set()
        assert await asyncio.gather(*waiting) == [200, 200]
        assert await call(guard, whole) == 200

    asyncio.run(scenario())


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    async def scenario() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError("reached")

        async def never() -> Any:
            await asyncio.sleep(3600)

        async def gone() -> Any:
            return {"type": "http.disconnect"}

        guard = Guard(app, accepts=lambda token: True, limits=Limits(body_seconds=0.01))
        assert await call(guard, never) == 408
        assert await call(guard, gone) == 0

    asyncio.run(scenario())


def test_an_unexpected_error_tells_and_logs_nothing_personal(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError(SECRET)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(app, accepts=lambda token: True, limits=Limits())
    headers = [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer t")]
    scope = {"type": "http", "method": "GET", "path": f"/api/{SECRET}", "headers": headers, "query_string": b""}
    with caplog.at_level(logging.DEBUG):
        asyncio.run(guard(scope, whole, send))
    assert sent[0]["status"] == 500 and SECRET.encode() not in sent[1]["body"]
    assert "KeyError" in caplog.text and "test_guard.py" in caplog.text and SECRET not in caplog.text


def test_what_was_sent_is_never_repeated(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for method, path, body in (
            ("POST", "/api/memories", {"text": [SECRET]}),
            ("POST", "/api/memories", {"text": SECRET, "said_at": SECRET}),
            ("POST", "/api/feedback", {"prompt": SECRET, "chosen": SECRET, "rejected": SECRET}),
            ("POST", "/api/feedback", {"turn": SECRET, "thumbs": SECRET}),
            ("PATCH", "/api/memories/9", {"text": SECRET}),
            ("POST", "/api/unlock", {"passphrase": [SECRET]}),
            ("POST", "/v1/chat/completions", {"model": SECRET, "messages": [{"role": "user", "content": SECRET}]}),
            ("POST", "/v1/chat/completions", {"messages": [{"role": SECRET, "content": SECRET}]}),
            ("GET", f"/api/conversations/{SECRET}", None),
            ("GET", f"/v1/models/{SECRET}", None),
        ):
            response = client.request(method, path, json=body)
            assert 400 <= response.status_code < 500, path
            assert SECRET not in response.text and "error" in response.json()
    assert SECRET not in "".join(record.getMessage() for record in caplog.records if record.name != "httpx")
