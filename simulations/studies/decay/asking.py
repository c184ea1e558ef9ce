"""How one question of PrefEval is asked: a chat in which the preference came up, n unrelated exchanges, the question.

Ways to ask (arms), each after the same n exchanges:

    none         the preference never came up
    stranger     somebody else's preference of the same topic came up in its place
    zero-shot    the preference came up, and is in the chat as far as the product's window keeps it
    reminder     the same, and the question ends by asking to mind what was said
    rag          the same, and what the product's memory recalls stands beside the question, as the product lays it out
    choose       zero-shot's likelihoods and the leaning of what is recalled (`answering/choosing.py`)
    adapter      zero-shot under a small adapter trained on the stated preference
    rag+adapter  both

An answer's score is its mean log-probability per token after "I suggest:", by llama.cpp on the file that serves; the
right one must beat the other three outright, so their order has no part. The window is that of the pipeline: the oldest
exchanges go until prompt and answer fit.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_runtime.answering.answering import lay_out
from edge_runtime.answering.choosing import LEANING_WEIGHT
from edge_runtime.answering.conversations import Conversations
from edge_runtime.answering.guard import as_data, as_note
from edge_runtime.answering.leaning import leanings
from edge_runtime.answering.pipeline import DEFAULT_ANSWER_TOKENS
from edge_runtime.answering.planner import recall_floor
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.consolidation import consolidate
from edge_runtime.memory.memory import Memory, TextEmbedder
from edge_runtime.profile.profile import Profile
from edge_runtime.store.vault import Vault
from simulations.datasets.prefeval import PreferenceQuestion
from simulations.studies.decay.forms import Chat

ARMS: Final = ("none", "stranger", "zero-shot", "reminder", "rag", "choose", "adapter", "rag+adapter")
REMINDER: Final = "Keep to what I told you about my preferences."
_OPENING: Final = "I suggest:"
ByTurns = dict[str, list[float]]  # exchanges before the question -> score of every option, the right one first


@dataclass(frozen=True)
class Asked:
    """A question with the chat in which its preference came up, a stranger's chat, the exchanges that may follow, and
    what the memory recalls for it ("" if nothing)."""

    row: PreferenceQuestion
    own: Chat
    stranger: Chat
    unrelated: tuple[Chat, ...]
    recalled: str


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt, and how many messages of the chat the window left out."""

    tokens: list[int]
    left_out: int


def fitted(engine: Engine, chat: Sequence[ChatMessage], question: str, note: str) -> Prompt:
    """The pipeline's prompt up to the opening of the answer, the oldest exchanges left out until it fits."""
    earlier = [ChatMessage(message.role, as_data(engine, message.content)) for message in chat]
    notes = [as_note(engine, note)] if note else []
    room = engine.context_tokens - DEFAULT_ANSWER_TOKENS
    while True:
        messages = lay_out(as_data(engine, question), notes, earlier=earlier)
        tokens = engine.tokenise(engine.chat_prompt(messages) + _OPENING)
        if len(tokens) <= room or not earlier:
            return Prompt(tokens, len(chat) - len(earlier))
        earlier = earlier[2:]


def likelihoods(engine: Engine, prompt: Prompt, options: Sequence[str]) -> list[float]:
    """Mean log-probability per token of every option after the prompt."""
    texts = [engine.tokenise(f" {option}", special=False) for option in options]
    return [float(logs.mean()) for logs in engine.score(prompt.tokens, texts)]


def is_right(scores: Sequence[float]) -> bool:
    """Whether the first option beats all others; a tie is no answer."""
    return scores[0] > max(scores[1:])


def ask(
    engine: Engine,
    embedder: TextEmbedder,
    asked: Asked,
    turns: Sequence[int],
    *,
    adapter: bytes | None = None,
    none: ByTurns | None = None,
) -> dict[str, Any]:
    """All arms after every number of ``turns``: {"scores", "prompt_tokens": {turns: zero-shot's}, "left_out": {turns:
    messages of zero-shot's chat}}. The arms with an adapter are there if one is given. ``none`` are the scores of that
    arm where another form of the same question has them already: the two controls are then left out.
    """
    options = asked.row.options

    def after(
        chat: Chat, endings: Sequence[str], note: str = ""
    ) -> tuple[list[dict[str, list[float]]], dict[str, Any]]:
        # Few turns first, and all endings after as many: what the prompts begin with is read once.
        scores: list[ByTurns] = [{} for _ in endings]
        sizes: dict[str, dict[str, int]] = {"prompt_tokens": {}, "left_out": {}}
        for count in turns:
            told = (*chat, *(message for exchange in asked.unrelated[:count] for message in exchange))
            prompts = [fitted(engine, told, f"{asked.row.question}{ending}", note) for ending in endings]
            for made, prompt in zip(scores, prompts, strict=True):
                made[str(count)] = likelihoods(engine, prompt, options)
            sizes["prompt_tokens"][str(count)] = len(prompts[0].tokens)
            sizes["left_out"][str(count)] = prompts[0].left_out
        return scores, sizes

    def recalled_or(scores: ByTurns) -> ByTurns:
        return after(asked.own, [""], asked.recalled)[0][0] if asked.recalled else scores

    arms: dict[str, ByTurns] = {}
    if none is None:
        arms["none"], arms["stranger"] = after((), [""])[0][0], after(asked.stranger, [""])[0][0]
    else:
        arms["none"] = none
    (arms["zero-shot"], arms["reminder"]), sizes = after(asked.own, ["", f" {REMINDER}"])
    arms["rag"] = recalled_or(arms["zero-shot"])
    leaning = leanings([asked.recalled] if asked.recalled else [], options, embedder)
    arms["choose"] = {
        count: [one + LEANING_WEIGHT * float(lean) for one, lean in zip(row, leaning, strict=True)]
        for count, row in arms["zero-shot"].items()
    }
    if adapter is not None:
        with _using(engine, adapter):
            arms["adapter"] = after(asked.own, [""])[0][0]
            arms["rag+adapter"] = recalled_or(arms["adapter"])
    return {"scores": arms, **sizes}


def recalled_from_chats(
    asked: Sequence[tuple[Sequence[PreferenceQuestion], PreferenceQuestion]],
    chats: Mapping[PreferenceQuestion, Chat],
    embedder: TextEmbedder,
) -> dict[PreferenceQuestion, str]:
    """For every (person, question) what recall finds first among the memories that consolidation makes of all the
    person's chats; "" where nothing is relevant."""
    questions: dict[tuple[PreferenceQuestion, ...], list[PreferenceQuestion]] = {}
    for person, row in asked:
        questions.setdefault(tuple(person), []).append(row)
    found = {}
    for person, rows in questions.items():
        with tempfile.TemporaryDirectory() as folder, Vault.open(Path(folder), bytes(32)) as vault:
            memory, conversations = Memory(vault, embedder), Conversations(vault)
            for held in person:
                conversation = conversations.new()
                for message in chats[held]:
                    conversations.add(conversation, message.role, message.content)
            consolidate(conversations, memory, Profile(vault))
            for row in rows:
                best = memory.recall(row.question, k=1, floor=recall_floor(row.question))
                found[row] = best[0].item.text if best else ""
    return found


@contextmanager
def _using(engine: Engine, data: bytes) -> Iterator[None]:
    adapter = engine.load_adapter(data, sha256=hashlib.sha256(data).hexdigest())
    engine.use_adapters([(adapter, 1.0)])
    try:
        yield
    finally:
        engine.use_adapters([])
        engine.unload_adapter(adapter)
