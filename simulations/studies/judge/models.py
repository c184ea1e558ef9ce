"""Who judges: the local model by log-likelihood, the product's own `choose`, or a model behind an endpoint.

The endpoint is any that speaks OpenAI's chat completions. Its URL (".../v1") and key come from the environment,
``PENCHANT_JUDGE_URL`` and ``PENCHANT_JUDGE_KEY``. Whatever is asked leaves the machine for that address: what is known
of the person, the question and both answers. Its certainty is what it says itself ("A 75"). An answer that cannot be
read counts as undecided. Errors name a status and no text.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from edge_runtime.answering.choosing import choose
from edge_runtime.answering.guard import as_data, as_note
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import TextEmbedder
from protocol.errors import PenchantError

URL_VARIABLE: Final = "PENCHANT_JUDGE_URL"
KEY_VARIABLE: Final = "PENCHANT_JUDGE_KEY"
ATTEMPTS: Final = 4
LONGEST_PAUSE: Final = 20.0  # seconds
_ROLE: Final = "You judge which of two answers a person would prefer, from what is known of them."
_SAY_SO: Final = (
    "Reply with the letter of the answer that this person would prefer and how certain you are in percent, from 50 (no "
    "idea) to 100, and nothing else. For example: A 75"
)
_OPENING: Final = "The person would prefer answer"
_VERDICT: Final = re.compile(r"\b([AB])\b\D{0,20}?(\d{1,3})(?:\.\d+)?\b")
_PASSING: Final = frozenset({408, 409, 425, 429}) | frozenset(range(500, 600))


def judging_prompt(known: Sequence[str], question: str, first: str, second: str) -> str:
    """What a judge reads, but for how it is to answer."""
    lines = "\n".join(f"- {line}" for line in known) or "- nothing"
    return f"Known of the person:\n{lines}\n\nThe person asks: {question}\n\nAnswer A: {first}\n\nAnswer B: {second}"


@dataclass(frozen=True)
class LocalJudge:
    """The model on this machine: the log-odds of "A" against "B" after the opening of its verdict."""

    engine: Engine

    def probability(self, known: Sequence[str], question: str, first: str, second: str) -> float:
        """As ``Judge.probability``."""
        engine = self.engine
        lines = [as_note(engine, line) for line in known]
        asked = judging_prompt(lines, *(as_data(engine, text) for text in (question, first, second)))
        messages = [ChatMessage("system", _ROLE), ChatMessage("user", f"{asked}\n\nWhich one, A or B?")]
        prompt = engine.tokenise(engine.chat_prompt(messages) + _OPENING)
        a, b = engine.score(prompt, [engine.tokenise(letter, special=False) for letter in (" A", " B")])
        return 1.0 / (1.0 + math.exp(float(b.sum() - a.sum())))


@dataclass(frozen=True)
class ProductJudge:
    """`choose`: likelihood of each answer and its leaning under what is known, taken as log-odds. It has no order."""

    engine: Engine
    embedder: TextEmbedder

    def probability(self, known: Sequence[str], question: str, first: str, second: str) -> float:
        """As ``Judge.probability``."""
        ranked = choose(self.engine, self.embedder, question, [first, second], known)
        apart = ranked[0].score - ranked[-1].score
        return 1.0 / (1.0 + math.exp(-apart if ranked[0].option == first else apart))


@dataclass(frozen=True)
class EndpointJudge:
    """A model behind an endpoint."""

    client: httpx.Client
    model: str
    sleep: Callable[[float], None] = time.sleep

    @staticmethod
    def from_environment(model: str, *, timeout: float = 60.0) -> EndpointJudge:
        """PenchantError if the environment names no endpoint."""
        url, key = os.environ.get(URL_VARIABLE, ""), os.environ.get(KEY_VARIABLE, "")
        if not re.match(r"https?://[^/\s]+", url):
            raise PenchantError(f"set {URL_VARIABLE} to the endpoint's address, such as http://127.0.0.1:8000/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return EndpointJudge(httpx.Client(base_url=url, headers=headers, timeout=timeout), model)

    def probability(self, known: Sequence[str], question: str, first: str, second: str) -> float:
        """As ``Judge.probability``."""
        asked = f"{judging_prompt(known, question, first, second)}\n\n{_SAY_SO}"
        verdict = _VERDICT.search(self._answer([("system", _ROLE), ("user", asked)]))
        if verdict is None:
            return 0.5
        sure = min(max(int(verdict[2]), 50), 99) / 100
        return sure if verdict[1] == "A" else 1.0 - sure

    def _answer(self, messages: Sequence[tuple[str, str]]) -> str:
        asked = [{"role": role, "content": content} for role, content in messages]
        body = {"model": self.model, "messages": asked, "temperature": 0, "max_tokens": 16}
        reason = ""
        for attempt in range(ATTEMPTS):
            pause = min(2.0**attempt, LONGEST_PAUSE)
            try:
                response = self.client.post("chat/completions", json=body)
            except httpx.HTTPError as error:
                reason = f"no connection ({type(error).__name__})"
            else:
                if response.is_success:
                    return _content(response)
                reason = f"status {response.status_code}"
                if response.status_code not in _PASSING:
                    raise PenchantError(f"the judge's endpoint refuses: {reason}; check {URL_VARIABLE}, {KEY_VARIABLE} "
                                        "and the model's name") from None  # fmt: skip
                pause = _asked_pause(response, pause)
            if attempt + 1 < ATTEMPTS:
                self.sleep(pause)
        raise PenchantError(
            f"the judge's endpoint does not answer after {ATTEMPTS} attempts: {reason}; the same command goes on later"
        ) from None


def _content(response: httpx.Response) -> str:
    try:
        answer: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        answer = None
    if not isinstance(answer, str):
        raise PenchantError(f"what the judge's endpoint answers is no chat completion: check {URL_VARIABLE}") from None
    return answer


def _asked_pause(response: httpx.Response, usual: float) -> float:
    """``Retry-After`` in seconds if it is there, within limits."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_PAUSE) if asked.isdigit() else usual
