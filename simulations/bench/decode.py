"""`penchant bench decode`: tokens per second while answering, against a bare llama.cpp loop.

plain: no adapter. mixed_adapter: one adapter of a fleet's shape in use on our side, none on the peer's: what a personal
model costs. Both write the same number of tokens after the same prompt, alternately, each time as the only conversation
that is held; medians over the turns. beside_chats: the same with three other chats of 300 tokens each held by the
model, whose cells the attention runs over.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.sampling import Sampling
from edge_runtime.models.catalogue import find_model
from simulations.bench.case import Case
from simulations.bench.raw_llama import RawLlama
from simulations.bench.runner import OnProgress
from simulations.bench.setting import CONTEXT_TOKENS, THREADS, long_text, open_engine, random_adapter

_PROMPT_TOKENS, _ANSWER_TOKENS, _OTHER_TOKENS = 64, 96, 300


def run(on_progress: OnProgress, turns: int = 9) -> dict[str, Case]:
    """All cases in tokens per second."""
    model = find_model()
    with open_engine(model) as engine, RawLlama(model.path, context_tokens=CONTEXT_TOKENS, threads=THREADS) as raw:
        prompt = long_text(engine, _PROMPT_TOKENS)
        data, digest = random_adapter(model, 0)
        adapter = engine.load_adapter(data, sha256=digest)
        cases = {}
        others = [long_text(engine, _OTHER_TOKENS + shift)[shift:] for shift in (11, 22, 33)]
        for name, pairs, held in (
            ("plain", [], []),
            ("mixed_adapter", [(adapter, 1.0)], []),
            ("beside_chats", [], others),
        ):
            engine.use_adapters(pairs)
            ours, peer = [], []
            for turn in range(turns + 1):
                # the first turn warms both up
                rates = _rate(partial(_ours, engine, prompt, held)), _rate(partial(_raw, raw, prompt))
                if turn:
                    ours.append(rates[0])
                    peer.append(rates[1])
                on_progress(name, (turn + 1) / (turns + 1))
            cases[name] = Case(statistics.median(ours), statistics.median(peer), "tokens/s", {"turns": turns})
        return cases


def _rate(answer: Callable[[], tuple[int, float]]) -> float:
    count, seconds = answer()
    return count / seconds


def _ours(engine: Engine, prompt: list[int], others: Sequence[list[int]]) -> tuple[int, float]:
    """(tokens after the first, seconds they took): the clock starts with the first piece; the prompt is not meant."""
    engine.forget_texts()
    for other in others:
        next(engine.generate(other, max_tokens=1))
    pieces = engine.generate(prompt, max_tokens=_ANSWER_TOKENS, sampling=Sampling(temperature=0.0))
    next(pieces)
    started = time.perf_counter()
    count = sum(1 for _ in pieces)
    return count, time.perf_counter() - started


def _raw(raw: RawLlama, prompt: list[int]) -> tuple[int, float]:
    raw.read(prompt)
    raw.generate(1)
    started = time.perf_counter()
    raw.generate(_ANSWER_TOKENS - 1)
    return _ANSWER_TOKENS - 1, time.perf_counter() - started
