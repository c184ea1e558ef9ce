"""The engine's benchmarks run on the real model and measure what they say: both sides give the same words."""

from __future__ import annotations

import pytest

from edge_runtime.engine.sampling import Sampling
from edge_runtime.models.catalogue import find_model
from simulations.bench import adapters, decode, memory, prefix
from simulations.bench.raw_llama import RawLlama
from simulations.bench.setting import long_text, open_engine

pytestmark = pytest.mark.real_model


def no_progress(stage: str, fraction: float) -> None:
    """A benchmark's stages are of no interest here."""


def test_both_sides_write_the_same_words() -> None:
    model = find_model()
    with open_engine(model) as engine, RawLlama(model.path, context_tokens=256, threads=1) as raw:
        prompt = long_text(engine, 40)
        ours = "".join(engine.generate(prompt, max_tokens=1, sampling=Sampling(temperature=0.0)))
        assert engine.detokenise([raw.first_token(prompt)]) == ours
        assert len(long_text(engine, 1000)) == 1000


def test_every_case_of_the_contract_is_measured() -> None:
    cases = adapters.run(no_progress, repeats=3) | decode.run(no_progress, turns=1) | prefix.run(no_progress, repeats=1)
    assert set(cases) == {
        "set_mix", "warm_swap", "cold_load", "plain", "mixed_adapter", "beside_chats", "shared_1000", "restored_1000",
    }  # fmt: skip
    for name, case in cases.items():
        assert case.peer is not None and case.peer > 0, name
        assert case.ours > 0 or name == "warm_swap", name  # a difference, which noise may turn


def test_the_memory_of_a_chatting_process_is_its_own() -> None:
    (case,) = memory.run(no_progress).values()
    assert 100 < case.ours < 2000 and case.peer is None
