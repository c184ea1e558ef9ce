"""`penchant bench prefix`: the first token after a 1,000-token prefix that another person has already had read.

Two people with different adapters ask about the same 1,000 tokens. With activated adapters the prefix is read once, by
the base model, and both questions continue from it; the peer, bare llama.cpp, reads prefix and question again because
its cache is wrong under the other adapter. `restored` is a prefix read from the encrypted state on disk.
"""

from __future__ import annotations

import statistics
import tempfile
from itertools import cycle
from pathlib import Path

from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.state_store import StateStore
from edge_runtime.models.catalogue import find_model
from edge_runtime.store.vault import Vault
from simulations.bench.case import Case
from simulations.bench.raw_llama import RawLlama
from simulations.bench.runner import OnProgress, timed_milliseconds
from simulations.bench.setting import CONTEXT_TOKENS, THREADS, long_text, open_engine, random_adapter

_PREFIX_TOKENS = 1000
_QUESTION = "What did the people by the sea drink in the morning?"


def run(on_progress: OnProgress, repeats: int = 7) -> dict[str, Case]:
    """Milliseconds to the first token."""
    model = find_model()
    made = [random_adapter(model, seed) for seed in range(2)]
    with (
        tempfile.TemporaryDirectory() as folder,
        open_engine(model) as engine,
        RawLlama(model.path, context_tokens=CONTEXT_TOKENS, threads=THREADS) as raw,
    ):
        prefix = long_text(engine, _PREFIX_TOKENS)
        prompt = prefix + engine.tokenise(engine.chat_prompt([ChatMessage("user", _QUESTION)]))
        people = cycle([[(engine.load_adapter(data, sha256=digest), 1.0)] for data, digest in made])
        _ask(engine, next(people), prompt)
        ours, peer, restored = [], [], []
        with Vault.open(Path(folder), bytes(32)) as vault:
            store = StateStore(vault, Path(folder) / "states", 1 << 28)
            engine.use_adapters([])
            engine.save_prefix(store, prefix)
            for turn in range(repeats):
                ours.append(timed_milliseconds(lambda: _ask(engine, next(people), prompt)))
                peer.append(timed_milliseconds(lambda: raw.first_token(prompt)))
                with open_engine(model) as fresh:
                    restored.append(timed_milliseconds(lambda other=fresh: _restore(other, store, prefix, prompt)))  # type: ignore[misc]
                on_progress("first tokens", (turn + 1) / repeats)
    reading = statistics.median(peer)
    more = {"prompt_tokens": len(prompt), "repeats": repeats}
    return {
        "shared_1000": Case(statistics.median(ours), reading, "ms", more),
        "restored_1000": Case(statistics.median(restored), reading, "ms", more),
    }


def _ask(engine: Engine, adapters: list, prompt: list[int]) -> None:  # type: ignore[type-arg]
    engine.use_adapters(adapters, activation="answer")
    _first(engine, prompt)


def _restore(engine: Engine, store: StateStore, prefix: list[int], prompt: list[int]) -> None:
    engine.restore_prefix(store, prefix)
    _first(engine, prompt)


def _first(engine: Engine, prompt: list[int]) -> None:
    for _ in engine.generate(prompt, max_tokens=1):
        pass
