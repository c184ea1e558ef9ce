"""The engine on a tiny random model: tokens, scoring, generation, hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.contexts import BATCH_TOKENS
from edge_runtime.engine.engine import Engine, Sampling
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import open_tiny, random_tokens


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("engine")) as opened:
        yield opened


def test_text_survives_the_way_to_tokens_and_back(engine: Engine) -> None:
    for text in ("", "the thing and you", "Été à Malmö, 日本語 🙂\n\ttabs", "x" * 300):
        assert engine.detokenise(engine.tokenise(text, special=False)) == text


def test_control_tokens_are_read_only_where_asked(engine: Engine) -> None:
    text = "<|im_end|>"
    assert len(engine.tokenise(text)) == 1 and len(engine.tokenise(text, special=False)) > 1
    assert engine.detokenise(engine.tokenise(text)) == ""
    assert engine.detokenise(engine.tokenise(text), special=True) == text
    assert engine.tokenise(text) == list(engine.end_of_turn)[:1]


def test_probabilities_over_the_vocabulary_sum_to_one(engine: Engine) -> None:
    prefix = random_tokens(0, 20)
    every_token = engine.score(prefix, [[token] for token in range(273)])
    assert np.exp(np.concatenate(every_token)).sum() == pytest.approx(1.0, abs=1e-5)


def test_a_score_does_not_depend_on_what_else_is_scored_or_how_it_is_split(engine: Engine) -> None:
    """Equal to the last bit: stated tolerance 1e-9 nats (llama.cpp for x86)."""
    prefix = random_tokens(1, 60)
    continuations = [random_tokens(seed, length) for seed, length in ((2, 1), (3, 2), (4, 17), (5, 300))]
    together = engine.score(prefix, continuations)
    assert [len(values) for values in together] == [1, 2, 17, 300]
    for tokens, values in zip(continuations, together, strict=True):
        alone = engine.score(prefix, [tokens])[0]
        np.testing.assert_allclose(alone, values, atol=1e-9)
        whole = engine.score(prefix[:1], [[*prefix[1:], *tokens]])[0]
        np.testing.assert_allclose(whole[-len(tokens) :], values, atol=1e-9)


def test_scoring_after_generating_is_the_same(engine: Engine) -> None:
    """Tokens that generation evaluated one at a time are not reused for scoring."""
    prompt, rest = random_tokens(6, 30), random_tokens(7, 20)
    generated = engine.tokenise("".join(engine.generate(prompt, max_tokens=5)), special=False)
    prefix = [*prompt, *generated]
    after = engine.score(prefix, [rest])[0]
    engine.score(random_tokens(8, 5), [rest])
    np.testing.assert_allclose(engine.score(prefix, [rest])[0], after, atol=1e-9)


def test_log_probabilities_are_those_of_the_logits(engine: Engine) -> None:
    prefix = random_tokens(9, 12)
    token = engine.score(prefix, [[t] for t in range(273)])
    best = int(np.argmax(np.concatenate(token)))
    expected = engine.detokenise([best])
    answer = "".join(engine.generate(prefix, max_tokens=1))
    assert answer == expected or best in engine.end_of_turn


def test_empty_and_single_continuations(engine: Engine) -> None:
    empty, single = engine.score([5], [[], [6]])
    assert empty.shape == (0,) and single.shape == (1,) and single[0] < 0
    assert engine.score([5], []) == []


def test_scoring_refuses_what_it_cannot_do(engine: Engine) -> None:
    for prefix, continuation in (([], [5]), ([5], [273]), ([-1], [5]), ([5] * 500, [5] * 13)):
        with pytest.raises(PenchantError) as caught:
            engine.score(prefix, [continuation])
        assert "\n" not in str(caught.value)
    assert len(engine.score([5] * 500, [[5] * 12])[0]) == 12  # a full context is allowed


def test_greedy_generation_follows_the_highest_score(engine: Engine) -> None:
    prompt = random_tokens(10, 8)
    tokens: list[int] = []
    for _ in range(6):
        scores = np.concatenate(engine.score([*prompt, *tokens], [[token] for token in range(273)]))
        best = int(scores.argmax())
        if best in engine.end_of_turn:
            break
        tokens.append(best)
    assert "".join(engine.generate(prompt, max_tokens=len(tokens))) == engine.detokenise(tokens)


def test_a_seed_repeats_a_sampled_answer_and_another_one_changes_it(engine: Engine) -> None:
    prompt = random_tokens(11, 8)

    def answer(seed: int) -> str:
        sampling = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
        return "".join(engine.generate(prompt, max_tokens=20, sampling=sampling))

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_a_repeat_penalty_breaks_a_loop(engine: Engine) -> None:
    prompt = random_tokens(12, 8)
    plain = "".join(engine.generate(prompt, max_tokens=30))
    penalised = "".join(engine.generate(prompt, max_tokens=30, sampling=Sampling(repeat_penalty=5.0)))
    assert len(set(penalised)) > len(set(plain))


def test_stop_strings_cut_the_answer(engine: Engine) -> None:
    prompt = random_tokens(11, 8)
    sampling = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=3)
    whole = "".join(engine.generate(prompt, max_tokens=40, sampling=sampling))
    stop = whole[5:7]
    cut = "".join(engine.generate(prompt, max_tokens=40, sampling=sampling, stop=[stop]))
    assert cut == whole[: whole.index(stop)]


def test_generation_ends_when_the_context_is_full(tmp_path: Path) -> None:
    with open_tiny(tmp_path, context_tokens=256) as small:
        room = small.context_tokens
        prompt = random_tokens(13, room - 3)
        sampling = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=0)
        list(small.generate(prompt, max_tokens=50, sampling=sampling))
        with pytest.raises(PenchantError, match="shorten"):
            small.generate([*prompt, 5, 5, 5], max_tokens=1)
        with pytest.raises(PenchantError):
            small.generate([], max_tokens=1)


def test_an_answer_interrupted_by_other_work_says_so(engine: Engine) -> None:
    sampling = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=5)
    stream = engine.generate(random_tokens(14, 8), max_tokens=40, sampling=sampling)
    next(stream)
    engine.score(random_tokens(15, 5), [[7]])
    with pytest.raises(PenchantError, match="ask again"):
        list(stream)


def test_hidden_states_tell_texts_apart_and_leave_scores_alone(engine: Engine) -> None:
    prefix, tokens = random_tokens(16, 40), random_tokens(17, 10)
    before = engine.score(prefix, [tokens])[0]
    first, again, other = engine.hidden(prefix), engine.hidden(prefix), engine.hidden(tokens)
    assert first.shape == (64,) and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_array_equal(engine.score(prefix, [tokens])[0], before)
    assert engine.hidden([5]).shape == (64,)


def test_a_hidden_state_gives_the_logits(engine: Engine, tmp_path: Path) -> None:
    """Tied embeddings: logits = token_embd @ hidden, so it is the state after the final norm of the last
    token.
    """
    from gguf import GGUFReader

    prefix = random_tokens(18, 30)
    (table,) = (t.data for t in GGUFReader(engine.model.path).tensors if t.name == "token_embd.weight")
    logits = table @ engine.hidden(prefix)
    expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    actual = np.concatenate(engine.score(prefix, [[token] for token in range(273)]))
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_prefixes_longer_than_a_batch(engine: Engine) -> None:
    prefix = random_tokens(19, BATCH_TOKENS + 1)
    tokens = random_tokens(20, 5)
    split = engine.score(prefix[:100], [[*prefix[100:], *tokens]])[0][-5:]
    np.testing.assert_allclose(engine.score(prefix, [tokens])[0], split, atol=1e-9)


def test_the_vocabulary_alone_gives_the_same_tokens_and_evaluates_nothing(engine: Engine, tmp_path: Path) -> None:
    chat = [ChatMessage("user", "the thing and you")]
    with Engine.open(engine.model, vocabulary_only=True) as words:
        assert words.tokenise(words.chat_prompt(chat)) == engine.tokenise(engine.chat_prompt(chat))
        assert words.end_of_turn == engine.end_of_turn
        tokens = words.tokenise("the thing")
        with pytest.raises(PenchantError, match="vocabulary alone"):
            words.score(tokens, [tokens])


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    engine = open_tiny(tmp_path)
    stream = engine.generate(random_tokens(21, 8), max_tokens=300)
    next(stream)
    engine.close()
    engine.close()
    with pytest.raises(PenchantError):
        list(stream)
    for call in (lambda: engine.tokenise("x"), lambda: engine.score([1], [[2]]), lambda: engine.hidden([1])):
        with pytest.raises(PenchantError, match="closed"):
            call()


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"context_tokens": 0}, {"conversations": 0}, {"conversations": 10_000}]
)
def test_senseless_settings_are_refused(engine: Engine, wrong: dict[str, int]) -> None:
    with pytest.raises(PenchantError):
        Engine.open(engine.model, **wrong)
