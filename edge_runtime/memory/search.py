"""Finding memories for a question: arrays of evidence (words, meaning, dates, speaker), one score, the best few.

All memories are scored, none is cut off beforehand: a word's rows come from the FTS5 index, one query per telling word,
and the cosines from one matrix product (ranking.py has the formula, windows.py how passages read their neighbours).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.memory import ranking
from edge_runtime.memory.query import Query, read_query
from edge_runtime.memory.table import MemoryTable
from edge_runtime.memory.windows import spread
from edge_runtime.store.vault import Vault

Floats = NDArray[np.float32]
Embed = Callable[[list[str]], Floats]

_POOL = 20  # candidates per memory wanted, among which repetitions are looked for


@dataclass(frozen=True)
class Request:
    """What to look for; `today` and `as_of` (None: now) are proleptic ordinals of days."""

    text: str
    k: int
    today: int
    as_of: int | None
    rankers: frozenset[str]
    floor: float
    kinds: frozenset[str]


@dataclass(frozen=True)
class Found:
    """A memory's id, its score, its rank in each ranking, and its own cosine if a dense search was made."""

    memory_id: int
    score: float
    ranks: dict[str, int]
    similarity: float | None


def search(vault: Vault, table: MemoryTable, embed: Embed, request: Request) -> list[Found]:
    """The at most `k` memories of the up-to-date `table` that matter for the request, best first."""
    query = read_query(request.text, table.speaker_names, table.years)
    visible = _visible(table, query, request)
    ages = ranking.age_ranks(table.days, request.today)
    values: dict[str, Floats] = {}
    relevance = np.zeros(len(table), np.float32)
    own = None
    if request.rankers == {"recency"}:
        relevant = np.flatnonzero(visible)
        score = (1.0 / ages).astype(np.float32)
    else:
        if not query.text.strip() or not visible.any():
            return []
        named = _in_company_of(table, query)
        if "bm25" in request.rankers:
            values["bm25"] = _coverage(vault, table, query, visible, named)
            relevance += values["bm25"] * (ranking.LEXICAL if "dense" in request.rankers else 1.0)
        if "dense" in request.rankers:
            own = _cosines(table, embed, query, visible, named)
            around = spread(np.maximum(own, 0), table.around)
            values["dense"] = ranking.OWN_COSINE * own + ranking.WINDOW_COSINE * around
            relevance += values["dense"]
        relevance += ranking.PERIOD * ranking.nearness(table.days, query.periods)
        relevant = np.flatnonzero(visible & (relevance >= request.floor))
        score = relevance - ranking.ASKING * (table.passages & table.asking)
        if query.speaker is not None:
            score += ranking.SPEAKER * (table.speakers == table.speaker_names.index(query.speaker))
        if "recency" in request.rankers:
            ages[relevant] = ranking.age_ranks(table.days[relevant], request.today)
            score[relevant] += ranking.RECENCY / ages[relevant]
    if "recency" in request.rankers:
        values["recency"] = -ages.astype(np.float32)
    best_first = relevant[np.lexsort((-table.ids[relevant], -score[relevant]))].tolist()
    if own is not None:
        best_first = ranking.diverse_order(best_first[: _POOL * request.k], table.matrix, request.k)
    places = {name: ranking.ranks(value[relevant]) for name, value in values.items()}
    return [
        Found(
            int(table.ids[row]),
            float(score[row]),
            {name: int(rank[np.searchsorted(relevant, row)]) for name, rank in places.items()},
            None if own is None else float(own[row]),
        )
        for row in best_first[: request.k]
    ]


def _visible(table: MemoryTable, query: Query, request: Request) -> NDArray[np.bool_]:
    """Which rows may be shown: of the kinds asked for, and valid on the day asked for. Now, what no longer holds is
    shown to questions about the past only."""
    passage, statement = "passage" in request.kinds, "statement" in request.kinds
    shown = np.where(table.passages, passage, statement)
    if request.as_of is not None:
        return shown & (table.days <= request.as_of) & (table.until > request.as_of)
    return shown if query.about_past else shown & (table.until > request.today)


def _in_company_of(table: MemoryTable, query: Query) -> NDArray[np.bool_]:
    """Passages of the documents in which a named speaker takes part. There the name says whose turns are asked for,
    while the word itself stands in the turns of the others, who address them by it."""
    codes = [table.speaker_names.index(name) for name in query.named]
    theirs = np.unique(table.documents[np.isin(table.speakers, codes)])
    return table.passages & np.isin(table.documents, theirs[theirs > 0])


def _coverage(
    vault: Vault, table: MemoryTable, query: Query, visible: NDArray[np.bool_], named: NDArray[np.bool_]
) -> Floats:
    """Share (n,) of the telling words, by weight, that each visible row or its neighbours hold; for rows in `named`
    the names do not count, unless there is nothing else."""
    count = int(visible.sum())
    all_words = other_words = np.zeros(len(table), np.float32)
    all_weight = other_weight = 0.0
    for word in query.words:
        present = np.zeros(len(table), np.float32)
        present[_rows_holding(vault, table, f'cue : "{word}"')] = ranking.CUE_PRESENCE
        present[_rows_holding(vault, table, f'text : "{word}"')] = 1.0
        present[~visible] = 0.0
        weight = ranking.word_weight(count, int(np.count_nonzero(present > 0)))
        held = weight * spread(present, table.around)
        all_words, all_weight = all_words + held, all_weight + weight
        if word not in query.name_words:
            other_words, other_weight = other_words + held, other_weight + weight
    if not other_weight:
        other_words, other_weight = all_words, all_weight
    return np.where(named, other_words / max(other_weight, 1e-9), all_words / max(all_weight, 1e-9)).astype(np.float32)


def _rows_holding(vault: Vault, table: MemoryTable, expression: str) -> NDArray[np.int64]:
    """Rows of `table` that match the FTS5 `expression`."""
    # one string instead of thousands of Python rows
    (joined,) = vault.connection.execute(
        "SELECT group_concat(rowid) FROM memory_index WHERE memory_index MATCH ?", (expression,)
    ).fetchone()
    if not joined:
        return np.empty(0, np.int64)
    ids: NDArray[np.int64] = np.fromstring(joined, np.int64, sep=",")
    rows = np.minimum(np.searchsorted(table.ids, ids), len(table) - 1)
    known: NDArray[np.int64] = rows[table.ids[rows] == ids]
    return known  # another process may have added some in between


def _cosines(
    table: MemoryTable, embed: Embed, query: Query, visible: NDArray[np.bool_], named: NDArray[np.bool_]
) -> Floats:
    """Cosine (n,) of every visible row with the question, 0 for the others; for rows in `named`, with the question
    without the names."""
    texts = [query.text, query.text_without_names] if named.any() else [query.text]
    cosines = table.matrix @ embed(texts).T  # (n, 1 or 2)
    return np.where(visible, np.where(named, cosines[:, -1], cosines[:, 0]), 0.0).astype(np.float32)
