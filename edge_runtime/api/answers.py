"""One answer for the API, from what was asked to what was said: the assistant's stream as events for the reader.

`answer` runs on the worker; its events cross to the event loop. The text is what the assistant says, cut at the
caller's stop strings; tokens are counted in the model's own vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime.answering.pipeline import AnswerOptions, Assistant, Stages
from edge_runtime.api.errors import NotFoundError
from edge_runtime.device import Device
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.sampling import Sampling, stop_at
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.api.session import Session
    from edge_runtime.engine.engine import Engine

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Asked:
    """A question with the turns before it. `personal` uses memories, profile and the live adapter; None stands for
    the assistant's own choice. `memories` 0 looks nothing up."""

    question: str
    earlier: tuple[ChatMessage, ...] = ()
    system: str = ""
    personal: bool = True
    conversation: str | None = None
    memories: int | None = None
    as_of: str | None = None
    max_tokens: int | None = None
    sampling: Sampling | None = None
    stop: tuple[str, ...] = ()
    best_of: int = 1
    steer: float = 0.0
    guide: float = 0.0


@dataclass(frozen=True)
class Ended:
    """The answer is complete. `turn` is its id if a conversation keeps it."""

    sources: tuple[dict[str, Any], ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    turn: int | None


Event = str | Ended


def answer(session: Session, asked: Asked, device: Device, engine: Engine) -> Iterator[Event]:
    """Pieces of text, then `Ended`. What goes wrong does so before the first piece, or the model failed. Closing it
    stops the decode."""
    if asked.conversation is not None:
        check_conversation(device, asked.conversation)
    session.use_live_adapter(device, engine, personal=asked.personal)
    options = _options(asked, engine.context_tokens)
    stream = Assistant(device, engine).stream(
        asked.question,
        conversation=asked.conversation,
        earlier=asked.earlier,
        system=asked.system,
        options=options,
    )
    said = []
    # Closing the pieces keeps what was said so far, also when the reader goes away or a stop string comes.
    with closing(stream.pieces) as pieces:
        for piece in stop_at(pieces, asked.stop) if asked.stop else pieces:
            said.append(piece)
            yield piece
    completion_tokens = len(engine.tokenise("".join(said), special=False))
    yield Ended(
        tuple(asdict(source) | {"cited": source.id in stream.audit.cited} for source in stream.sources),
        "length" if completion_tokens >= options.max_tokens else "stop",
        stream.audit.prompt_tokens["total"],
        completion_tokens,
        stream.turn_id,
    )


def check_conversation(device: Device, conversation: str) -> None:
    """`NotFoundError` if there is no such conversation."""
    try:
        device.conversations.turns(conversation)
    except PenchantError as error:
        raise NotFoundError(str(error)) from None


def _options(asked: Asked, context_tokens: int) -> AnswerOptions:
    options = AnswerOptions(as_of=asked.as_of, best_of=asked.best_of, steer=asked.steer, guide=asked.guide)
    if not asked.personal:
        options = replace(options, stages=Stages(personalise=False))
    if asked.memories is not None:
        options = replace(options, k=asked.memories)
    if asked.sampling is not None:
        options = replace(options, sampling=asked.sampling)
    # Clients ask for thousands of tokens by habit; half of the context stays for the prompt.
    wanted = options.max_tokens if asked.max_tokens is None else asked.max_tokens
    return replace(options, max_tokens=min(wanted, context_tokens // 2))
