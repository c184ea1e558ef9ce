"""`penchant bench preferences`: PrefEval's preferences found again, and the answer chosen that respects them.

Retrieval. All preferences of a topic are one person's memories; every question of the topic should find the one
preference that it belongs to (peer: BM25 alone). A harder case than life, since fifty preferences about one topic are
all near every question; so also people who hold one preference of each topic (`one_of_each`).

Choice. The four short answers to a question are ranked by `answering/choosing.py`: the bundled model's mean
log-probability per token plus how far each leans towards what the preference likes and away from what it dislikes.
Without memory (likelihood alone), with what recall finds first in the memory of a person with one preference of each
topic, with the right preference (upper bound), and with a stranger's preference of the same topic (control). The four
topics that are first by name, on which the weight was chosen, are left out of the figures.

Letting the model read the preference does not do it. Of several layouts on the tuning topics (124 questions) the best,
which restates the preference before the answer, chose right in .460 against .403 without; on the other eight topics
(248 questions) the difference was .016 [-.035, .068] with the recalled preference, and a stranger's helped as much.
What a preference adds to an answer's log-probability alone chooses at chance: a model of this size reads "I hate X" as
a reason to say X.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edge_runtime.answering.choosing import choose
from edge_runtime.answering.planner import recall_floor
from edge_runtime.device import SharedEmbedder
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import Memory, TextEmbedder
from edge_runtime.memory.ranking import RANKERS
from edge_runtime.memory.statements import Statement
from edge_runtime.models.catalogue import find_model
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from simulations.bench.case import Case
from simulations.bench.runner import OnProgress
from simulations.datasets.prefeval import PreferenceQuestion, load_prefeval
from simulations.datasets.writing import DATA_VARIABLE
from simulations.statistics import mean_interval

TUNING_TOPICS: Final = 4  # by name; the weight of the leaning was chosen on them
DEFAULT_QUESTIONS: Final = 200
CONDITIONS: Final = ("none", "recalled", "right", "stranger")
_CONTEXT_TOKENS: Final = 1024
_SAID: Final = "2025-01-01"


def run(
    on_progress: OnProgress = lambda stage, fraction: None,
    data: Path | None = None,
    *,
    questions: int = DEFAULT_QUESTIONS,
    seed: int = 0,
) -> dict[str, Case]:
    """Shares of questions with 95 % intervals. `data` is the folder of PrefEval (default: `prefeval` in PENCHANT_DATA);
    `questions` are sampled for the choice, the retrieval takes all."""
    topics = load_prefeval(data or _default_folder())
    embedder = SharedEmbedder()
    cases = retrieval(topics, embedder, on_progress)
    people = mixed_people(topics, seed)
    cases |= retrieval_among_topics(people, embedder, on_progress)
    held_out = frozenset(list(topics)[TUNING_TOPICS:])
    with Engine.open(find_model(), context_tokens=_CONTEXT_TOKENS, threads=1) as engine:
        return cases | choices(engine, people, topics, held_out, embedder, on_progress, questions=questions, seed=seed)


# ---- retrieval


def retrieval(
    topics: Mapping[str, Sequence[PreferenceQuestion]], embedder: TextEmbedder, on_progress: OnProgress
) -> dict[str, Case]:
    """Every topic one person: is the right preference found first, and among five?"""
    ours: dict[str, list[tuple[bool, bool]]] = {}
    peer: dict[str, list[tuple[bool, bool]]] = {}
    for done, (topic, rows) in enumerate(topics.items()):
        ours[topic], peer[topic] = _found(rows, rows, embedder)
        on_progress("retrieval", (done + 1) / len(topics))
    return _retrieval_cases("topic", ours, peer)


def retrieval_among_topics(
    people: Sequence[Sequence[PreferenceQuestion]], embedder: TextEmbedder, on_progress: OnProgress
) -> dict[str, Case]:
    """People with one preference of each topic."""
    ours, peer = {}, {}
    for number, person in enumerate(people):
        ours[str(number)], peer[str(number)] = _found(person, person, embedder)
        on_progress("retrieval among topics", (number + 1) / len(people))
    return _retrieval_cases("one_of_each", ours, peer)


def mixed_people(topics: Mapping[str, Sequence[PreferenceQuestion]], seed: int) -> list[tuple[PreferenceQuestion, ...]]:
    """As many people as the smallest topic has rows, each with one preference of every topic, in shuffled pairings."""
    generator = random.Random(seed)
    columns = [generator.sample(list(rows), len(rows)) for rows in topics.values()]
    return [tuple(person) for person in zip(*columns, strict=False)]


def _found(
    held: Sequence[PreferenceQuestion], asked: Sequence[PreferenceQuestion], embedder: TextEmbedder
) -> tuple[list[tuple[bool, bool]], list[tuple[bool, bool]]]:
    """(found first, found among five) of every question, as the pipeline looks up and by BM25 alone, without
    a floor."""
    with tempfile.TemporaryDirectory() as folder, Vault.open(Path(folder), bytes(32)) as vault:
        memory = Memory(vault, embedder)
        items = memory.remember_many(Statement(row.preference, said_at=_SAID) for row in held)
        wanted = {row: item.id for row, item in zip(held, items, strict=True)}
        results: tuple[list[tuple[bool, bool]], list[tuple[bool, bool]]] = ([], [])
        for row in asked:
            for hits, rankers, floor in (
                (results[0], RANKERS, recall_floor(row.question)),
                (results[1], ("bm25",), 0.0),
            ):
                ids = [one.item.id for one in memory.recall(row.question, k=5, rankers=rankers, floor=floor)]
                hits.append((ids[:1] == [wanted[row]], wanted[row] in ids))
    return results


def _retrieval_cases(
    name: str, ours: Mapping[str, list[tuple[bool, bool]]], peer: Mapping[str, list[tuple[bool, bool]]]
) -> dict[str, Case]:
    cases = {}
    for place, label in enumerate(("first", "within_5")):
        mine = [hit[place] for hits in ours.values() for hit in hits]
        theirs = [hit[place] for hits in peer.values() for hit in hits]
        more: dict[str, object] = {"interval": wilson(sum(mine), len(mine)), "questions": len(mine), "peer_is": "BM25"}
        more["peer_interval"] = wilson(sum(theirs), len(theirs))
        if name == "topic":
            more["per_topic"] = {
                topic: [_mean([hit[place] for hit in hits]), _mean([hit[place] for hit in peer[topic]])]
                for topic, hits in ours.items()
            }
        cases[f"{name}_{label}"] = Case(_mean(mine), _mean(theirs), "share found", more)
    return cases


# ---- the choice among four


def choices(
    engine: Engine,
    people: Sequence[Sequence[PreferenceQuestion]],
    topics: Mapping[str, Sequence[PreferenceQuestion]],
    held_out: frozenset[str],
    embedder: TextEmbedder,
    on_progress: OnProgress,
    *,
    questions: int,
    seed: int,
) -> dict[str, Case]:
    """Accuracy of the choice with memory against none, paired over questions; bound and control beside it."""
    generator = random.Random(seed)
    asked = [(person, row) for person in people for row in person if row.topic in held_out]
    asked = generator.sample(asked, min(questions, len(asked)))
    right: dict[str, list[bool]] = {condition: [] for condition in CONDITIONS}
    found = []
    recalled = recall_first(asked, embedder)
    for done, (_, row) in enumerate(asked):
        found.append(recalled[row] == row.preference)
        stranger = generator.choice([other.preference for other in topics[row.topic] if other != row])
        shown = {"none": "", "recalled": recalled[row], "right": row.preference, "stranger": stranger}
        options = generator.sample(row.options, len(row.options))
        for condition, preference in shown.items():
            ranked = choose(engine, embedder, row.question, options, [preference] if preference else [])
            right[condition].append(ranked[0].option == row.options[0])
        on_progress("choice", (done + 1) / len(asked))
    return _choice_cases(right, _mean(found))


def recall_first(
    asked: Sequence[tuple[Sequence[PreferenceQuestion], PreferenceQuestion]], embedder: TextEmbedder
) -> dict[PreferenceQuestion, str]:
    """For every (person, question) the memory that recall finds first among the person's preferences; empty where none
    is relevant."""
    questions: dict[tuple[PreferenceQuestion, ...], list[PreferenceQuestion]] = {}
    for person, row in asked:
        questions.setdefault(tuple(person), []).append(row)
    first = {}
    for person, rows in questions.items():
        with tempfile.TemporaryDirectory() as folder, Vault.open(Path(folder), bytes(32)) as vault:
            memory = Memory(vault, embedder)
            memory.remember_many(Statement(row.preference, said_at=_SAID) for row in person)
            for row in rows:
                found = memory.recall(row.question, k=1, floor=recall_floor(row.question))
                first[row] = found[0].item.text if found else ""
    return first


def _choice_cases(right: Mapping[str, Sequence[bool]], found: float) -> dict[str, Case]:
    none = np.array(right["none"], float)
    cases = {}
    for condition in CONDITIONS[1:]:
        with_preference = np.array(right[condition], float)
        difference, low, high = mean_interval((with_preference - none).tolist())
        more: dict[str, object] = {
            "interval": wilson(int(with_preference.sum()), len(none)),
            "peer_is": "no memory",
            "peer_interval": wilson(int(none.sum()), len(none)),
            "difference": difference,
            "difference_interval": [low, high],
            "questions": len(none),
            "chance": 0.25,
        }
        if condition == "recalled":
            more["right_one_recalled"] = found
        cases[f"choice_{condition}"] = Case(float(with_preference.mean()), float(none.mean()), "share right", more)
    return cases


def wilson(hits: int, count: int, z: float = 1.959964) -> list[float]:
    """The 95 % score interval of a share (Wilson 1927). It holds the share, whatever rounding makes of its ends."""
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return [float(min(share, max(0.0, centre - half))), float(max(share, min(1.0, centre + half)))]


def _mean(values: Sequence[bool]) -> float:
    return float(np.mean(values))


def _default_folder() -> Path:
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise PenchantError(
            f"this benchmark needs PrefEval's data: set {DATA_VARIABLE} to the folder that holds prefeval/"
        )
    return Path(folder) / "prefeval"
