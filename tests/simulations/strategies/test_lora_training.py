from __future__ import annotations

import numpy as np
import pytest
import torch

from client.personal_lora import as_tensors, installed
from protocol.errors import PenchantError
from simulations.strategies.lora_training import TorchTexts
from tests.client.framed_help import hugging_face_name as hf
from tests.client.framed_help import plain_model, some_texts, tiny_model
from tests.simulations.strategies.strategy_help import person_texts, tiny_maps


def random_adapter(size: float = 0.3) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    maps, draw = tiny_maps(), np.random.default_rng(1)
    rights = [(size * draw.normal(size=shape)).astype(np.float32) for shape in maps.b_shapes]
    return dict(maps.factors(maps.random_a(), rights))


def test_installed_factors_add_their_product_to_the_weights() -> None:
    adapter, (ids, _) = random_adapter(), some_texts()[0]
    oracle = plain_model()
    before = tiny_model().log_probabilities(ids)
    with torch.no_grad():
        for name, (a, b) in adapter.items():
            oracle.get_submodule(hf(name)).weight += torch.tensor(b @ a)
        logits = oracle(torch.tensor([ids])).logits[0, :-1].float()
    expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()
    with installed(tiny_model(), as_tensors(adapter)):
        assert np.allclose(tiny_model().log_probabilities(ids), expected, atol=1e-4)
    assert np.array_equal(tiny_model().log_probabilities(ids), before)  # nothing stays behind
    assert not np.allclose(before, expected, atol=1e-2)


@pytest.mark.parametrize("train_a, train_b", [(True, True), (True, False), (False, True)])
def test_only_what_is_to_be_trained_moves_and_the_loss_falls(train_a: bool, train_b: bool) -> None:
    texts, begin = person_texts(0), random_adapter(0.1)
    trained = texts.train(begin, train_a=train_a, train_b=train_b, rate=0.02, seed=0).adapter
    for name, (a, b) in begin.items():
        assert np.array_equal(trained[name][0], a) != train_a
        assert np.array_equal(trained[name][1], b) != train_b
    rows = range(texts.count)
    assert texts.loss(trained, rows) < texts.loss(begin, rows) - 0.01


def test_the_loss_is_that_of_the_texts_named() -> None:
    texts, adapter = person_texts(0), random_adapter()
    sizes = [len(ids) - prompt for ids, prompt in some_texts(6, seed=100)]
    apart = [texts.loss(adapter, [row]) for row in range(texts.count)]
    assert texts.loss(adapter, range(texts.count)) == pytest.approx(np.average(apart, weights=sizes), rel=1e-4)


def test_training_that_moves_nothing_or_diverges_is_an_error() -> None:
    texts, begin = person_texts(0), random_adapter()
    with pytest.raises(PenchantError, match="moved no number"):
        texts.train(begin, train_a=True, train_b=True, rate=0.0, seed=0)
    with pytest.raises(PenchantError, match="diverged"):
        texts.train(begin, train_a=True, train_b=True, rate=float("inf"), seed=0)


def test_the_first_pass_gives_the_loss_on_the_way() -> None:
    once = TorchTexts(tiny_model(), person_texts(0).batch, epochs=1, batch_size=100)
    begin = random_adapter()
    trained = once.train(begin, train_a=True, train_b=True, rate=0.01, seed=0)
    assert trained.loss == pytest.approx(once.loss(begin, range(once.count)), rel=1e-5)
