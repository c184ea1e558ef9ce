"""The answers of the steering study: what is asked, and how it is written, each answer once.

Requests are ones that nobody's choices are about. Every answer is written to a file as it comes, by a name that says
whose it is and how it was made, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.answering import lay_out
from edge_runtime.answering.attributes import ATTRIBUTES, asking_for
from edge_runtime.answering.best_of import candidate_samplings
from edge_runtime.answering.guiding import guided
from edge_runtime.answering.lengths import whole_sentences
from edge_runtime.answering.pipeline import DEFAULT_SAMPLING
from edge_runtime.answering.steering import steered
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.together import candidates
from edge_runtime.models.catalogue import write_atomically
from simulations.datasets.prefeval import load_prefeval
from simulations.studies.steering.people import Array, Pool
from simulations.studies.steering.prefeval import TUNING_TOPICS

MAX_TOKENS = 40
CANDIDATES = 8
STRENGTHS = (1.0, 2.0)
GUIDES = (0.5, 1.0)

Writer = Callable[[int, str], str]  # the person's number and the request -> an answer


@dataclass
class Answers:
    """Generated answers by name, kept in a file."""

    path: Path
    known: dict[str, str]

    @classmethod
    def open(cls, path: Path) -> Answers:
        return cls(path, json.loads(path.read_text("utf-8")) if path.exists() else {})

    def get(self, names: Sequence[str], make: Callable[[], Sequence[str]]) -> list[str]:
        """The answers of these names, made (all of them) where one is missing."""
        if any(name not in self.known for name in names):
            self.known |= dict(zip(names, make(), strict=True))
            write_atomically(self.path, json.dumps(self.known, ensure_ascii=False, indent=1).encode())
        return [self.known[name] for name in names]


@dataclass(frozen=True)
class Requests:
    """The requests with the villager that each comes from (-1: PrefEval)."""

    texts: tuple[str, ...]
    villagers: tuple[int, ...]


def held_out_requests(pool: Pool, folder: Path) -> Requests:
    """Two held-out requests of each villager, and a question of each of PrefEval's held-out topics."""
    texts, villagers = [], []
    for number, rows in enumerate(pool.rows):
        for row in rows[pool.held_out[rows]][:2]:
            texts.append(pool.choices[row].prompt)
            villagers.append(number)
    topics = list(load_prefeval(folder).values())[TUNING_TOPICS:]
    texts += [topic[0].question for topic in topics]
    villagers += [-1] * (len(texts) - len(villagers))
    return Requests(tuple(texts), tuple(villagers))


def candidates_of(engine: Engine, answers: Answers, number: int, request: str) -> list[str]:
    """CANDIDATES answers to a request, the plain one first."""

    def make() -> list[str]:
        prompt = engine.tokenise(engine.chat_prompt(lay_out(request, [])))
        samplings = candidate_samplings(DEFAULT_SAMPLING, CANDIDATES)
        steps = candidates(engine, prompt, samplings, max_tokens=MAX_TOKENS)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return ["".join(whole_sentences(iter(pieces), max_tokens=MAX_TOKENS)) for pieces in end.value]

    return answers.get([f"{number}/{place}" for place in range(CANDIDATES)], make)


def steered_answer(engine: Engine, answers: Answers, name: str, request: str, weights: Array, strength: float) -> str:
    """One steered answer."""

    def make() -> list[str]:
        pieces = steered(
            engine, lay_out(request, []), weights, strength, max_tokens=MAX_TOKENS, sampling=DEFAULT_SAMPLING
        )
        return ["".join(whole_sentences(pieces, max_tokens=MAX_TOKENS))]

    return answers.get([name], make)[0]


def steering_writers(engine: Engine, answers: Answers, weights: Sequence[Array]) -> dict[str, Writer]:
    """Steered by one's own attribute weights at each strength, and by a stranger's."""

    def writer(arm: str, strength: float, shift: int) -> Writer:
        def write(number: int, request: str) -> str:
            whose = weights[(number + shift) % len(weights)]
            return steered_answer(engine, answers, f"{number}/{arm}", request, whose, strength)

        return write

    own = {f"steer {strength:g}": (strength, 0) for strength in STRENGTHS}
    arms = own | {f"steer {STRENGTHS[0]:g}, stranger": (STRENGTHS[0], 1)}
    return {arm: writer(arm, *how) for arm, how in arms.items()}


def guiding_writers(engine: Engine, answers: Answers, heads: Sequence[NDArray[np.float32]]) -> dict[str, Writer]:
    """The same guided by heads on the hidden state."""

    def writer(arm: str, strength: float, shift: int) -> Writer:
        def write(number: int, request: str) -> str:
            def make() -> list[str]:
                prompt = engine.tokenise(engine.chat_prompt(lay_out(request, [])))
                head = heads[(number + shift) % len(heads)]
                pieces = guided(engine, prompt, head, strength, max_tokens=MAX_TOKENS, sampling=DEFAULT_SAMPLING)
                return ["".join(whole_sentences(pieces, max_tokens=MAX_TOKENS))]

            return answers.get([f"{number}/{arm}"], make)[0]

        return write

    own = {f"guide {strength:g}": (strength, 0) for strength in GUIDES}
    arms = own | {f"guide {GUIDES[0]:g}, stranger": (GUIDES[0], 1)}
    return {arm: writer(arm, *how) for arm, how in arms.items()}


def asked_answers(engine: Engine, answers: Answers, number: int, request: str) -> list[str]:
    """The answers to a request that asks for one attribute, ATTRIBUTES in order."""

    def make() -> list[str]:
        texts = []
        for attribute in ATTRIBUTES:
            prompt = engine.tokenise(engine.chat_prompt(asking_for(lay_out(request, []), attribute)))
            pieces = engine.generate(prompt, max_tokens=MAX_TOKENS, sampling=DEFAULT_SAMPLING)
            texts.append("".join(whole_sentences(pieces, max_tokens=MAX_TOKENS)))
        return texts

    return answers.get([f"{number}/{one.name}" for one in ATTRIBUTES], make)
