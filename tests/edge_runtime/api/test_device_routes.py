"""`/api`: memories, forgetting, ledger, adapters, settings, lock, over a real device file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from edge_runtime.api.session import Session
from tests.edge_runtime.api.api_helpers import ScriptedEngine, client_of, make_device, opened_session


def refused(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["error"]["message"])


def test_remember_find_edit_forget(client: TestClient) -> None:
    body = {"text": "My dog is called Bruno", "cue": "What is your dog called?", "said_at": "2025-03-14"}
    item = client.post("/api/memories", json=body).json()
    assert {name: item[name] for name in body} == body and item["id"] == 1 and "score" not in item
    assert client.post("/api/memories", json=body).json()["id"] == 1  # the same twice is one memory
    second = client.post("/api/memories", json={"text": "I play the cello"}).json()
    assert [one["id"] for one in client.get("/api/memories").json()["memories"]] == [1, second["id"]]
    found = client.get("/api/memories", params={"query": "dog", "k": 1}).json()["memories"]
    assert found[0]["id"] == 1 and found[0]["score"] > 0 and found[0]["ranks"]["bm25"] == 1
    assert found[0]["similarity"] is not None
    assert client.get("/api/memories", params={"query": "dog", "as_of": "2024-01-01"}).json()["memories"] == []
    assert [one["id"] for one in client.get("/api/memories", params={"as_of": "2025-03-14"}).json()["memories"]] == [1]
    edited = client.patch("/api/memories/1", json={"text": "My dog is called Brutus"}).json()
    assert edited["text"] == "My dog is called Brutus" and edited["said_at"] == "2025-03-14"
    receipt = client.delete(f"/api/memories/{edited['id']}").json()
    assert receipt["removed"]["memories"] == 1 and receipt["forgotten_at"] and "Brutus" not in str(receipt)
    assert [one["text"] for one in client.get("/api/memories").json()["memories"]] == ["I play the cello"]
    refused(client.delete(f"/api/memories/{edited['id']}"), 404)
    assert client.delete("/api/memories", params={"everything": "true"}).json()["what"] == "everything"
    assert client.get("/api/memories").json()["memories"] == []


def test_forgetting_needs_plain_words(client: TestClient) -> None:
    client.post("/api/memories", json={"text": "I play the cello"})
    refused(client.delete("/api/memories"), 400)
    refused(client.delete("/api/memories", params={"everything": "false"}), 400)
    assert len(client.get("/api/memories").json()["memories"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/memories", {"text": ""}, 400),
        ("POST", "/api/memories", {"text": "x" * 20_001}, 400),
        ("POST", "/api/memories", {"text": "x", "said_at": "14.3.2025"}, 400),
        ("POST", "/api/memories", {"text": "x", "said_at": 3}, 400),
        ("POST", "/api/memories", {"text": "x", "mood": "good"}, 400),
        ("PATCH", "/api/memories/77", {"text": "x"}, 404),
        ("PATCH", "/api/memories/0", {"text": "x"}, 400),
        ("PATCH", f"/api/memories/{2**63}", {"text": "x"}, 400),
        ("DELETE", "/api/memories/x", None, 400),
        ("GET", "/api/memories?k=0", None, 400),
        ("GET", "/api/memories?as_of=yesterday", None, 400),
        ("POST", "/api/adapters/5/use", None, 404),
        ("PATCH", "/api/settings", {"share": "yes"}, 400),
        ("PATCH", "/api/settings", {"colour": "red"}, 400),
        ("PATCH", "/api/settings", {"delta": 1.5}, 400),
        ("GET", "/api/nothing", None, 404),
        ("PUT", "/api/memories", {"text": "x"}, 405),
    ],
)
def test_bad_requests_are_told_in_one_shape(client: TestClient, method: str, path: str, body: Any, status: int) -> None:
    assert refused(client.request(method, path, json=body), status)


def test_infinity_and_lone_surrogates_are_refused(client: TestClient) -> None:
    kind = {"Content-Type": "application/json"}
    assert refused(client.patch("/api/settings", content=b'{"epsilon_budget": Infinity}', headers=kind), 400)
    assert refused(client.post("/api/memories", content=b'{"text": "\\ud800"}', headers=kind), 400)


def test_the_status_and_the_settings(client: TestClient) -> None:
    client.post("/api/memories", json={"text": "I play the cello"})
    status = client.get("/api/status").json()
    assert status["memories"] == 1 and status["locked"] is False and status["version"]
    assert status["model"]["name"] == "smollm2-135m" and status["model"]["state"] == "unloaded"
    changed = client.patch("/api/settings", json={"share": True, "epsilon_budget": 2}).json()
    assert changed["share"] is True and changed["epsilon_budget"] == 2 and changed["minimum_roster"] == 8
    assert client.get("/api/status").json()["settings"] == changed
    assert client.patch("/api/settings", json={}).json() == changed


def test_nothing_left_the_device_yet(client: TestClient) -> None:
    ledger = client.get("/api/ledger").json()
    assert ledger["entries"] == [] and ledger["epsilon"] == 0 and ledger["settings"]["share"] is False


def test_adapters_are_switched(session: Session, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_runtime.adapters import adapter_file

    class Metadata:
        base_sha256, epsilon = "ab" * 32, 1.5

    monkeypatch.setattr(adapter_file, "read_adapter_metadata", lambda data: Metadata)
    for number in (1, 2):
        data = bytes([number])
        session._worker.call(partial(lambda data: session._unlocked().adapters.install(data, note="me"), data)).result()

    def live() -> list[bool]:
        return [one["live"] for one in client.get("/api/adapters").json()["adapters"]]

    assert live() == [False, True]
    used = client.post("/api/adapters/1/use").json()["adapters"]
    assert [one["live"] for one in used] == [True, False] == live()
    assert used[0]["epsilon"] == 1.5 and used[0]["held"] is True
    client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}]})
    engine: Any = session._engine
    assert [adapter.sha256 for adapter, _ in engine.active_adapters] == [used[0]["sha256"]]
    assert client.post("/api/adapters/off").json()["adapters"][0]["live"] is False and live() == [False, False]


def test_a_locked_device_tells_nothing(tmp_path: Path) -> None:
    home = make_device(tmp_path / "home", passphrase="open sesame")
    engine = ScriptedEngine()
    with opened_session(home, engine, passphrase="open sesame") as session:
        client = client_of(session)
        client.post("/api/memories", json={"text": "I play the cello"})
        document = client.get("/openapi.json").json()
        assert client.post("/api/lock").json() | {"model": 0, "version": 0} == {
            "locked": True, "has_passphrase": True, "model": 0, "memories": None, "settings": None, "version": 0,
        }  # fmt: skip
        open_paths = {"/api/status", "/api/health", "/api/lock", "/api/unlock", "/v1/models", "/v1/models/{model_id}"}
        bodies: dict[str, Any] = {
            "/v1/embeddings": {"input": "x"},
            "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
            "/api/memories": {"text": "x"},
            "/api/profile/attributes": {"name": "x", "value": "y"},
            "/api/feedback": {"turn": 1, "thumbs": "up"},
            "/api/settings": {"share": True},
        }
        asked = 0
        for path, operations in document["paths"].items():
            for method in operations if path not in open_paths else ():
                real = path.replace("{conversation_id}", "x").replace("{question_id}", "x")
                real = "".join("1" if part.startswith("{") else part for part in _parts(real))
                query = "?everything=true" if (method, path) == ("delete", "/api/memories") else ""
                response = client.request(method, real + query, json=bodies.get(path, {"text": "x"}))
                assert response.status_code == 423, (method, path, response.text)
                asked += 1
        assert asked == 27
        assert client.get("/openapi.json").status_code == 200
        assert refused(client.post("/api/unlock", json={"passphrase": "wrong"}), 403)
        unlocked = client.post("/api/unlock", json={"passphrase": "open sesame"}).json()
        assert unlocked["locked"] is False and unlocked["memories"] == 1


def _parts(path: str) -> list[str]:
    """A path cut at its parameters."""
    import re

    return re.split(r"(\{[^}]*\})", path)
