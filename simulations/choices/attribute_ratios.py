"""Attribute log-ratios of public or invented answers, computed once per machine (`answering/attributes.py`).

The model reads every answer once per attribute, seconds per choice. They lie under `$PENCHANT_CACHE/features`, one npz
per name and model, found by the digest of (request, answer), and are written down as they come: a run that was stopped
goes on where it was. The cache is not encrypted: no person's own words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.attributes import ATTRIBUTES, JUDGED_TOKENS, log_ratios
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import cache_folder

_PROMPTS_BETWEEN_WRITES: Final = 8


def cached_ratios(
    name: str,
    engine: Engine,
    asked: Sequence[tuple[str, Sequence[str]]],
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> list[NDArray[np.float64]]:
    """(answers, ATTRIBUTES) for each (request, answers)."""
    path = _path(name, engine.model.sha256)
    known = _read(path)
    results = []
    for done, (request, answers) in enumerate(asked):
        keys = [_key(request, answer) for answer in answers]
        if any(key not in known for key in keys):
            known |= dict(zip(keys, log_ratios(engine, request, answers), strict=True))
            if done % _PROMPTS_BETWEEN_WRITES == 0:
                _write(path, known)
        results.append(np.stack([known[key] for key in keys]))
        on_progress((done + 1) / len(asked))
    _write(path, known)
    return results


def _key(request: str, answer: str) -> str:
    return hashlib.sha256(f"{len(request)};{request}{answer}".encode()).hexdigest()


def _path(name: str, model_sha256: str) -> Path:
    sentences = "\n".join(one.sentence for one in ATTRIBUTES)
    digest = hashlib.sha256(f"{model_sha256};{JUDGED_TOKENS};{sentences}".encode()).hexdigest()
    return cache_folder() / "features" / f"{name}-attributes-{digest[:12]}.npz"


def _read(path: Path) -> dict[str, NDArray[np.float64]]:
    if not path.exists():
        return {}
    with np.load(path) as stored:
        return dict(zip(stored["keys"].tolist(), stored["rows"], strict=True))


def _write(path: Path, known: dict[str, NDArray[np.float64]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, keys=np.array(list(known)), rows=np.stack(list(known.values())))
