"""Who judges: the endpoint over loopback, with its troubles, and the models of this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.errors import PenchantError
from simulations.studies.judge.models import (
    ATTEMPTS,
    KEY_VARIABLE,
    URL_VARIABLE,
    EndpointJudge,
    LocalJudge,
    ProductJudge,
)
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny

SECRET = "I collect lighthouse stamps"
ASK = ((SECRET,), "What next?", "A stamp of a lighthouse.", "A coin.")


@dataclass
class Fake:
    """An endpoint: what it answers next (status, body, headers), and what it was asked."""

    url: str = ""
    answers: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    def says(self, text: Any, status: int = 200, **headers: str) -> None:
        body = {"choices": [{"message": {"content": text}}]} if status == 200 else {"error": SECRET}
        self.answers.append((status, body, headers))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    endpoint = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.asked.append((self.path, dict(self.headers), body))
            status, answer, headers = endpoint.answers.pop(0)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv(URL_VARIABLE, endpoint.url)
    monkeypatch.setenv(KEY_VARIABLE, "key-1")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield endpoint
    server.shutdown()
    thread.join()
    server.server_close()


def judge(pauses: list[float]) -> EndpointJudge:
    made = EndpointJudge.from_environment("m")
    return EndpointJudge(made.client, made.model, sleep=pauses.append)


@pytest.mark.parametrize(
    ("said", "probability"),
    [("A 80", 0.8), ("B 75", 0.25), ("**A**, certainty: 100%", 0.99), ("B 30", 0.5), ("I cannot say", 0.5), ("", 0.5)],
)
def test_a_verdict_is_read(fake: Fake, said: str, probability: float) -> None:
    fake.says(said)
    assert judge([]).probability(*ASK) == pytest.approx(probability)
    path, headers, body = fake.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer key-1" and body["model"] == "m"
    asked = body["messages"][-1]["content"]
    assert asked.index("Answer A: A stamp") < asked.index("Answer B: A coin") and SECRET in asked


def test_passing_trouble_is_tried_again(fake: Fake) -> None:
    fake.says("", status=503)
    fake.says("", status=429, Retry_After="7")
    fake.says("A 90")
    pauses: list[float] = []
    assert judge(pauses).probability(*ASK) == pytest.approx(0.9)
    assert pauses == [1.0, 7.0]


def test_lasting_trouble_is_one_line_without_a_text(fake: Fake) -> None:
    for _ in range(ATTEMPTS):
        fake.says("", status=500)
    with pytest.raises(PenchantError, match="status 500") as refused:
        judge([]).probability(*ASK)
    assert SECRET not in str(refused.value) and len(fake.asked) == ATTEMPTS
    assert refused.value.__suppress_context__
    fake.says("", status=401)
    with pytest.raises(PenchantError, match=f"status 401; check.*{KEY_VARIABLE}"):
        judge([]).probability(*ASK)
    assert len(fake.asked) == ATTEMPTS + 1  # a refusal is not tried again
    fake.answers.append((200, b"<html>", {}))
    with pytest.raises(PenchantError, match="no chat completion"):
        judge([]).probability(*ASK)
    fake.says(None)
    with pytest.raises(PenchantError, match="no chat completion"):
        judge([]).probability(*ASK)


def test_nobody_there_and_no_address_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    client = httpx.Client(base_url="http://127.0.0.1:1/v1", timeout=2.0, trust_env=False)
    pauses: list[float] = []
    with pytest.raises(PenchantError, match="no connection"):
        EndpointJudge(client, "m", sleep=pauses.append).probability(*ASK)
    assert pauses == [1.0, 2.0, 4.0]
    monkeypatch.setenv(URL_VARIABLE, "endpoint")
    with pytest.raises(PenchantError, match=URL_VARIABLE):
        EndpointJudge.from_environment("m")


def test_local_judges_depend_on_what_is_shown(tmp_path: Path) -> None:
    with open_tiny(tmp_path, context_tokens=1024) as engine:
        local = LocalJudge(engine)
        ahead, behind = local.probability(*ASK), local.probability(ASK[0], ASK[1], ASK[3], ASK[2])
        assert 0.0 < ahead < 1.0 and ahead != behind
        product = ProductJudge(engine, HashingEmbedder())
        ahead, behind = product.probability(*ASK), product.probability(ASK[0], ASK[1], ASK[3], ASK[2])
        assert ahead == pytest.approx(1.0 - behind)
        # saying that one likes it moves the product's judge towards it
        unknown = product.probability((), *ASK[1:])
        assert product.probability(("I like stamps of a lighthouse",), *ASK[1:]) > unknown
