"""Answers that grow side by side: the same tokens as one at a time, room given back, and composed logits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edge_runtime.engine.engine import BRANCHES, Engine, Sampling
from edge_runtime.engine.sampling import Sampler
from edge_runtime.engine.together import Rewards, candidates, composed_answer, guided_answer
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import load_factors, open_tiny, random_factors, random_tokens

HOT = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("generation")) as opened:
        yield opened


def finished(engine: Engine, prompt: list[int], samplings: list[Sampling], *, max_tokens: int) -> list[str]:
    steps = candidates(engine, prompt, samplings, max_tokens=max_tokens)
    while True:
        try:
            assert next(steps) == ""
        except StopIteration as end:
            return ["".join(pieces) for pieces in end.value]


def alone(engine: Engine, prompt: list[int], sampling: Sampling, max_tokens: int) -> str:
    return "".join(engine.generate(prompt, max_tokens=max_tokens, sampling=sampling))


def test_candidates_are_the_answers_that_each_sampling_gives_alone(engine: Engine) -> None:
    prompt = random_tokens(0, 40)
    samplings = [Sampling(), *(Sampling(temperature=0.7, seed=seed) for seed in range(5))]
    together = finished(engine, prompt, samplings, max_tokens=12)
    assert together == [alone(engine, prompt, sampling, 12) for sampling in samplings]
    assert len(set(together)) > 2


def test_the_prompt_is_evaluated_once_and_a_step_evaluates_one_token_each(engine: Engine) -> None:
    engine.forget_texts()
    before = engine._generation_sequences().evaluated
    finished(engine, random_tokens(1, 50), [Sampling(temperature=1.0, seed=seed) for seed in range(4)], max_tokens=6)
    evaluated = engine._generation_sequences().evaluated - before
    assert 50 < evaluated <= 50 + 4 * 5


def test_candidates_come_in_turns_where_the_context_has_no_room_for_all(engine: Engine) -> None:
    prompt = random_tokens(2, 300)  # of 512 cells: two answers of 100 tokens fit beside it
    samplings = [Sampling(temperature=0.7, seed=seed) for seed in range(5)]
    texts = finished(engine, prompt, samplings, max_tokens=100)
    assert len(texts) == 5
    assert texts[-1] == alone(engine, prompt, samplings[-1], 100)


def test_everything_is_given_back_when_an_answer_is_broken_off(engine: Engine) -> None:
    for _ in range(3):
        steps = candidates(engine, random_tokens(3, 20), [HOT] * BRANCHES, max_tokens=50)
        next(steps)
        steps.close()
    assert len(engine._generation_sequences()._free) == BRANCHES
    assert all(not branch.entries for branch in engine._generation_sequences()._free)


def test_an_engine_that_is_used_for_something_else_says_so(engine: Engine) -> None:
    steps = candidates(engine, random_tokens(4, 20), [HOT, HOT], max_tokens=50)
    next(steps)
    alone(engine, random_tokens(5, 20), Sampling(), 2)
    with pytest.raises(PenchantError, match="something else"):
        list(steps)


def test_composing_by_the_first_row_alone_changes_nothing(engine: Engine) -> None:
    prompt = random_tokens(6, 30)
    other = [*prompt[:20], *random_tokens(7, 15)]
    pieces = composed_answer(engine, prompt, [other], lambda logits: logits[0], max_tokens=10, sampling=Sampling())
    assert "".join(pieces) == alone(engine, prompt, Sampling(), 10)


def test_composing_by_another_row_writes_what_that_prompt_would(engine: Engine) -> None:
    prompt, other = random_tokens(8, 30), random_tokens(9, 25)
    sampling = Sampling(temperature=0.5, repeat_penalty=1.1, seed=3)
    pieces = composed_answer(engine, prompt, [other], lambda logits: logits[1], max_tokens=10, sampling=sampling)
    assert "".join(pieces) == alone(engine, other, sampling, 10)


def test_a_shared_beginning_is_evaluated_once(engine: Engine) -> None:
    engine.forget_texts()
    shared = random_tokens(10, 60)
    prompts = [[*shared, *random_tokens(seed, 5)] for seed in range(11, 15)]
    before = engine._generation_sequences().evaluated
    list(
        composed_answer(
            engine, prompts[0], prompts[1:], lambda logits: logits.sum(axis=0), max_tokens=3, sampling=Sampling()
        )
    )
    assert engine._generation_sequences().evaluated - before <= 60 + 4 * 5 + 2 * 4


def test_adapters_act_on_every_text_that_grows(engine: Engine) -> None:
    prompt = random_tokens(20, 20)
    adapter = load_factors(engine, random_factors(1, size=1.0), alpha=8)
    plain = finished(engine, prompt, [Sampling()], max_tokens=8)
    engine.use_adapters([(adapter, 1.0)])
    try:
        adapted = finished(engine, prompt, [Sampling()], max_tokens=8)
        assert adapted == [alone(engine, prompt, Sampling(), 8)]
        assert adapted != plain
    finally:
        engine.use_adapters([])


def test_what_cannot_fit_is_refused(engine: Engine) -> None:
    with pytest.raises(PenchantError, match="shorten the prompt"):
        list(candidates(engine, random_tokens(0, 600), [HOT], max_tokens=5))
    others = [random_tokens(seed, 120) for seed in range(4)]
    with pytest.raises(PenchantError, match="larger context"):
        composed_answer(
            engine, random_tokens(9, 120), others, lambda logits: logits[0], max_tokens=5, sampling=Sampling()
        )


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.9, seed=5), Sampling(repeat_penalty=1.3)])
def test_given_logits_are_sampled_as_llama_cpp_samples_its_own(engine: Engine, sampling: Sampling) -> None:
    sequences = engine._generation_sequences()
    context, size = sequences.context.pointer, sequences.context.vocabulary_size
    with Sampler(sampling, context, size) as own, Sampler(sampling, context, size) as given:
        for seed in range(20, 30):
            engine.forget_texts()
            sequences.fill(engine._in_use.segments(random_tokens(seed, 10)))
            logits = np.array(sequences.context.logits(1)[0])
            assert own.choose(-1) == given.choose_from(logits)


def guided(engine: Engine, prompt: list[int], rewards: Rewards, *, breadth: int = 4, penalty: float = 1.0) -> str:
    pieces = guided_answer(
        engine, prompt, rewards, breadth=breadth, plausible=1e-9, max_tokens=10, repeat_penalty=penalty
    )
    return "".join(pieces)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_without_reward_a_guided_answer_is_the_greedy_one(engine: Engine, penalty: float) -> None:
    for seed in range(3):
        prompt = random_tokens(seed, 30)
        greedy = alone(engine, prompt, Sampling(repeat_penalty=penalty), 10)
        assert guided(engine, prompt, lambda states: np.zeros(len(states)), penalty=penalty) == greedy


def test_the_reward_of_a_token_is_of_the_state_that_it_leads_to(engine: Engine) -> None:
    prompt = random_tokens(3, 30)
    seen: list[np.ndarray] = []

    def second(states: np.ndarray) -> np.ndarray:
        seen.append(states.copy())
        return np.where(np.arange(len(states)) == 1, 1e6, 0.0)

    guided(engine, prompt, second)
    sequences = engine._generation_sequences()
    sequences.fill(engine._in_use.segments(prompt))
    order = np.argsort(-np.array(sequences.context.logits(1)[0]), kind="stable")
    first = [token for token in order.tolist() if not engine._vocabulary.ends_answer(token)][:4]
    for row, token in enumerate(first):
        assert np.allclose(seen[0][row], engine.hidden([*prompt, token]), atol=2e-2)
    # the second step goes on behind the second token
    sequences.fill(engine._in_use.segments([*prompt, first[1]]))
    order = np.argsort(-np.array(sequences.context.logits(1)[0]), kind="stable")
    behind = next(token for token in order.tolist() if not engine._vocabulary.ends_answer(token))
    assert np.allclose(seen[1][0], engine.hidden([*prompt, first[1], behind]), atol=2e-2)


def test_a_guided_answer_looks_at_plausible_tokens_only(engine: Engine) -> None:
    counts: list[int] = []

    def rewards(states: np.ndarray) -> np.ndarray:
        counts.append(len(states))
        return np.zeros(len(states))

    list(guided_answer(engine, random_tokens(0, 5), rewards, breadth=4, plausible=1.0, max_tokens=5))
    assert set(counts) == {1}
    for breadth in (1, BRANCHES + 1):
        with pytest.raises(PenchantError, match="tokens at a time"):
            guided(engine, random_tokens(0, 5), lambda states: np.zeros(len(states)), breadth=breadth)
