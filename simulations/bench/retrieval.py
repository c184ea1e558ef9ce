"""How long a search over a large encrypted memory takes: `hybrid_20k`.

A vault in a temporary folder holds `chunks` passages of 60 words drawn from 5,000 invented words by Zipf's law
(seeded; documents of 50), with random unit vectors of MiniLM's length: a matrix product costs the same whatever is in
it. A query is five words of one of the passages, and its vector is random too, so the time is that of the search and
not of the embedding model. One thread. The peer is FTS5's own BM25 over the same table and the same words, best ten.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from simulations.bench.case import Case

OnProgress = Callable[[str, float], None]  # what is being done, and which share of it

_DIMENSION = 384
_WORDS, _WORDS_PER_CHUNK, _WORDS_PER_QUERY, _CHUNKS_PER_DOCUMENT = 5_000, 60, 5, 50
_FOUND = 10
_SEED = 20
_BATCH = 2_000


class RandomEmbedder:
    """Unit vectors (n, 384) without meaning, drawn anew for every text."""

    dimension = _DIMENSION

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = self._random.standard_normal((len(texts), _DIMENSION)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def run(
    chunks: int = 20_000, queries: int = 50, *, on_progress: OnProgress = lambda stage, share: None
) -> dict[str, Case]:
    """`hybrid_20k`: median milliseconds of `Memory.recall` over `chunks` encrypted passages, and of BM25 alone."""
    if chunks < 1 or queries < 1:
        raise PenchantError("The benchmark of retrieval needs at least one chunk and one query.")
    random = np.random.default_rng(_SEED)
    texts = _texts(random, chunks)
    with tempfile.TemporaryDirectory() as folder, Vault.open(Path(folder), random.bytes(32)) as vault:
        memory = Memory(vault, RandomEmbedder(_SEED))
        for start in range(0, chunks, _BATCH):
            memory.remember_many(
                Statement(
                    texts[index],
                    said_at="2025-01-01",
                    source="bench",
                    kind="passage",
                    document=f"document {index // _CHUNKS_PER_DOCUMENT}",
                    position=index % _CHUNKS_PER_DOCUMENT,
                )
                for index in range(start, min(start + _BATCH, chunks))
            )
            on_progress("storing chunks", min(start + _BATCH, chunks) / chunks)
        begun = time.perf_counter()
        memory.recall("warm", k=_FOUND)
        first = time.perf_counter() - begun
        ours, peer, found = [], [], 0
        for number in range(queries):
            on_progress("searching", number / queries)
            words = random.choice(texts[int(random.integers(chunks))].split(), _WORDS_PER_QUERY, replace=False)
            begun = time.perf_counter()
            found += len(memory.recall(" ".join(words), k=_FOUND))
            ours.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            vault.connection.execute(
                "SELECT rowid FROM memory_index WHERE memory_index MATCH ? ORDER BY bm25(memory_index) LIMIT ?",
                (" OR ".join(f'"{word}"' for word in words), _FOUND),
            ).fetchall()
            peer.append(time.perf_counter() - begun)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    more = {
        "peer_is": "FTS5 bm25 alone, same table and words",
        "vectors": f"random, {_DIMENSION} dimensions",
        "chunks": chunks,
        "queries": queries,
        "found_mean": found / queries,
        "ours_90_percentile_ms": 1000 * float(np.percentile(ours, 90)),
        "first_search_ms": 1000 * first,
        "file_megabytes": size / 1e6,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "seed": _SEED,
    }
    return {"hybrid_20k": Case(1000 * float(np.median(ours)), 1000 * float(np.median(peer)), "ms", more)}


def _texts(random: np.random.Generator, chunks: int) -> list[str]:
    """`chunks` texts of invented words, the r-th most frequent with probability proportional to 1 / (r + 10)."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = np.array(
        [syllables[i // 70 % 70] + syllables[i % 70] + syllables[(i * 37 + 11) % 70] for i in range(_WORDS)]
    )
    probability = 1 / (np.arange(_WORDS) + 10)
    drawn = random.choice(words, (chunks, _WORDS_PER_CHUNK), p=probability / probability.sum())
    return [" ".join(row) for row in drawn]
