"""The app as a whole: the page's files, the OpenAPI document, and a fuzzer that believes the document."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.generation import GenerationMode
from starlette.testclient import TestClient

from edge_runtime.api.app import PAGE, create_app
from tests.edge_runtime.api.api_helpers import ScriptedEngine, client_of, make_device, opened_session


def test_the_page_needs_no_token_and_has_its_types(session: Any) -> None:
    nobody = client_of(session, Authorization="")
    index = nobody.get("/")
    assert index.status_code == 200 and index.headers["Content-Type"] == "text/html; charset=utf-8"
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    files = [path for path in PAGE.iterdir() if path.is_file()]
    assert files and {path.suffix for path in files} <= set(kinds)
    for path in files:
        response = nobody.get(f"/page/{path.name}")
        assert response.status_code == 200 and response.content == path.read_bytes()
        assert response.headers["Content-Type"].startswith(kinds[path.suffix])
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page/..%5capp.py", "/page//etc/passwd",
        "/page/%2fetc%2fpasswd", "/page/app.py", "/page/", "/page/.", "/page/index.html/", "/page/__init__.py",
        "/page/index.html%00.js", "/page/INDEX.HTML",
    ],
)  # fmt: skip
def test_no_other_file_can_be_reached(session: Any, path: str) -> None:
    response = client_of(session, Authorization="").get(path)
    assert response.status_code in (401, 404) and b"import" not in response.content


def test_the_page_asks_nothing_of_other_places() -> None:
    inline = re.compile(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", re.IGNORECASE)
    for path in PAGE.iterdir():
        text = path.read_text("utf-8")
        outside = [
            url for url in re.findall(r"https?://[^\s\"'`)<]+", text) if not url.startswith("http://www.w3.org/")
        ]
        assert not [url for url in outside if "127.0.0.1" not in url], path.name
        if path.suffix == ".html":
            assert not inline.search(text), path.name


def test_the_document_is_complete_and_needs_no_outside_page(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["info"]["title"] == "Penchant" and document["openapi"].startswith("3.1")
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len(operations) == 33
    for operation in operations:
        assert operation["description"] and operation["tags"]
        assert "422" not in operation["responses"] and {"400", "401", "423", "429"} <= set(operation["responses"])
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description") or "enum" in schema, name
    unsecured = [path for path, item in document["paths"].items() for one in item.values() if not one.get("security")]
    assert unsecured == ["/api/health"]
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The app of a device that holds something, and the schema that its own document states."""
    engine = ScriptedEngine()
    home = make_device(tmp_path_factory.mktemp("home"))
    with opened_session(home, engine) as session:
        client = client_of(session)
        client.post("/api/memories", json={"text": "My dog is called Bruno"})
        conversation = client.post("/api/conversations").json()["id"]
        question = {"role": "user", "content": "What is my dog called?"}
        client.post("/v1/chat/completions", json={"messages": [question], "penchant": {"conversation": conversation}})
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        schema.app = create_app(session)
        yield schema, session


def _operations() -> list[tuple[str, str]]:
    from edge_runtime.api.session import Session

    session = Session(Path("nowhere"))
    try:
        document = create_app(session).openapi()
    finally:
        session.close()
    return [(path, method) for path, item in document["paths"].items() for method in item]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), _operations())
def test_a_fuzzer_that_believes_the_document_finds_no_error(
    fuzzed: Any, path: str, method: str, mode: GenerationMode
) -> None:
    """What fits the document and what does not: never a server error, always what the document says."""
    schema, session = fuzzed
    headers = {"Authorization": f"Bearer {session.token}", "Host": "127.0.0.1"}
    checks = schemathesis.checks

    @hypothesis.settings(
        max_examples=6 if mode is GenerationMode.POSITIVE else 3,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=schema[path][method].as_strategy(generation_mode=mode))
    def attack(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and path == "/v1/chat/completions":
            case.body = _answerable(case.body)
        response = case.call(headers=headers, base_url="http://127.0.0.1")
        case.validate_response(
            response,
            checks=[
                checks.not_a_server_error,
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
        )
        if session.locked:  # the fuzzer found the lock
            session.start_opening().result()

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong about the health check
        attack()


def _answerable(body: Any) -> Any:
    """The same wish with a question and without what is refused, so that more than the refusals are tried."""
    refused = ("n", "tools", "functions", "response_format", "logprobs", "logit_bias", "model")
    kept = {name: value for name, value in body.items() if name not in refused and not name.endswith("penalty")}
    question = {"role": "user", "content": "What is my dog called?"}
    if kept.get("penchant"):
        kept["penchant"] |= {"conversation": None}
    return kept | {"messages": [*body["messages"], question], "stop": ["\n\n"]}
