from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.dp_sgd import PrivateSettings
from client.examples import Example, prepare_input
from client.lora_layout import LoraLayout
from client.training_work import TextSettings
from simulations.attacks import memorisation
from simulations.attacks.memorisation import (
    SECRETS,
    Membership,
    TextTrainer,
    blind_exposure,
    exposures,
    make_canaries,
    train_halves,
)
from tests.client.framed_help import KINDS, RANK, some_texts, tiny_model
from tests.edge_runtime.model_helpers import open_tiny

PLAIN = TextSettings(10, batch_size=4, learning_rate=0.02)
TEXTS = [Example(tuple(tokens), prompt) for tokens, prompt in some_texts(12)]


def trainer(private: PrivateSettings | None = None, plain: TextSettings = PLAIN, max_tokens: int = 80) -> TextTrainer:
    return TextTrainer(tiny_model(), LoraLayout.of(tiny_model().module_shapes(KINDS), RANK), max_tokens, plain, private)


def pooled(found: Membership, kind: str) -> float:
    scores = found.scores(kind)
    inside, outside = scores[found.inside], scores[~found.inside]
    return float((inside[:, None] > outside[None]).mean())


def test_members_of_an_adapter_without_privacy_are_found() -> None:
    found = train_halves(trainer(), TEXTS, 4, np.random.default_rng(0))
    assert found.inside.sum(0).tolist() == [2] * len(TEXTS)  # of two adapters in turn every text is in one
    assert pooled(found, "reference") > 0.75
    assert pooled(found, "lira") > 0.75


def test_an_adapter_that_is_nearly_all_noise_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorisation, "noise_multiplier_for", lambda *arguments: 20.0)
    private = PrivateSettings(epsilon=0.1, delta=1e-3, epochs=2.0, sampling_rate=0.5, clip_norm=0.5, learning_rate=1e-4)
    found = train_halves(trainer(private), TEXTS, 4, np.random.default_rng(0))
    assert abs(pooled(found, "reference") - 0.5) < 0.25
    assert np.abs(found.losses - found.base).max() < 0.5  # it hardly moved


def test_the_likelihood_ratio_removes_what_a_text_is_by_itself() -> None:
    """Texts of very different difficulty and ease of learning: only against other adapters do members show."""
    random = np.random.default_rng(3)
    inside = random.random((16, 40)) < 0.5
    losses = random.normal(0, 3, size=40) - 0.3 * inside + 0.1 * random.normal(size=inside.shape)
    found = Membership(losses, np.zeros(40), inside)
    assert pooled(found, "loss") < 0.6 and pooled(found, "lira") > 0.9


def test_exposure_counts_the_rank_and_a_memorised_secret_has_the_most(tmp_path: Path) -> None:
    train = trainer(plain=TextSettings(60, batch_size=4, learning_rate=0.02), max_tokens=400)
    with open_tiny(tmp_path, seed=7, context_tokens=512) as engine:
        canary = make_canaries(engine, 2, np.random.default_rng(4))[1]
    assert len(canary.candidates) == len(SECRETS) == len({one.tokens for one in canary.candidates})
    whole = canary.candidates[canary.place]
    assert whole.tokens == canary.text.tokens and canary.text.prompt_length < whole.prompt_length < len(whole.tokens)
    batch = train.model.prepare(prepare_input(canary.candidates), max_tokens=400)
    losses, before = train.losses(batch, None), exposures(train, [batch], [canary.place], None)
    assert before[0] == pytest.approx(np.log2(len(SECRETS) / (losses <= losses[canary.place]).sum()))
    assert exposures(train, [batch], [canary.place], train([whole], 0))[0] == np.log2(len(SECRETS)) > before[0]


def test_blind_exposure_is_that_of_random_ranks() -> None:
    ranks = np.random.default_rng(5).integers(1, 33, size=40_000)
    assert blind_exposure(32) == pytest.approx(np.log2(32 / ranks).mean(), abs=0.02)
