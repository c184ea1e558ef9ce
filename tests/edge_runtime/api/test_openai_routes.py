"""The `openai` client library, unchanged, against a real server on a free port."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from edge_runtime.answering.pipeline import Assistant
from edge_runtime.api.session import Session
from tests.edge_runtime.api.api_helpers import (
    CountingHashingEmbedder,
    ScriptedEngine,
    client_of,
    make_device,
    opened_session,
    serving,
    wait_until,
)

QUESTION = [{"role": "user", "content": "What is my dog called?"}]


class Served:
    """A running server, its engine, and clients for it."""

    def __init__(self, session: Session, engine: ScriptedEngine, address: str) -> None:
        self.session, self.engine, self.address = session, engine, address
        self.openai: Any = openai.OpenAI(base_url=f"{address}/v1", api_key=session.token, max_retries=0)
        self.http = httpx.Client(base_url=address, headers={"Authorization": f"Bearer {session.token}"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    engine = ScriptedEngine()
    with opened_session(make_device(tmp_path_factory.mktemp("home")), engine) as session, serving(session) as address:
        served = Served(session, engine, address)
        served.http.post("/api/memories", json={"text": "My dog is called Bruno", "said_at": "2025-03-14"})
        yield served
        served.openai.close()
        served.http.close()


@pytest.fixture
def served(server: Served) -> Served:
    engine = server.engine
    engine.pieces, engine.hold = ["Your dog", " is called", " Bruno."], False
    engine.go.clear()
    engine.at_hold.clear()
    return server


def test_a_chat_completion(served: Served) -> None:
    answer = served.openai.chat.completions.create(model="penchant", messages=QUESTION)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == "penchant"
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content == "Your dog is called Bruno."
    assert choice.finish_reason == "stop" and choice.index == 0
    assert answer.usage is not None and answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.usage.prompt_tokens == len(served.engine.tokenise(served.engine.prompt))
    said = answer.model_extra["penchant"]
    assert said["conversation"] is None and said["turn"] is None
    source = said["sources"][0]
    assert source["id"] == "memory:1" and source["said_at"] == "2025-03-14" and source["kind"] == "statement"
    assert source["text"] == "My dog is called Bruno" and source["score"] > 0
    assert "Bruno" in served.engine.prompt


def test_a_streamed_chat_completion(served: Served) -> None:
    stream = served.openai.chat.completions.create(
        model="penchant",
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(piece or "" for piece in pieces) == "Your dog is called Bruno." and len(chunks) >= 5
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
    assert not chunks[-1].choices and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 5
    told = [chunk.model_extra["penchant"] for chunk in chunks if (chunk.model_extra or {}).get("penchant")]
    assert len(told) == 1 and told[0]["sources"][0]["id"] == "memory:1"


def test_the_stream_is_server_sent_events_and_ends_with_done(served: Served) -> None:
    with served.http.stream("POST", "/v1/chat/completions", json={"messages": QUESTION, "stream": True}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        text = response.read().decode()
    events = text.split("\n\n")
    assert (
        events[-1] == "" and events[-2] == "data: [DONE]" and all(event.startswith("data: ") for event in events[:-1])
    )
    assert not any("usage" in json.loads(event[6:]) for event in events[:-2])


def test_a_kept_conversation_gives_a_turn_to_rate_and_to_audit(served: Served) -> None:
    conversation = served.http.post("/api/conversations").json()["id"]
    answer = served.openai.chat.completions.create(
        model="penchant",
        messages=QUESTION,
        extra_body={"penchant": {"conversation": conversation}},
    )
    said = answer.model_extra["penchant"]
    assert said["conversation"] == conversation and said["turn"] > 0
    turns = served.http.get(f"/api/conversations/{conversation}").json()["turns"]
    assert [(turn["role"], turn["text"]) for turn in turns] == [
        ("user", "What is my dog called?"),
        ("assistant", "Your dog is called Bruno."),
    ]
    assert turns[1]["id"] == said["turn"]
    audit = served.http.get(f"/api/turns/{said['turn']}/audit").json()
    assert audit["turn"] == said["turn"] and audit["audit"]["model_sha256"] == "ab" * 32


def test_an_unknown_conversation_is_404_stream_or_not(served: Served) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError):
            served.openai.chat.completions.create(
                model="penchant",
                messages=QUESTION,
                stream=stream,
                extra_body={"penchant": {"conversation": "no"}},
            )


@pytest.mark.parametrize(
    ("model", "penchant", "personal"),
    [
        ("penchant", {}, True),
        ("penchant-personal", {}, True),
        ("smollm2-135m", {}, True),
        ("penchant-base", {}, False),
        ("penchant", {"personal": False}, False),
        ("penchant-base", {"personal": True}, True),
        ("penchant", {"memories": 0}, False),
        ("penchant", {"as_of": "2024-01-01"}, False),
    ],
)
def test_memories_are_used_by_the_personal_models_only(
    served: Served, model: str, penchant: dict[str, Any], personal: bool
) -> None:
    answer = served.openai.chat.completions.create(
        model=model,
        messages=QUESTION,
        extra_body={"penchant": penchant},
    )
    assert ("Bruno" in served.engine.prompt) == personal
    assert bool(answer.model_extra["penchant"]["sources"]) == personal


def test_roles_parts_and_history_reach_the_model(served: Served) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Speak plainly."},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "Good day."},
        {"role": "tool", "tool_call_id": "1", "content": "It rains."},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "What is the capital of Portugal?"}]},
    ]
    served.openai.chat.completions.create(model="penchant-base", messages=messages)
    prompt = served.engine.prompt
    assert "<system> Speak plainly.\n\nBe brief." in prompt
    assert "<user> Hello\nthere\n<assistant> Good day.\n<user> It rains.\n<user> What is the capital" in prompt


def sampling_of(served: Served) -> Any:
    return served.engine.sampling


def test_sampling_and_length_are_passed_on(served: Served) -> None:
    ask = served.openai.chat.completions.create
    ask(model="penchant", messages=QUESTION)
    assert sampling_of(served).temperature == 0 and served.engine.max_tokens == 160
    ask(model="penchant", messages=QUESTION, temperature=0.7, top_p=0.5, seed=2**40 + 7, max_tokens=50)
    sampling = sampling_of(served)
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.7, 0.5, 7) and served.engine.max_tokens == 50
    ask(model="penchant", messages=QUESTION, top_p=0, max_tokens=50, max_completion_tokens=60)
    assert served.engine.max_tokens == 60 and sampling_of(served).temperature == 1
    ask(model="penchant", messages=QUESTION, temperature=1, max_tokens=10**6)
    assert served.engine.max_tokens == served.engine.context_tokens // 2
    seeds = set()
    for _ in range(3):
        ask(model="penchant", messages=QUESTION, temperature=1)
        seeds.add(sampling_of(served).seed)
    assert len(seeds) == 3


def test_stop_strings_and_the_limit_end_an_answer(served: Served) -> None:
    ask = served.openai.chat.completions.create
    stopped = ask(model="penchant", messages=QUESTION, stop=" called")
    assert stopped.choices[0].message.content == "Your dog is" and stopped.choices[0].finish_reason == "stop"
    assert ask(model="penchant", messages=QUESTION, stop=["Bruno", "dog"]).choices[0].message.content == "Your "
    served.engine.pieces = ["one", " two", " three", " four", " five"]
    cut = ask(model="penchant", messages=QUESTION, max_tokens=3)
    assert cut.choices[0].finish_reason == "length" and cut.choices[0].message.content == "one two three"
    assert cut.usage is not None and cut.usage.completion_tokens == 3


@pytest.mark.parametrize(
    "wish",
    [
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"frequency_penalty": 1.0},
        {"logit_bias": {"1": 5}},
        {"stop": ""},
        {"messages": [{"role": "user", "content": "  "}]},
        {"messages": [*QUESTION, {"role": "assistant", "content": "Well"}]},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"temperature": 3},
        {"max_tokens": 0},
        {"stream": "yes"},
        {"penchant": {"memories": -1}},
        {"penchant": {"as_of": "2025-02-30"}},
        {"penchant": {"best_of": 0}},
        {"penchant": {"steer": -1.0}},
        {"penchant": {"best_of": 2, "steer": 1.0}},
        {"penchant": {"guide": 0.5, "steer": 1.0}},
        {"penchant": {"best_of": 2}},  # no taste is installed
    ],
)
def test_what_cannot_be_done_is_a_bad_request_that_says_so(served: Served, wish: dict[str, Any]) -> None:
    body = {"model": "penchant", "messages": QUESTION} | wish
    response = served.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400, response.text
    assert len(response.json()["error"]["message"]) > 15


def test_the_best_of_several_comes_whole_at_the_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces(assistant: Any, draft: Any, prompt: Any, options: Any) -> Any:
        assert options.best_of == 3
        yield from ("", "", "Bruno it is.")

    monkeypatch.setattr(Assistant, "_allowed", lambda assistant, options: options)
    monkeypatch.setattr(Assistant, "_pieces", pieces)
    body: dict[str, Any] = {"messages": QUESTION, "penchant": {"best_of": 3}}
    whole = served.http.post("/v1/chat/completions", json=body).json()
    assert whole["choices"][0]["message"]["content"] == "Bruno it is."
    with served.http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    said = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"]]
    assert "".join(said) == "Bruno it is." and said.count("Bruno it is.") == 1


def test_harmless_wishes_are_accepted(served: Served) -> None:
    body = {
        "n": 1,
        "tools": [],
        "response_format": {"type": "text"},
        "user": "x",
        "metadata": {"a": "b"},
        "store": False,
    }
    response = served.http.post("/v1/chat/completions", json={"messages": QUESTION, "logprobs": False} | body)
    assert response.status_code == 200


def test_errors_map_to_the_clients_exceptions(served: Served) -> None:
    ask = served.openai.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="gpt-4o", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="one answer"):
        ask(model="penchant", messages=QUESTION, n=3)
    with pytest.raises(openai.BadRequestError, match="shorten"):
        long = [{"role": "user", "content": "word " * 1000}]
        ask(model="penchant", messages=long, stream=True)
    stranger = openai.OpenAI(base_url=f"{served.address}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    stranger.close()


def test_models_are_listed_and_found(served: Served) -> None:
    names = [model.id for model in served.openai.models.list()]
    assert names == ["penchant", "penchant-personal", "penchant-base", "smollm2-135m"]
    assert served.openai.models.retrieve("penchant-base").object == "model"
    with pytest.raises(openai.NotFoundError):
        served.openai.models.retrieve("gpt-4o")


def test_embeddings_in_both_encodings(served: Served) -> None:
    texts = ["the sea in winter", "a hound", "a dog"]
    wanted = CountingHashingEmbedder().embed(texts)
    # the client asks for base64 by itself and decodes it
    found = served.openai.embeddings.create(model="penchant", input=texts)
    assert [one.index for one in found.data] == [0, 1, 2] and found.usage.prompt_tokens == 8
    assert np.allclose([one.embedding for one in found.data], wanted)
    one = served.openai.embeddings.create(model="penchant", input="a dog", encoding_format="float", dimensions=64)
    assert np.allclose(one.data[0].embedding, wanted[2])
    raw = served.http.post("/v1/embeddings", json={"input": "a dog", "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    assert np.array_equal(decoded, wanted[2])


@pytest.mark.parametrize(
    "wish",
    [
        {"input": [1, 2, 3]},
        {"input": [[1, 2]]},
        {"input": []},
        {"input": ""},
        {"input": ["a", " "]},
        {"dimensions": 32},
        {},
    ],
)
def test_embeddings_that_cannot_be_made(served: Served, wish: dict[str, Any]) -> None:
    body = {"input": "a"} | wish if wish else {}
    response = served.http.post("/v1/embeddings", json=body)
    assert response.status_code == 400 and "error" in response.json()
    with pytest.raises(openai.NotFoundError):
        served.openai.embeddings.create(model="text-embedding-3-small", input="a")


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_stops_when_its_reader_goes_away(served: Served, stream: bool) -> None:
    served.engine.hold = True
    body = {"messages": QUESTION, "stream": stream}
    leaving = httpx.Client(timeout=httpx.Timeout(10, read=None if stream else 0.5))
    request = leaving.build_request(
        "POST", f"{served.address}/v1/chat/completions", json=body, headers=served.http.headers
    )
    if stream:
        response = leaving.send(request, stream=True)
        assert served.engine.at_hold.wait(10)
        response.close()
    else:
        with pytest.raises(httpx.ReadTimeout):
            leaving.send(request)
        assert served.engine.at_hold.wait(10)
    leaving.close()
    wait_until(lambda: served.engine.aborted)
    served.engine.hold = False
    # the worker is free at once, and the next answer is whole
    answer = served.openai.chat.completions.create(model="penchant", messages=QUESTION)
    assert answer.choices[0].message.content == "Your dog is called Bruno."


def test_the_device_can_be_read_while_an_answer_is_generated(served: Served) -> None:
    served.engine.pieces = ["word "] * 100
    with served.http.stream("POST", "/v1/chat/completions", json={"messages": QUESTION, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        assert served.http.get("/api/memories").status_code == 200
        assert sum("[DONE]" in line for line in lines) == 1


def test_an_error_in_the_middle_of_a_stream_is_an_event(served: Served) -> None:
    served.engine.hold = True
    with served.http.stream("POST", "/v1/chat/completions", json={"messages": QUESTION, "stream": True}) as response:
        assert response.status_code == 200 and served.engine.at_hold.wait(10)
        served.engine.abort()  # somebody else's: not the reader's wish
        events = [line for line in response.iter_lines() if line]
    assert json.loads(events[-1][6:])["error"]["message"] and not any("[DONE]" in event for event in events)


def test_locked_answers_423_to_the_client(tmp_path: Path) -> None:
    with opened_session(make_device(tmp_path / "home", passphrase="open sesame"), passphrase="open sesame") as session:
        client = client_of(session)
        assert client.post("/api/lock").json()["locked"] is True
        for path, body in (
            ("/v1/chat/completions", {"messages": QUESTION}),
            ("/v1/chat/completions", {"messages": QUESTION, "stream": True}),
            ("/v1/embeddings", {"input": "a"}),
        ):
            response = client.post(path, json=body)
            assert response.status_code == 423 and response.json()["error"]["code"] == "locked"
        assert client.get("/v1/models").status_code == 200
