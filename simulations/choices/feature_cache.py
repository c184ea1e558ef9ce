"""Raw reward features of public texts, computed once per machine.

Reading a few thousand arguments takes the model minutes, and every table and seed needs the same ones. They lie under
`$PENCHANT_CACHE/features` (else the user's cache folder), one npz per name and source: a row for each (prompt, answer),
found by its digest, so order and selection do not matter. Other models, or another way to compute a source, are other
files. Work is written down every minute or so: a run that was stopped goes on where it was. Style costs nothing and is
computed each time. Public texts only: the cache is not encrypted.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from edge_runtime.engine.embedder import Embedder
from edge_runtime.engine.embedder_file import EMBEDDER_SHA256
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import cache_folder, find_model, write_atomically
from edge_runtime.reward.features import Pair, RewardFeatures
from protocol.errors import PenchantError
from protocol.feature_map import FEATURES_VERSION, SOURCES, Source
from simulations.stage_display import StageDisplay

_PAIRS_AT_ONCE: Final = 32
_SECONDS_BETWEEN_WRITES: Final = 60.0
_NAME: Final = re.compile(r"[a-z0-9_-]+")

Rows = dict[bytes, NDArray[np.float32]]  # the features of one source, by the digest of their pair


def cached_features(name: str, pairs: Sequence[Pair], sources: Sequence[Source] = SOURCES) -> NDArray[np.float32]:
    """(n, D) float32: what `RewardFeatures(...).of(pairs)` gives with the default models, which are loaded only if
    something is missing. `name` is the data set's, in lower case: it labels files and progress.
    """
    if not pairs:
        raise PenchantError("there are no texts to compute features of")
    if not _NAME.fullmatch(name):
        raise PenchantError("the name of a set of features has lower-case letters, digits, - and _ only")
    blocks = [_block(name, pairs, source) for source in SOURCES if source in sources]
    return np.concatenate(blocks, axis=1)


def _block(name: str, pairs: Sequence[Pair], source: Source) -> NDArray[np.float32]:
    """(n, width) of one source."""
    if source == "style":
        return RewardFeatures(None, None, ["style"]).of(pairs)
    model = find_model().sha256 if source == "hidden" else EMBEDDER_SHA256
    version = hashlib.sha256(f"{FEATURES_VERSION};{model}".encode()).hexdigest()[:12]
    path = cache_folder() / "features" / f"{name}-{source}-{version}.npz"
    keys = [_key(pair) for pair in pairs]
    rows = _read(path)
    missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in rows}
    if missing:
        with _opened(source) as features:
            _complete(path, rows, missing, features, f"{name}: {source} features")
    return np.stack([rows[key] for key in keys])


@contextmanager
def _opened(source: Source) -> Iterator[RewardFeatures]:
    if source == "hidden":
        with Engine.open(find_model(), context_tokens=256) as engine:
            yield RewardFeatures(engine, None, ["hidden"])
    else:
        with Embedder.open() as embedder:
            yield RewardFeatures(None, embedder, ["embedding"])


def _complete(path: Path, rows: Rows, missing: dict[bytes, Pair], features: RewardFeatures, stage: str) -> None:
    """Adds what is missing to `rows` and to the file, which another process may be extending too."""
    keys = list(missing)
    new: Rows = {}
    written = time.monotonic()
    with StageDisplay(Console(stderr=True)) as progress:
        progress(stage, 0.0)
        for start in range(0, len(keys), _PAIRS_AT_ONCE):
            chunk = keys[start : start + _PAIRS_AT_ONCE]
            new.update(zip(chunk, features.of([missing[key] for key in chunk]), strict=True))
            done = start + len(chunk)
            if done == len(keys) or time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                _write(path, _read(path) | new)
                written = time.monotonic()
            progress(stage, done / len(keys))
    rows.update(new)


def _key(pair: Pair) -> bytes:
    prompt, answer = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in pair)
    return hashlib.sha256(prompt + answer).digest()


def _read(path: Path) -> Rows:
    """What the file holds; nothing if there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return {bytes(key): row for key, row in zip(held["keys"], held["rows"], strict=True)}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return {}


def _write(path: Path, rows: Rows) -> None:
    buffer = io.BytesIO()
    keys = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
    np.savez(buffer, keys=keys, rows=np.stack(list(rows.values())))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PenchantError("cannot create the cache folder: set PENCHANT_CACHE to a writable folder") from error
    write_atomically(path, buffer.getvalue())
