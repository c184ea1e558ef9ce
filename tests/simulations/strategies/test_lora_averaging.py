"""The baseline is wrong in the way that it is known to be wrong, and by how much."""

from __future__ import annotations

import numpy as np

from simulations.strategies.lora_averaging import LoraAveraging
from tests.simulations.strategies.strategy_help import (
    distance,
    mean_of,
    mean_product,
    person_texts,
    products,
    tiny_maps,
)


def test_the_product_of_means_is_not_the_mean_of_products() -> None:
    strategy = LoraAveraging(tiny_maps(), rate=0.05)
    state = strategy.start()
    uploads = [strategy.upload(state, None, person_texts(person), 0) for person in range(3)]
    each = [strategy.adapter(state + upload.vector, None) for upload in uploads]
    averaged = products(strategy.adapter(strategy.absorb(state, mean_of(uploads)), None))
    gap = distance(averaged, mean_product(each))
    assert gap > 0.02
    # The gap is the covariance of people's factors: mean(B) mean(A) - mean(B A) = -cov(B, A).
    for name in tiny_maps().names:
        lefts = np.array([adapter[name][0] for adapter in each], dtype=np.float64)
        rights = np.array([adapter[name][1] for adapter in each], dtype=np.float64)
        covariance = np.mean((rights - rights.mean(0)) @ (lefts - lefts.mean(0)), axis=0)
        assert np.allclose(mean_product(each)[name] - averaged[name], covariance, atol=1e-6)


def test_people_who_agree_leave_no_gap() -> None:
    strategy = LoraAveraging(tiny_maps(), rate=0.05)
    state = strategy.start()
    upload = strategy.upload(state, None, person_texts(0), 0)
    after = strategy.absorb(state, mean_of([upload, upload]))
    assert (
        distance(products(strategy.adapter(after, None)), products(strategy.adapter(state + upload.vector, None)))
        < 1e-6
    )
    assert strategy.numbers_trained == strategy.dimension(state) == len(upload.vector)
