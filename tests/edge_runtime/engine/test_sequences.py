"""Many conversations in one context: who is continued, who makes room, and that no cache meets other weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edge_runtime.engine.contexts import Segment, Weights, common_length
from edge_runtime.engine.engine import Adapter, Engine
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import load_factors, open_tiny, random_factors, random_tokens

# The cache is float16 and the order of cells changes sums: measured 6e-4 on logits of standard deviation 2.3; the
# adapters move them by 4 to 10.
TOLERANCE = 1e-2


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("sequences")) as opened:
        yield opened


def text(weights: Weights, tokens: list[int]) -> list[Segment]:
    return [Segment(weights, np.array(tokens, dtype=np.int32))]


def evaluated(engine: Engine, segments: list[Segment]) -> int:
    """Tokens that a fill evaluates."""
    sequences = engine._generation_sequences()
    before = sequences.evaluated
    sequences.fill(segments)
    return sequences.evaluated - before


def logits(engine: Engine, segments: list[Segment]) -> np.ndarray:
    sequences = engine._generation_sequences()
    sequences.fill(segments)
    return np.array(sequences.context.logits(1)[0])


def held(engine: Engine) -> list[list[int]]:
    return [sequence.entries for sequence in engine._generation_sequences()._all]


def weights(engine: Engine, *pairs: tuple[Adapter, float]) -> Weights:
    return Weights(engine.model.sha256, pairs)


def test_conversations_are_continued_where_they_stopped(engine: Engine) -> None:
    base = weights(engine)
    first, second = random_tokens(0, 60), random_tokens(1, 50)
    assert evaluated(engine, text(base, first)) == 60
    assert evaluated(engine, text(base, second)) == 50
    assert evaluated(engine, text(base, [*first, *random_tokens(2, 5)])) == 5
    assert evaluated(engine, text(base, [*second, *random_tokens(3, 7)])) == 7


def test_a_short_shared_beginning_is_copied_and_the_other_text_stays(engine: Engine) -> None:
    base = weights(engine)
    shared, one, other = random_tokens(4, 20), random_tokens(5, 60), random_tokens(6, 60)
    assert evaluated(engine, text(base, [*shared, *one])) == 80
    assert evaluated(engine, text(base, [*shared, *other])) == 60
    assert evaluated(engine, text(base, [*shared, *one, 7])) == 1
    assert evaluated(engine, text(base, [*shared, *other, 7])) == 1


def test_a_changed_end_is_cut_off_in_place(engine: Engine) -> None:
    base = weights(engine)
    shared = random_tokens(7, 60)
    evaluated(engine, text(base, [*shared, *random_tokens(8, 10)]))
    assert evaluated(engine, text(base, [*shared, *random_tokens(9, 10)])) == 10
    assert sum(bool(entries) for entries in held(engine)) == 1


def test_the_one_used_longest_ago_makes_room(engine: Engine) -> None:
    base = weights(engine)
    texts = [random_tokens(seed, 40) for seed in range(10, 15)]
    for tokens in texts:  # five conversations, four sequences
        evaluated(engine, text(base, tokens))
    for tokens in texts[2:]:
        assert evaluated(engine, text(base, tokens)) == 1
    assert evaluated(engine, text(base, texts[0])) == 40


def test_full_cells_evict_others_and_the_answer_is_as_in_a_fresh_context(engine: Engine) -> None:
    base = weights(engine)
    for seed in range(20, 23):
        evaluated(engine, text(base, random_tokens(seed, 150)))
    large = random_tokens(23, 400)  # 512 cells, 450 in use
    crowded = logits(engine, text(base, large))
    assert sum(len(entries) for entries in held(engine)) <= engine.context_tokens
    engine.forget_texts()
    np.testing.assert_allclose(crowded, logits(engine, text(base, large)), atol=TOLERANCE)
    with pytest.raises(PenchantError, match="does not fit"):
        engine._generation_sequences().fill(text(base, random_tokens(24, 513)))
    assert evaluated(engine, text(base, random_tokens(25, 30))) == 30


def test_a_text_longer_than_the_context_leaves_the_books_right(engine: Engine) -> None:
    base = weights(engine)
    with pytest.raises(PenchantError):
        engine._generation_sequences().fill(text(base, random_tokens(25, 600)))
    again = logits(engine, text(base, random_tokens(25, 300)))
    engine.forget_texts()
    np.testing.assert_allclose(again, logits(engine, text(base, random_tokens(25, 300))), atol=TOLERANCE)


def test_one_conversation_is_enough(engine: Engine) -> None:
    with Engine.open(engine.model, context_tokens=256, threads=1, conversations=1) as single:
        base, shared = weights(single), random_tokens(26, 20)
        evaluated(single, text(base, [*shared, *random_tokens(27, 60)]))
        assert evaluated(single, text(base, [*shared, *random_tokens(28, 60)])) == 60


def swaps(engine: Engine, tokens: list[int], sets: list[Weights]) -> Iterator[tuple[np.ndarray, int]]:
    """Logits and evaluated tokens of one text under one set of weights after another, twice round."""
    sequences = engine._generation_sequences()
    for one in sets * 2:
        before = sequences.evaluated
        yield logits(engine, text(one, tokens)), sequences.evaluated - before


def test_every_set_of_weights_finds_its_own_cache_and_no_other(engine: Engine) -> None:
    tokens = random_tokens(30, 60)
    one, other = (load_factors(engine, random_factors(seed, layers=range(4)), alpha=4.0) for seed in (0, 1))
    sets = [weights(engine), weights(engine, (one, 1.0)), weights(engine, (one, 0.5)), weights(engine, (other, 1.0))]
    fresh = []
    for each in sets:
        engine.forget_texts()
        fresh.append(logits(engine, text(each, tokens)))
    assert min(np.abs(a - b).max() for i, a in enumerate(fresh) for b in fresh[:i]) > 2
    engine.forget_texts()
    for index, (seen, count) in enumerate(swaps(engine, tokens, sets)):
        np.testing.assert_allclose(seen, fresh[index % 4], atol=TOLERANCE)
        assert count == (60 if index < 4 else 1)


def test_the_same_swaps_under_a_key_that_forgets_the_adapters_are_wrong(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above: it would notice."""
    tokens = random_tokens(30, 60)
    adapter = load_factors(engine, random_factors(0, layers=range(4)), alpha=4.0)
    fresh = logits(engine, text(weights(engine, (adapter, 1.0)), tokens))
    engine.forget_texts()
    monkeypatch.setattr(Weights, "identity", 7)
    logits(engine, text(weights(engine), tokens))
    wrong = logits(engine, text(weights(engine, (adapter, 1.0)), tokens))
    assert np.abs(wrong - fresh).max() > 0.1


def test_identities_differ_wherever_the_arithmetic_does(engine: Engine) -> None:
    one, other = (load_factors(engine, random_factors(seed), alpha=4.0) for seed in (0, 1))
    control = np.ones((3, 64), dtype=np.float32)
    base = engine.model.sha256
    different = [
        Weights(base),
        Weights("1" * 64),
        Weights(base, ((one, 1.0),)),
        Weights(base, ((one, float(np.nextafter(1.0, 2.0))),)),
        Weights(base, ((other, 1.0),)),
        Weights(base, ((one, 1.0), (other, 1.0))),
        Weights(base, (), control),
        Weights(base, (), 2 * control),
    ]
    assert len({each.identity for each in different}) == len(different)
    assert Weights(base, ((one, 1.0),)).identity == different[2].identity


def test_common_length() -> None:
    assert [common_length([1, 2, 3], other) for other in ([], [1], [1, 2, 4], [1, 2, 3, 4], [2])] == [0, 1, 2, 3, 0]


def test_activated_adapters_share_what_the_base_has_read(engine: Engine) -> None:
    header = list(engine.answer_header)
    prompt = [*random_tokens(40, 80), *header]
    adapters = [load_factors(engine, random_factors(seed, size=1.0), alpha=4.0) for seed in (0, 1)]
    sequences = engine._generation_sequences()

    def run(adapter: Adapter | None) -> tuple[str, int]:
        engine.use_adapters([(adapter, 1.0)] if adapter else [], activation="answer")
        before = sequences.evaluated
        answer = "".join(engine.generate(prompt, max_tokens=12))
        return answer, sequences.evaluated - before

    fresh = []
    for adapter in (None, *adapters):
        engine.forget_texts()
        fresh.append(run(adapter)[0])
    assert len(set(fresh)) == 3
    engine.forget_texts()
    assert run(None)[1] > 80
    for adapter, expected in zip(adapters, fresh[1:], strict=True):
        answer, count = run(adapter)
        assert answer == expected
        assert count <= len(header) + 11  # the prompt was read once, by the base model
