"""Drafts from the prompt: what is drafted, when it ends, and that the answer stays the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge_runtime.engine.engine import Engine, Sampling
from edge_runtime.engine.generation import answer_tokens
from edge_runtime.engine.lookup import PromptLookup
from tests.edge_runtime.model_helpers import open_tiny, random_tokens


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("lookup")) as opened:
        yield opened


def _tokens(engine: Engine, prompt: list[int], limit: int, sampling: Sampling, lookup: bool) -> list[int]:
    """An answer as tokens: the tiny model's bytes are seldom UTF-8, and replacement characters all look alike."""
    return list(
        answer_tokens(
            engine._generation_sequences(),
            engine._in_use.segments(prompt),
            prompt if lookup else None,
            sampling=sampling,
            ends_answer=lambda token: token in engine.end_of_turn,
            room=limit,
        )
    )


def test_a_draft_is_what_followed_the_last_tokens_the_last_time() -> None:
    assert PromptLookup([1, 2, 3, 4, 5, 6, 1, 2, 3]).draft(3) == [4, 5, 6]
    assert PromptLookup([1, 2, 3, 4, 1, 2, 3, 9, 1, 2, 3]).draft(1) == [9]
    assert PromptLookup([1, 2, 3, 4, 5]).draft(3) == []
    assert PromptLookup([2, 3]).draft(3) == []
    assert PromptLookup([1, 2, 3, 4, 1, 2, 3]).draft(0) == []


def test_what_is_added_later_is_found_too() -> None:
    lookup = PromptLookup([1, 2, 3])
    assert lookup.draft(4) == []
    lookup.tokens += [4, 5, 1, 2, 3]
    assert lookup.draft(2) == [4, 5]


def test_drafts_end_when_they_cost_more_than_they_give() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3])
    for _ in range(20):
        assert lookup.draft(7)
        lookup.verified(7, 7)
    assert lookup.draft(9) == [4, 5, 6, 7, 8, 9, 10]
    tries = 0
    while drafted := lookup.draft(7):
        lookup.verified(len(drafted), 0)
        tries += 1
        assert len(lookup.draft(9)) in (0, 3)
    assert 2 <= tries <= 8


_GREEDY, _PENALTY = Sampling(), Sampling(repeat_penalty=1.1)
_WARM, _HOT = Sampling(temperature=0.7, seed=3), Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=4)


@pytest.mark.parametrize(
    ("sampling", "limit"),
    [(sampling, limit) for sampling in (_GREEDY, _PENALTY) for limit in (1, 2, 3, 40, 120)]
    + [(sampling, limit) for sampling in (_WARM, _HOT) for limit in (1, 2, 3)],
)
def test_the_answer_is_the_one_without_drafts(engine: Engine, sampling: Sampling, limit: int) -> None:
    """The tiny model holds float32 weights, where a batch and a single token agree but for rounding: flash attention
    sums in float16. A draw at random can fall between the two, so long drawn answers may part; the most likely token
    does not change.
    """
    for seed in range(3):
        prompt = random_tokens(seed, 30) * 4
        plain, drafted = (_tokens(engine, prompt, limit, sampling, lookup) for lookup in (False, True))
        assert drafted == plain


def test_drafts_are_verified_in_batches_and_the_cache_holds_the_answer_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = random_tokens(5, 30) * 3
    accepted: list[int] = []
    monkeypatch.setattr(PromptLookup, "verified", lambda _, drafted, agreed: accepted.append(agreed))
    answer = "".join(engine.generate(prompt, max_tokens=150, lookup=True))  # greedy tiny models soon go in circles
    assert sum(accepted) > 30
    sequences = engine._generation_sequences()
    newest = max(sequences._all, key=lambda one: one.used)
    tokens = [entry & 0xFFFFFFFF for entry in newest.entries]
    assert tokens[: len(prompt)] == prompt
    assert answer.startswith(engine.detokenise(tokens[len(prompt) :]))


def test_a_full_context_ends_an_answer_with_drafts_as_it_does_without(engine: Engine) -> None:
    prompt = (random_tokens(6, 30) * 20)[: engine.context_tokens - 9]
    plain = "".join(engine.generate(prompt, max_tokens=100))
    assert "".join(engine.generate(prompt, max_tokens=100, lookup=True)) == plain
