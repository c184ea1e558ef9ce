from __future__ import annotations

import numpy as np

from simulations.strategies.ffa_lora import FfaLora
from tests.simulations.strategies.strategy_help import (
    distance,
    mean_of,
    mean_product,
    person_texts,
    products,
    tiny_maps,
)


def test_with_a_common_the_sum_of_bs_is_exact_and_a_never_moves() -> None:
    strategy = FfaLora(tiny_maps(), rate=0.05)
    state = strategy.start()
    for seed in range(2):
        uploads = [strategy.upload(state, None, person_texts(person), seed) for person in range(3)]
        each = [strategy.adapter(state + upload.vector, None) for upload in uploads]
        state = strategy.absorb(state, mean_of(uploads))
        assert distance(products(strategy.adapter(state, None)), mean_product(each)) < 1e-5
    adapter = strategy.adapter(state, None)
    for name, a in zip(tiny_maps().names, tiny_maps().random_a(), strict=True):
        assert np.array_equal(adapter[name][0], a) and adapter[name][1].any()


def test_only_bs_travel() -> None:
    strategy = FfaLora(tiny_maps(), rate=0.05)
    sizes = sum(rows * columns for rows, columns in tiny_maps().b_shapes)
    assert strategy.dimension(strategy.start()) == strategy.numbers_trained == sizes
    assert 4 * sizes < len(strategy.release(strategy.start())) < 4 * sizes + 200
