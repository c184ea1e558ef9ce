"""How much of the evidence for a question `Memory.recall` finds in long chats: `recall_at_5`, `recall_at_10`.

Data: LoCoMo (simulations/datasets/locomo.py). Every chat is one encrypted memory of its own; every turn is stored as a
passage with its session as document, its place, its speaker and the session's date, and embedded by the product's
embedder.

Measure: the share of a question's evidence turns that is among the first k memories found, mean over all questions that
name evidence, of all five categories (the unanswerable ones name the turns they twist). A turn is one memory: finding
its neighbour counts nothing.

Peer: plain BM25 over single turns as `rank_bm25.BM25Okapi` computes it (Robertson and Zaragoza 2009, k1 = 1.5,
b = 0.75; words in lower case, no stemming, no stop words; a negative inverse document frequency becomes a quarter of
the mean one). Ablations in `more`: the product without windows (no neighbours), without dense vectors, without words,
without speakers, and BM25 by SQLite's FTS5 with our stemming and stop words, a stronger baseline.

The method was tuned on the first three chats by file name (`chats="tuning"`) and is reported on the others. Intervals
are 95 % bootstrap intervals of the difference: questions drawn with replacement within each chat.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from edge_runtime.memory import windows
from edge_runtime.memory.memory import Memory, TextEmbedder
from edge_runtime.memory.query import telling_words
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from simulations.bench.case import Case
from simulations.datasets.locomo import CATEGORIES, Chat, load_chats
from simulations.datasets.writing import DATA_VARIABLE

OnProgress = Callable[[str, float], None]  # what is being done, and which share of it
Recalls = NDArray[np.float64]  # (questions, len(DEPTHS))
Search = Callable[[str], Sequence[int]]  # a question -> places of the turns found, best first

DEPTHS: Final = (5, 10)
_K1, _B, _EPSILON = 1.5, 0.75, 0.25
_RESAMPLES, _SEED = 10_000, 20
_WORD = re.compile(r"\w+")


def run(
    data: Path | None = None,
    *,
    chats: str = "report",
    embedder: TextEmbedder | None = None,
    on_progress: OnProgress = lambda stage, share: None,
) -> dict[str, Case]:
    """The two cases in %, ours against plain BM25, over `chats` ("report" or "tuning") of the LoCoMo folder `data`
    (None: `locomo` under PENCHANT_DATA). `embedder` None is the product's."""
    loaded = load_chats(data or _default_folder(), chats)
    embedder = _Remembering(embedder or _product_embedder())
    results: dict[str, list[Recalls]] = {}
    for number, chat in enumerate(loaded):
        on_progress(f"searching {chat.name}", number / len(loaded))
        for name, recalls in _recalls_of(chat, embedder).items():
            results.setdefault(name, []).append(recalls)
    on_progress("searching", 1.0)
    return {f"recall_at_{depth}": _case(loaded, results, column) for column, depth in enumerate(DEPTHS)}


def evidence_recall(chat: Chat, search: Search) -> Recalls:
    """Share of the evidence of every question that is among the first `DEPTHS` turns that `search` finds."""
    places = {turn.id: place for place, turn in enumerate(chat.turns)}
    rows = []
    for question in chat.questions:
        found, evidence = search(question.text), {places[turn] for turn in question.evidence}
        rows.append([len(evidence & set(found[:depth])) / len(evidence) for depth in DEPTHS])
    return np.array(rows).reshape(-1, len(DEPTHS))


def plain_bm25(texts: Sequence[str]) -> Search:
    """Okapi BM25 over `texts`, as rank_bm25 computes it; all of them, best first, equal scores in their order."""
    documents = [Counter(_WORD.findall(text.lower())) for text in texts]
    lengths = np.array([document.total() for document in documents], float)
    holding = Counter(word for document in documents for word in document)
    weights = {word: math.log((len(texts) - n + 0.5) / (n + 0.5)) for word, n in holding.items()}
    least = _EPSILON * sum(weights.values()) / max(len(weights), 1)
    penalty = _K1 * (1 - _B + _B * lengths / lengths.mean())

    def search(question: str) -> list[int]:
        score = np.zeros(len(texts))
        for word in _WORD.findall(question.lower()):
            if word in weights:
                weight = weights[word] if weights[word] >= 0 else least
                frequency = np.array([document[word] for document in documents], float)
                score += weight * frequency * (_K1 + 1) / (frequency + penalty)
        return [int(place) for place in np.argsort(-score, kind="stable")]

    return search


class _Remembering:
    """An embedder that embeds every text once: the ablations ask for the same."""

    def __init__(self, embedder: TextEmbedder) -> None:
        self._embedder = embedder
        self.dimension = embedder.dimension
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._embedder.embed(new), strict=True))
        return np.stack([self._known[text] for text in texts])


def _recalls_of(chat: Chat, embedder: TextEmbedder) -> dict[str, Recalls]:
    found = {"plain BM25": evidence_recall(chat, plain_bm25([turn.text for turn in chat.turns]))}
    with tempfile.TemporaryDirectory() as folder, Vault.open(Path(folder), os.urandom(32)) as vault:
        memory = Memory(vault, embedder)
        place_of = {item.id: place for place, item in enumerate(memory.remember_many(chat.statements()))}

        def recall(*rankers: str) -> Search:
            return lambda question: [
                place_of[recalled.item.id] for recalled in memory.recall(question, k=max(DEPTHS), rankers=rankers)
            ]

        def bm25(question: str) -> list[int]:
            rows = vault.connection.execute(
                "SELECT rowid FROM memory_index WHERE memory_index MATCH ? ORDER BY bm25(memory_index), rowid LIMIT ?",
                (" OR ".join(f'"{word}"' for word in telling_words(question)) or '""', max(DEPTHS)),
            )
            return [place_of[memory_id] for (memory_id,) in rows]

        found["ours"] = evidence_recall(chat, recall("bm25", "dense", "recency"))
        found["without dense"] = evidence_recall(chat, recall("bm25", "recency"))
        found["without words"] = evidence_recall(chat, recall("dense", "recency"))
        found["FTS5 BM25"] = evidence_recall(chat, bm25)
        with patch.object(windows, "REACH", 0):
            memory = Memory(vault, embedder)
            found["without windows"] = evidence_recall(chat, recall("bm25", "dense", "recency"))
    with tempfile.TemporaryDirectory() as folder, Vault.open(Path(folder), os.urandom(32)) as vault:
        memory = Memory(vault, embedder)
        silent = [replace(statement, speaker="") for statement in chat.statements()]
        place_of = {item.id: place for place, item in enumerate(memory.remember_many(silent))}
        found["without speakers"] = evidence_recall(chat, recall("bm25", "dense", "recency"))
    return found


def _case(chats: Sequence[Chat], results: dict[str, list[Recalls]], column: int) -> Case:
    percent = {name: [100 * recalls[:, column] for recalls in rows] for name, rows in results.items()}
    ours, peer = percent["ours"], percent["plain BM25"]
    difference = [a - b for a, b in zip(ours, peer, strict=True)]
    low, high = _interval(difference)
    categories = [question.category for chat in chats for question in chat.questions]
    return Case(
        float(np.concatenate(ours).mean()),
        float(np.concatenate(peer).mean()),
        "%",
        {
            "difference": float(np.concatenate(difference).mean()),
            "difference_low": low,
            "difference_high": high,
            "chats": len(chats),
            "turns": sum(len(chat.turns) for chat in chats),
            "questions": len(categories),
            "peer_is": "BM25 over single turns, as rank_bm25",
            "ablations": {
                name: float(np.concatenate(values).mean())
                for name, values in percent.items()
                if name not in ("ours", "plain BM25")
            },
            "by_chat": {
                chat.name: [float(a.mean()), float(b.mean())] for chat, a, b in zip(chats, ours, peer, strict=True)
            },
            "by_category": {
                label: [
                    float(np.mean(np.concatenate(values)[np.array(categories) == category])) for values in (ours, peer)
                ]
                for category, label in CATEGORIES.items()
                if category in categories
            },
            "seed": _SEED,
        },
    )


def _interval(differences: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over all questions, drawn with replacement within each chat."""
    random = np.random.default_rng(_SEED)
    sums = sum(
        values[random.integers(len(values), size=(_RESAMPLES, len(values)))].sum(axis=1) for values in differences
    )
    low, high = np.percentile(np.asarray(sums) / sum(map(len, differences)), [2.5, 97.5])
    return float(low), float(high)


def _product_embedder() -> TextEmbedder:
    from edge_runtime.engine.embedder import Embedder  # loads llama.cpp

    embedder: TextEmbedder = Embedder.open()
    return embedder


def _default_folder() -> Path:
    if not (data := os.environ.get(DATA_VARIABLE)):
        raise PenchantError(f"Set {DATA_VARIABLE} to the folder that holds the data: it needs locomo/Chat_*.json.")
    return Path(data) / "locomo"
