"""`penchant bench adapters`: what it costs to answer as somebody else.

set_mix: other scales for three loaded adapters, the call alone; peer: the same call in bare llama.cpp.
warm_swap: two people's adapters are loaded and each has a conversation of 300 tokens open; how much later than a steady
token the first token after a change of person comes. Peer: bare llama.cpp, whose cache is wrong under another adapter,
so that the conversation is read again (llama-server does the same).
cold_load: from the encrypted file to an adapter in use; peer: bare llama.cpp from a plain file.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from edge_runtime.adapters.log import AdapterLog
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import find_model
from edge_runtime.store.vault import Vault
from simulations.bench.case import Case
from simulations.bench.raw_llama import RawLlama
from simulations.bench.runner import OnProgress, median_milliseconds, timed_milliseconds
from simulations.bench.setting import CONTEXT_TOKENS, THREADS, long_text, open_engine, random_adapter

_CONVERSATION_TOKENS = 300


def run(on_progress: OnProgress, repeats: int = 30) -> dict[str, Case]:
    """The three cases in milliseconds."""
    model = find_model()
    made = [random_adapter(model, seed) for seed in range(3)]
    with (
        tempfile.TemporaryDirectory() as folder,
        open_engine(model) as engine,
        RawLlama(model.path, context_tokens=CONTEXT_TOKENS, threads=THREADS) as raw,
    ):
        paths = []
        for index, (data, _) in enumerate(made):
            paths.append(Path(folder) / f"{index}.gguf")
            paths[-1].write_bytes(data)
        cases = {"set_mix": _set_mix(engine, raw, made, paths, repeats)}
        on_progress("changing a mix", 1.0)
        cases["warm_swap"] = _warm_swap(engine, raw, made, paths, repeats)
        on_progress("changing the person", 1.0)
        cases["cold_load"] = _cold_load(engine, raw, Path(folder), repeats)
        on_progress("loading from the encrypted file", 1.0)
    return cases


def _set_mix(engine: Engine, raw: RawLlama, made: list[tuple[bytes, str]], paths: list[Path], repeats: int) -> Case:
    ours = [engine.load_adapter(data, sha256=digest) for data, digest in made]
    peers = [raw.load_adapter(path) for path in paths]
    mixes: Iterator[tuple[float, ...]] = cycle([(0.5, 0.3, 0.2), (0.1, 0.6, 0.3)])
    case = Case(
        median_milliseconds(lambda: engine.use_adapters(list(zip(ours, next(mixes), strict=True))), repeats),
        median_milliseconds(lambda: raw.set_adapters(list(zip(peers, next(mixes), strict=True))), repeats),
        "ms",
    )
    engine.use_adapters([])
    raw.set_adapters([])
    return case


def _warm_swap(engine: Engine, raw: RawLlama, made: list[tuple[bytes, str]], paths: list[Path], repeats: int) -> Case:
    text = long_text(engine, _CONVERSATION_TOKENS)
    people = cycle([[(engine.load_adapter(data, sha256=digest), 1.0)] for data, digest in made[:2]])
    for _ in range(2):  # both conversations are open
        engine.use_adapters(next(people))
        _first_token(engine, text)

    def swap() -> None:
        engine.use_adapters(next(people))
        _first_token(engine, text)

    steady = median_milliseconds(lambda: _first_token(engine, text), repeats)
    ours = statistics.median(timed_milliseconds(swap) for _ in range(repeats)) - steady
    peers = cycle([[(raw.load_adapter(path), 1.0)] for path in paths[:2]])

    def swap_raw() -> None:
        raw.set_adapters(next(peers))
        raw.first_token(text)

    peer_repeats = max(3, repeats // 6)
    peer = statistics.median(timed_milliseconds(swap_raw) for _ in range(peer_repeats)) - steady
    engine.use_adapters([])
    raw.set_adapters([])
    return Case(ours, peer, "ms", {"steady_token": steady, "conversation_tokens": _CONVERSATION_TOKENS})


def _cold_load(engine: Engine, raw: RawLlama, folder: Path, repeats: int) -> Case:
    model = find_model()
    ours, peer = [], []
    with Vault.open(folder / "home", bytes(range(32))) as vault:
        log = AdapterLog(vault)
        for seed in range(100, 100 + max(3, repeats // 3)):
            data, digest = random_adapter(model, seed)
            log.install(data, note="bench")
            plain = folder / f"{seed}.gguf"
            plain.write_bytes(data)

            def load(wanted: str = digest) -> None:
                live = log.live()
                assert live is not None
                engine.use_adapters([(engine.load_adapter(live[1], sha256=wanted), 1.0)])

            ours.append(timed_milliseconds(load))
            peer.append(timed_milliseconds(lambda path=plain: raw.set_adapters([(raw.load_adapter(path), 1.0)])))  # type: ignore[misc]
    engine.use_adapters([])
    raw.set_adapters([])
    return Case(statistics.median(ours), statistics.median(peer), "ms", {"adapter_bytes": len(data)})


def _first_token(engine: Engine, tokens: list[int]) -> None:
    for _ in engine.generate(tokens, max_tokens=1):
        pass
