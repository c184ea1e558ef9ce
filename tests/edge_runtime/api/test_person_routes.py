"""`/api`: profile, conversations and feedback, over a real device file."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

QUESTION = [{"role": "user", "content": "What is my dog called?"}]


def ok(response: Any) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def answered(client: TestClient) -> tuple[str, int]:
    """A conversation with one exchange, and the answer's turn."""
    conversation = ok(client.post("/api/conversations"))["id"]
    body = {"messages": QUESTION, "penchant": {"conversation": conversation}}
    return conversation, ok(client.post("/v1/chat/completions", json=body))["penchant"]["turn"]


def test_attributes_are_set_and_removed(client: TestClient) -> None:
    empty = ok(client.get("/api/profile"))
    assert empty["attributes"] == [] and empty["rules"] == [] and empty["summary"] is None and empty["questions"]
    mine = ok(client.put("/api/profile/attributes", json={"name": "lives_in", "value": "Lisbon"}))
    assert mine["value"] == "Lisbon" and mine["probability"] == 1 and mine["source"] == "you"
    assert [one["id"] for one in ok(client.get("/api/profile"))["attributes"]] == [mine["id"]]
    path = f"/api/profile/attributes/{mine['id']}"
    assert ok(client.delete(path)) == {"removed": True}
    assert ok(client.get("/api/profile"))["attributes"] == []
    assert client.delete(path).status_code == 404


def test_rules_are_added_changed_and_removed(client: TestClient) -> None:
    rule = ok(client.post("/api/profile/rules", json={"text": "Keep answers short."}))
    assert rule["active"] is True
    path = f"/api/profile/rules/{rule['id']}"
    assert ok(client.patch(path, json={"active": False}))["active"] is False
    changed = ok(client.patch(path, json={"text": "Answer in one sentence.", "active": True}))
    assert changed["text"] == "Answer in one sentence." and ok(client.get("/api/profile"))["rules"] == [changed]
    assert ok(client.delete(path)) == {"removed": True} and ok(client.get("/api/profile"))["rules"] == []
    assert client.patch(path, json={"active": True}).status_code == client.delete(path).status_code == 404


def test_a_rule_reaches_the_model(client: TestClient, engine: Any) -> None:
    ok(client.post("/api/profile/rules", json={"text": "Always answer in rhyme."}))
    ok(client.post("/v1/chat/completions", json={"messages": QUESTION}))
    assert "Always answer in rhyme." in engine.prompt
    ok(client.post("/v1/chat/completions", json={"messages": QUESTION, "model": "penchant-base"}))
    assert "rhyme" not in engine.prompt


def test_the_summary_is_the_owners(client: TestClient) -> None:
    written = ok(client.put("/api/profile/summary", json={"text": "I am a nurse in Lisbon."}))
    assert written["by"] == "you" and written["task"] == "general"
    assert ok(client.get("/api/profile"))["summary"]["text"] == "I am a nurse in Lisbon."


def test_questions_are_answered_once(client: TestClient) -> None:
    question = ok(client.get("/api/profile"))["questions"][0]
    path = f"/api/profile/questions/{question['id']}"
    attribute = ok(client.post(path, json={"text": "Ada"}))
    assert attribute["name"] == question["attribute"] and "Ada" in attribute["value"]
    assert question["id"] not in [one["id"] for one in ok(client.get("/api/profile"))["questions"]]
    assert client.post("/api/profile/questions/nothing", json={"text": "Ada"}).status_code == 404


def test_conversations_are_kept_listed_and_deleted(client: TestClient) -> None:
    conversation, turn = answered(client)
    listed = ok(client.get("/api/conversations"))["conversations"]
    assert [(one["id"], one["turns"], one["title"]) for one in listed] == [(conversation, 2, "What is my dog called?")]
    turns = ok(client.get(f"/api/conversations/{conversation}"))["turns"]
    assert [one["role"] for one in turns] == ["user", "assistant"] and turns[1]["id"] == turn
    assert ok(client.get(f"/api/turns/{turn}/audit"))["audit"]["plan"]
    assert ok(client.get(f"/api/turns/{turns[0]['id']}/audit"))["audit"] is None
    assert ok(client.delete(f"/api/conversations/{conversation}")) == {"removed": True}
    assert ok(client.get("/api/conversations"))["conversations"] == []
    for path in (f"/api/conversations/{conversation}", f"/api/turns/{turn}/audit"):
        assert client.get(path).status_code == 404
    assert client.delete(f"/api/conversations/{conversation}").status_code == 404


def test_feedback_of_all_three_kinds(client: TestClient) -> None:
    _, turn = answered(client)
    rating = ok(client.post("/api/feedback", json={"turn": turn, "thumbs": "up", "note": "spot on"}))["rating"]
    assert rating["turn"] == turn and rating["up"] is True and rating["prompt"] == QUESTION[0]["content"]
    ok(client.post("/api/feedback", json={"turn": turn, "thumbs": "down"}))
    edited = ok(client.post("/api/feedback", json={"turn": turn, "better": "Bruno!"}))["preference"]
    assert edited["chosen"] == "Bruno!" and edited["rejected"] == "Your dog is called Bruno."
    pair = {"prompt": "Tea?", "chosen": "Yes, please.", "rejected": "No."}
    chosen = ok(client.post("/api/feedback", json=pair))["preference"]
    assert {name: chosen[name] for name in pair} == pair
    said = ok(client.get("/api/feedback"))
    assert [one["chosen"] for one in said["preferences"]] == ["Bruno!", "Yes, please."]
    assert [(one["turn"], one["up"]) for one in said["ratings"]] == [(turn, False)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"turn": 99, "thumbs": "up"}, 404),
        ({"turn": 1, "thumbs": "sideways"}, 400),
        ({"turn": 1, "better": ""}, 400),
        ({"prompt": "a", "chosen": "b"}, 400),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, 400),
        ({"turn": 1, "thumbs": "up", "better": "x"}, 400),
        ({"turn": 0, "thumbs": "up"}, 400),
        ({}, 400),
    ],
)
def test_feedback_that_cannot_be_used(client: TestClient, body: dict[str, Any], status: int) -> None:
    response = client.post("/api/feedback", json=body)
    assert response.status_code == status and response.json()["error"]["message"]


def test_what_the_owner_said_is_not_an_answer_to_rate(client: TestClient) -> None:
    _, turn = answered(client)
    assert client.post("/api/feedback", json={"turn": turn - 1, "thumbs": "up"}).status_code == 400
