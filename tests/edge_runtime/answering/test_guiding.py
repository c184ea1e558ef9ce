"""Guiding: the head reads a pooled state as the reward does, and a guided decode goes where the head points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.answering.guiding import guided, token_head
from edge_runtime.engine.engine import Engine, Sampling
from protocol.errors import PenchantError
from protocol.feature_map import FeatureMap
from tests.edge_runtime.model_helpers import open_tiny, random_tokens

WIDTH, STYLES, K = 64, 5, 7


def some_map(sources: tuple[str, ...], rows: int) -> FeatureMap:
    rng = np.random.default_rng(0)
    mean, projection = rng.standard_normal(rows), rng.standard_normal((rows, K))
    base = "ab" * 32 if "hidden" in sources else ""
    return FeatureMap(sources, base, "", mean.astype(np.float32), projection.astype(np.float32))  # type: ignore[arg-type]


def test_the_head_tells_differences_between_states_as_the_reward_does() -> None:
    rng = np.random.default_rng(1)
    space, direction = some_map(("hidden", "style"), WIDTH + STYLES), rng.standard_normal(K)
    head = token_head(space, direction, WIDTH)
    raw = np.tile(rng.standard_normal(WIDTH + STYLES), (2, 1))
    raw[1, :WIDTH] = rng.standard_normal(WIDTH)  # the same style
    rewards = space.apply(raw) @ direction
    assert (raw[1, :WIDTH] - raw[0, :WIDTH]) @ head == pytest.approx(rewards[1] - rewards[0], rel=1e-4)


def test_a_map_without_hidden_states_is_refused() -> None:
    with pytest.raises(PenchantError, match="hidden states"):
        token_head(some_map(("style",), STYLES), np.zeros(K), WIDTH)


def test_an_answer_goes_where_the_head_points(tmp_path: Path) -> None:
    prompt = random_tokens(2, 20)
    with open_tiny(tmp_path) as engine:

        def answer(head: np.ndarray, strength: float) -> list[int]:
            sampling = Sampling(repeat_penalty=1.1)
            pieces = guided(engine, prompt, head, strength, max_tokens=12, sampling=sampling)
            return engine.tokenise("".join(pieces), special=False)

        plain = "".join(engine.generate(prompt, max_tokens=12, sampling=Sampling(repeat_penalty=1.1)))
        head = np.random.default_rng(3).standard_normal(WIDTH).astype(np.float32)
        assert answer(head, 0.0) == engine.tokenise(plain, special=False)
        assert mean_reward(engine, prompt, answer(head, 2.0), head) > mean_reward(
            engine, prompt, answer(head, -2.0), head
        )


def mean_reward(engine: Engine, prompt: list[int], answer: list[int], head: np.ndarray) -> float:
    ends = range(1, len(answer) + 1)
    return float(np.mean([engine.hidden([*prompt, *answer[:end]]) @ head for end in ends]))
