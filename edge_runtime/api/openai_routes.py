"""`/v1`: the endpoints that programs written for OpenAI's API know."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NoReturn

import numpy as np
from fastapi import APIRouter, Path, Request
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray
from starlette.types import Receive, Scope, Send

from edge_runtime.answering.pipeline import DEFAULT_SAMPLING
from edge_runtime.api.answers import Asked, Ended, Event, answer
from edge_runtime.api.errors import ApiError, NotFoundError, describe_error, error_body
from edge_runtime.api.openai_schemas import (
    MODEL_NAMES,
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    EmbeddingList,
    EmbeddingOut,
    EmbeddingRequest,
    EmbeddingUsage,
    ModelList,
    ModelOut,
    PenchantAnswer,
    PenchantOptions,
    SourceOut,
    Usage,
)
from edge_runtime.api.session import Session
from edge_runtime.api.worker import Stream
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.sampling import Sampling

BASE_MODEL: Final = "penchant-base"
_EVENT_STREAM: Final = {
    "description": "The answer, or with `stream` server-sent events: each `data:` is a ChatChunk, the last `[DONE]`.",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "description": "One event.",
                "properties": {
                    "data": {
                        "anyOf": [
                            {
                                "type": "string",
                                "contentMediaType": "application/json",
                                "contentSchema": {"$ref": "#/components/schemas/ChatChunk"},
                            },
                            {"const": "[DONE]"},
                        ]
                    }
                },
                "required": ["data"],
            }
        }
    },
}


class AnswerResponse(StreamingResponse):
    """Server-sent events of an answer; the answer stops when the reader has gone, however that shows."""

    def __init__(self, chunks: AsyncIterator[str], stream: Stream[Event]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.cancel()


@dataclass
class _Answer:
    """An answer on its way to one caller."""

    model: str
    conversation: str | None
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    said: list[str] = field(default_factory=list)
    ended: Ended | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, Ended):
            self.ended = event
        else:
            self.said.append(event)

    def told(self, ended: Ended) -> PenchantAnswer:
        sources = [SourceOut.model_validate(source) for source in ended.sources]
        return PenchantAnswer(conversation=self.conversation, turn=ended.turn, sources=sources)

    def chunk(self, **fields: Any) -> str:
        chunk = ChatChunk(id=self.id, created=self.created, model=self.model, **fields)
        told = chunk.model_dump(exclude={name for name in ("usage", "penchant") if name not in fields})
        for choice in told["choices"]:  # a delta says what it adds and nothing else
            choice["delta"] = {name: value for name, value in choice["delta"].items() if value is not None}
        return _event(json.dumps(told, ensure_ascii=False))


def openai_router(session: Session) -> APIRouter:
    """The routes, for the device of `session`."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/chat/completions", response_model=ChatCompletion, responses={200: _EVENT_STREAM})
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        """Answers the last message, from memories and profile unless `penchant.personal` is false."""
        asked = _asked(body, session)
        stream = session.stream(lambda device, engine: answer(session, asked, device, engine))
        made = _Answer(body.model, asked.conversation)
        if body.stream:
            # What goes wrong before the first piece is told as an HTTP error, not inside the stream.
            try:
                first = await _next(stream, request)
            except BaseException:
                stream.cancel()
                raise
            usage = body.stream_options is not None and body.stream_options.include_usage
            return AnswerResponse(_chunks(made, first, stream, with_usage=usage), stream)
        try:
            await _collect(made, stream, request)
        finally:
            stream.cancel()
        return _completion(made)

    @router.post("/embeddings", response_model=EmbeddingList)
    async def embeddings(body: EmbeddingRequest) -> Any:
        """Unit vectors of texts; their dot products are cosines."""
        _check_model(body.model, session)
        texts, embedder = body.texts(), session.embedder
        if any(not text.strip() for text in texts):
            raise ApiError(400, "invalid_request", "A text to embed is empty.")

        def embed(device: object) -> tuple[Any, int]:
            if body.dimensions not in (None, embedder.dimension):
                raise ApiError(
                    400, "invalid_request", f"The vectors have {embedder.dimension} dimensions: leave dimensions out."
                )
            return embedder.embed(texts), sum(embedder.token_counts(texts))

        vectors, tokens = await session.run(embed)
        data = [
            EmbeddingOut(index=index, embedding=_encoded(vector, body.encoding_format))
            for index, vector in enumerate(vectors)
        ]
        return EmbeddingList(
            model=body.model, data=data, usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
        )

    @router.get("/models", response_model=ModelList)
    async def models() -> Any:
        """The names that `model` may take: `penchant` and `penchant-personal` know their owner, `penchant-base` is the
        bare model."""
        return ModelList(data=[_model(name) for name in _names(session)])

    @router.get("/models/{model_id}", response_model=ModelOut)
    async def model(model_id: Annotated[str, Path(max_length=200, examples=["penchant"])]) -> Any:
        """One of them."""
        _check_model(model_id, session)
        return _model(model_id)

    return router


# ---- from request to question


def _names(session: Session) -> tuple[str, ...]:
    return (*MODEL_NAMES, session.model.name)


def _check_model(name: str, session: Session) -> None:
    if name not in _names(session):
        raise NotFoundError("There is no model of this name; GET /v1/models lists them.", "model_not_found")


def _model(name: str) -> ModelOut:
    return ModelOut(id=name, created=0, owned_by="penchant")


def _asked(body: ChatRequest, session: Session) -> Asked:
    _check_model(body.model, session)
    if refusal := body.refusal():
        raise ApiError(400, "unsupported", refusal)
    options = body.penchant or PenchantOptions()
    *earlier, question = body.messages
    return Asked(
        question=question.text(),
        # a tool's result reaches the model as something the user shows it
        earlier=tuple(
            ChatMessage("assistant" if turn.role == "assistant" else "user", turn.text())
            for turn in earlier
            if turn.role not in ("system", "developer") and turn.text().strip()
        ),
        system="\n\n".join(turn.text() for turn in earlier if turn.role in ("system", "developer")),
        personal=body.model != BASE_MODEL if options.personal is None else options.personal,
        conversation=options.conversation,
        memories=options.memories,
        as_of=options.as_of,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        sampling=_sampling(body),
        stop=body.stop_strings(),
        best_of=options.best_of,
        steer=options.steer,
        guide=options.guide,
    )


def _sampling(body: ChatRequest) -> Sampling | None:
    """The caller's wishes; None if there are none. Without a seed every answer is sampled anew."""
    if body.temperature is None and body.top_p is None:
        return None
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        # OpenAI allows 0 here; the sampler wants a little more
        top_p=1.0 if body.top_p is None else max(body.top_p, 1e-6),
        repeat_penalty=DEFAULT_SAMPLING.repeat_penalty,
        seed=secrets.randbits(32) if body.seed is None else body.seed % (1 << 32),
    )


# ---- from events to a response


async def _next(stream: Stream[Event], request: Request) -> Event:
    """The next event; the answer stops if the caller goes away meanwhile."""
    event = asyncio.ensure_future(anext(stream))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({event, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not event.done():
            _nobody_reads()
        return event.result()
    finally:
        event.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _nobody_reads() -> NoReturn:
    raise ApiError(499, "caller_gone", "The caller went away before the answer was complete.")


async def _collect(made: _Answer, stream: Stream[Event], request: Request) -> None:
    gone = asyncio.ensure_future(_gone(request))
    gone.add_done_callback(lambda _: stream.cancel())
    try:
        async for event in stream:
            made.take(event)
    finally:
        gone.cancel()
    if made.ended is None:
        _nobody_reads()


def _encoded(vector: NDArray[np.float32], form: str) -> list[float] | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()


def _usage(ended: Ended) -> Usage:
    return Usage(
        prompt_tokens=ended.prompt_tokens,
        completion_tokens=ended.completion_tokens,
        total_tokens=ended.prompt_tokens + ended.completion_tokens,
    )


def _event(data: str) -> str:
    return f"data: {data}\n\n"


def _completion(made: _Answer) -> ChatCompletion:
    assert made.ended is not None
    return ChatCompletion(
        id=made.id,
        created=made.created,
        model=made.model,
        choices=[Choice(message=AnswerMessage(content="".join(made.said)), finish_reason=made.ended.finish_reason)],
        usage=_usage(made.ended),
        penchant=made.told(made.ended),
    )


async def _chunks(made: _Answer, first: Event, stream: Stream[Event], *, with_usage: bool) -> AsyncIterator[str]:
    yield made.chunk(choices=[ChunkChoice(delta=Delta(role="assistant", content=""))])
    event: Event | None = first
    try:
        while event is not None:
            made.take(event)
            if isinstance(event, str):
                yield made.chunk(choices=[ChunkChoice(delta=Delta(content=event))])
            event = await anext(stream, None)
    except Exception as error:
        told = describe_error(error)
        yield _event(json.dumps(error_body(told.status, told.code, str(told))))
        return
    if made.ended is None:
        return
    yield made.chunk(
        choices=[ChunkChoice(delta=Delta(), finish_reason=made.ended.finish_reason)],
        penchant=made.told(made.ended),
    )
    if with_usage:
        yield made.chunk(choices=[], usage=_usage(made.ended))
    yield _event("[DONE]")
