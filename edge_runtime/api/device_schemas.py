"""What `/api` takes and gives: the records of the device as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_runtime.api.openai_schemas import Day, Strict
from edge_runtime.memory.statements import MAXIMUM_CHARACTERS

LARGEST_ID = 2**63 - 1  # what SQLite can hold
# At least one character that is not space.
Text = Annotated[str, Field(min_length=1, max_length=MAXIMUM_CHARACTERS, pattern=r"\S")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]


class Body(Strict):
    """A body says nothing that is not understood."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Record(BaseModel):
    """A record of the device; it may carry more fields than are named here."""

    model_config = ConfigDict(extra="allow")


class ErrorDetail(BaseModel):
    """What went wrong; it never repeats what was sent."""

    message: str = Field(examples=["This device is locked; unlock it with its passphrase."])
    type: Literal["invalid_request_error", "authentication_error", "server_error"]
    code: str = Field(examples=["locked"])


class ErrorResponse(BaseModel):
    """Every answer that is not 200."""

    error: ErrorDetail


class Health(BaseModel):
    """The server runs."""

    status: Literal["ok"] = "ok"


class ModelStateOut(Record):
    """The model that serves; `state` is "unloaded", "loading", "ready" or "failed"."""

    name: str = Field(examples=["smollm2-135m"])
    state: Literal["unloaded", "loading", "ready", "failed"]
    sha256: str | None
    quantisation: str | None
    context_tokens: int | None


class SettingsOut(Record):
    """What the owner allows."""

    share: bool
    epsilon_budget: float
    delta: float
    minimum_roster: int


class Status(BaseModel):
    """How the device is. Counts and settings are null while it is locked."""

    locked: bool
    has_passphrase: bool
    model: ModelStateOut
    memories: int | None
    settings: SettingsOut | None
    version: str = Field(examples=["0.1.0"])


class Unlock(Body):
    """The passphrase; empty where the device has none."""

    passphrase: Annotated[str, Field(max_length=4096)] = ""


class MemoryOut(Record):
    """A memory. The last three fields are there if it was found for a query."""

    id: int
    text: str
    cue: str
    said_at: str
    source: str
    recorded_at: str
    kind: str = "statement"
    speaker: str = ""
    document: str = ""
    position: int = 0
    valid_until: str | None = None
    score: float | None = None
    ranks: dict[str, int] | None = None
    similarity: float | None = None


class MemoryList(BaseModel):
    """Memories, best first for a query, else oldest first."""

    memories: list[MemoryOut]


class NewMemory(Body):
    """Something the owner said."""

    text: Text = Field(examples=["My dog is called Bruno"])
    cue: Annotated[str, Field(max_length=MAXIMUM_CHARACTERS)] = Field(
        default="", description="What it answered, if anything."
    )
    said_at: Day | None = Field(default=None, description="The day it was said; today if left out.")


class NewText(Body):
    """Another wording."""

    text: Text


class ReceiptOut(Record):
    """What a forget removed, counted."""

    what: str = Field(examples=["memory 12"])
    forgotten_at: str
    removed: dict[str, int]
    log_emptied: bool


class Removed(BaseModel):
    """It is gone."""

    removed: Literal[True] = True


class AttributeOut(Record):
    """Something known about the owner, how sure it is and since when."""

    id: int
    name: str = Field(examples=["lives in"])
    value: str
    probability: float
    since: str | None
    until: str | None
    source: str
    memory_ids: list[int]


class RuleOut(Record):
    """How the owner wants to be answered."""

    id: int
    text: str
    active: bool


class SummaryOut(Record):
    """The owner in a few lines; `stale` says that memories changed since it was written."""

    task: str
    text: str
    written_at: str
    by: str
    memory_ids: list[int]
    stale: bool


class QuestionOut(Record):
    """A question whose answer would help."""

    id: int | str
    text: str
    attribute: str


class ProfileOut(BaseModel):
    """What is known about the owner."""

    attributes: list[AttributeOut]
    rules: list[RuleOut]
    summary: SummaryOut | None
    questions: list[QuestionOut]


class NewAttribute(Body):
    """The owner's own word on an attribute."""

    name: Name = Field(examples=["lives in"])
    value: Annotated[Text, Field(max_length=1000)] = Field(examples=["Lisbon"])


class NewRule(Body):
    """How to answer from now on."""

    text: Annotated[Text, Field(max_length=1000)] = Field(examples=["Keep answers short."])


class RuleChange(Body):
    """Another wording, or on and off."""

    text: Annotated[Text, Field(max_length=1000)] | None = None
    active: bool | None = None


class ConversationId(BaseModel):
    """A new conversation."""

    id: str


class ConversationOut(Record):
    """One conversation of the list."""

    id: str
    started_at: str
    last_at: str
    turns: int
    title: str


class ConversationList(BaseModel):
    """All conversations, the latest first."""

    conversations: list[ConversationOut]


class TurnOut(Record):
    """Something said by the "user" or the "assistant"."""

    id: int
    conversation: str
    role: str
    text: str
    said_at: str
    audit: dict[str, Any] | None


class TurnList(BaseModel):
    """A conversation, oldest turn first."""

    turns: list[TurnOut]


class AuditOut(BaseModel):
    """What went into an answer; null for what the owner said."""

    turn: int
    audit: dict[str, Any] | None


Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]


class Thumb(Body):
    """A thumb for an answer."""

    turn: Id = Field(examples=[2])
    thumbs: Literal["up", "down"]
    note: Annotated[str, Field(max_length=MAXIMUM_CHARACTERS)] = ""


class Better(Body):
    """The answer as the owner would have written it."""

    turn: Id
    better: Text


class Choice(Body):
    """Two answers to a prompt, and which one is better."""

    prompt: Text
    chosen: Text
    rejected: Text


class RatingOut(Record):
    """A thumb that was given."""

    turn: int
    prompt: str
    up: bool
    note: str


class PreferenceOut(Record):
    """For this prompt, `chosen` rather than `rejected`."""

    id: int
    prompt: str
    chosen: str
    rejected: str
    said_at: str


class RollBackOut(BaseModel):
    """An adapter that was taken back because of feedback: `version`, what is live now (`to`, null: the model alone)."""

    version: int
    to: int | None
    reason: str


class Noted(BaseModel):
    """The feedback as it was stored, and the adapter that had to go because of it, if one had to."""

    rating: RatingOut | None = None
    preference: PreferenceOut | None = None
    rolled_back: RollBackOut | None = None


class FeedbackOut(BaseModel):
    """Everything the owner said about answers."""

    preferences: list[PreferenceOut]
    ratings: list[RatingOut]


class LedgerEntry(Record):
    """One thing that left the device."""

    written: str
    run_id: str
    round: int
    attempt: int
    kind: str
    size_bytes: int
    roster_size: int
    noise_multiplier: float | None
    delta: float


class LedgerOut(BaseModel):
    """Everything that ever left the device. `epsilon` null: something left without noise, nothing is guaranteed."""

    entries: list[LedgerEntry]
    epsilon: float | None
    settings: SettingsOut


class AdapterOut(Record):
    """A version of the device's own adapter; `epsilon` null claims no privacy, `held` false was forgotten."""

    id: int
    sha256: str
    base_sha256: str
    note: str
    epsilon: float | None
    installed_at: str
    live: bool
    held: bool
    parent_id: int | None


class AdapterList(BaseModel):
    """All versions, oldest first."""

    adapters: list[AdapterOut]


class SettingsChange(Body):
    """The settings to change."""

    share: bool | None = Field(default=None, description="Whether anything may leave the device.")
    epsilon_budget: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    minimum_roster: Annotated[int, Field(ge=2, le=LARGEST_ID)] | None = None
