from __future__ import annotations

import numpy as np

from simulations.strategies.fedsa_lora import FedSaLora
from simulations.strategies.strategy import pack
from tests.simulations.strategies.strategy_help import mean_of, person_texts, tiny_maps


def test_only_a_is_offered_and_everybody_keeps_their_own_b() -> None:
    maps = tiny_maps()
    strategy = FedSaLora(maps, rate=0.05)
    state = strategy.start()
    uploads = [strategy.upload(state, strategy.join(person), person_texts(person), 0) for person in range(2)]
    assert len(uploads[0].vector) == strategy.dimension(state) == sum(a * b for a, b in maps.a_shapes)
    after = strategy.absorb(state, mean_of(uploads))
    first, second = (strategy.adapter(after, upload.own) for upload in uploads)
    for index, name in enumerate(maps.names):
        assert np.array_equal(first[name][0], second[name][0])
        assert not np.array_equal(first[name][1], second[name][1])
        assert np.array_equal(first[name][1], uploads[0].own[index])
    assert strategy.numbers_trained == len(uploads[0].vector) + len(pack(uploads[0].own))


def test_training_goes_on_from_the_own_b() -> None:
    strategy = FedSaLora(tiny_maps(), rate=0.02)
    state, own, texts = strategy.start(), strategy.join(0), person_texts(0)
    losses = []
    for seed in range(3):
        losses.append(texts.loss(strategy.adapter(state, own), range(texts.count)))
        upload = strategy.upload(state, own, texts, seed)
        state, own = strategy.absorb(state, upload.vector), upload.own
    assert losses[0] > losses[1] > losses[2]


def test_a_newcomer_has_the_base_model() -> None:
    strategy = FedSaLora(tiny_maps(), rate=0.05)
    adapter = strategy.adapter(strategy.start() + 1.0, strategy.join(0))
    assert not any(b.any() for _, b in adapter.values())
