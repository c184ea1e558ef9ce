"""The part of OpenAI's API that a small local model can honour, as pydantic models.

Fields that only steer OpenAI's own service (`user`, `store`, `metadata` ...) are accepted and ignored. What would
change the answer and cannot be done here is refused by name (`refusal`), never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edge_runtime.answering.best_of import MOST_CANDIDATES
from edge_runtime.memory.statements import iso_date
from edge_runtime.reward.taste import LARGEST_STRENGTH

MODEL_NAMES = ("penchant", "penchant-personal", "penchant-base")


def _checked_day(text: str) -> str:
    try:
        return iso_date(text)
    except Exception:
        raise ValueError("a date is written YYYY-MM-DD") from None


Day = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", json_schema_extra={"format": "date"}, examples=["2025-03-14"]),
    AfterValidator(_checked_day),
]


class Strict(BaseModel):
    """No silent conversions: "1" is not 1."""

    model_config = ConfigDict(strict=True)


class TextPart(Strict):
    """One part of a message."""

    type: Literal["text"] = Field(description="Only text is understood.")
    text: str


class ChatTurn(Strict):
    """One message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = Field(default=None, examples=["What is my dog called?"])

    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Strict):
    """How a stream ends."""

    include_usage: bool = Field(default=False, description="Send a last chunk that counts tokens.")


class PenchantOptions(Strict):
    """What only Penchant knows."""

    conversation: Annotated[str, Field(max_length=64)] | None = Field(
        default=None,
        description="Conversation (`POST /api/conversations`) that keeps question and answer; null keeps nothing.",
    )
    personal: bool | None = Field(
        default=None,
        description="Whether memories, profile and adapter are used. Null: unless the model is `penchant-base`.",
    )
    memories: Annotated[int, Field(ge=0, le=20)] | None = Field(default=None, description="At most so many sources.")
    as_of: Day | None = Field(default=None, description="Answer from what was known on that day.")
    best_of: Annotated[int, Field(ge=1, le=MOST_CANDIDATES)] = Field(
        default=1,
        description="Give the one of so many answers that its owner would like best; it comes whole, at the end.",
    )
    steer: Annotated[float, Field(ge=0, le=LARGEST_STRENGTH, allow_inf_nan=False)] = Field(
        default=0.0, description="How strongly every word leans towards styles that its owner likes; 1 is usual."
    )
    guide: Annotated[float, Field(ge=0, le=LARGEST_STRENGTH, allow_inf_nan=False)] = Field(
        default=0.0, description="How strongly every word is chosen by its owner's reward; 0.5 is usual."
    )


class ChatRequest(Strict):
    """A chat completion in OpenAI's schema. The last message is the user's question."""

    model: str = Field(default="penchant", max_length=200, examples=["penchant"])
    messages: list[ChatTurn] = Field(
        min_length=1, max_length=1000, examples=[[{"role": "user", "content": "What is my dog called?"}]]
    )
    stream: bool = Field(default=False, description="Send the answer as server-sent events while it is generated.")
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        default=None, description="0 takes the most probable word, and so does leaving it out."
    )
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Longest answer, in tokens; at most half of the model's context."
    )
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The newer name of max_tokens; it wins."
    )
    stop: str | Annotated[list[str], Field(max_length=4)] | None = Field(
        default=None, description="The answer ends before these."
    )
    seed: int | None = Field(default=None, description="The same seed samples the same answer.")
    n: int | None = Field(default=None, description="1: one answer.")
    response_format: dict[str, Any] | None = Field(default=None, description='{"type": "text"} only.')
    tools: list[Any] | None = Field(default=None, description="Refused unless empty.")
    functions: list[Any] | None = Field(default=None, description="Refused unless empty.")
    logprobs: bool | None = Field(default=None, description="Refused if true.")
    logit_bias: dict[str, Any] | None = Field(default=None, description="Refused unless empty.")
    frequency_penalty: float | None = Field(default=None, description="Refused unless 0.")
    presence_penalty: float | None = Field(default=None, description="Refused unless 0.")
    penchant: PenchantOptions | None = None

    def refusal(self) -> str | None:
        """What is asked for that cannot be done, in one line; None if all can."""
        if self.n not in (None, 1):
            return "Only one answer is given at a time: leave n out or set it to 1."
        if self.tools or self.functions:
            return "Tools and functions are not supported: leave them out."
        if self.response_format is not None and self.response_format.get("type") != "text":
            return "Only the response format text is supported."
        if self.logprobs:
            return "Log-probabilities are not returned: leave logprobs out."
        if self.logit_bias or self.frequency_penalty or self.presence_penalty:
            return "logit_bias, frequency_penalty and presence_penalty are not supported: leave them out."
        if self.messages[-1].role != "user":
            return "The last message must have the role user: it is the question."
        if not self.messages[-1].text().strip():
            return "The question is empty."
        if any(not stop for stop in self.stop_strings()):
            return "A stop string must not be empty."
        wanted = self.penchant or PenchantOptions()
        if (wanted.best_of > 1) + (wanted.steer > 0) + (wanted.guide > 0) > 1:
            return "An answer is the best of several, steered or guided: use one of best_of, steer, guide."
        return None

    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Usage(BaseModel):
    """Tokens of the prompt (memories and profile included) and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SourceOut(BaseModel):
    """Something the answer was made from. `id` names it: `memory:12`, `rule:3`, `attribute:7` ..."""

    model_config = ConfigDict(extra="allow")

    id: str
    text: str
    said_at: str | None = None
    score: float | None = None
    kind: str
    cited: bool = Field(description="Whether the answer rests on it; else the model was only shown it.")


class PenchantAnswer(BaseModel):
    """Where the answer came from, and the turn that feedback and audit can name."""

    conversation: str | None
    turn: int | None
    sources: list[SourceOut]


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str = Field(examples=["chatcmpl-4f1d"])
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix time in seconds.")
    model: str
    choices: list[Choice]
    usage: Usage
    penchant: PenchantAnswer


class Delta(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A piece of the one answer."""

    index: int = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    """One server-sent event of a streamed answer; the stream ends with `data: [DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    penchant: PenchantAnswer | None = None


class EmbeddingRequest(Strict):
    """Texts to embed, by the device's own embedding model."""

    model: str = Field(default="penchant", max_length=200)
    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)] = Field(
        description="A text or up to 2048 texts; lists of token numbers are refused.", examples=["the sea in winter"]
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: little-endian float32, as the openai client asks for."
    )
    dimensions: int | None = Field(default=None, description="The model's own dimension; no other.")

    def texts(self) -> list[str]:
        """`input` as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddingOut(BaseModel):
    """The unit vector of one text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """One vector per text, in order."""

    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingOut]
    usage: EmbeddingUsage


class ModelOut(BaseModel):
    """A name that `model` may take."""

    id: str = Field(examples=["penchant"])
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All names that `model` may take."""

    object: Literal["list"] = "list"
    data: list[ModelOut]
