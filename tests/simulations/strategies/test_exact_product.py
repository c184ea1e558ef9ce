"""Means of products are exact for unequal ranks, stacked in the open and through two sums; compression is the best."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.adapters.adapter_file import Factors, mix_adapters
from simulations.strategies.exact_product import ExactProduct, compress
from tests.simulations.strategies.strategy_help import (
    distance,
    mean_of,
    mean_product,
    person_texts,
    products,
    tiny_maps,
)

RANKS = (1, 2, 4)


def people_of_unequal_ranks() -> list[Factors]:
    draw = np.random.default_rng(0)
    return [
        {
            name: (
                draw.normal(size=(rank, columns)).astype(np.float32),
                draw.normal(size=(rows, rank)).astype(np.float32),
            )
            for name, (rows, columns) in zip(tiny_maps().names, tiny_maps().shapes, strict=True)
        }
        for rank in RANKS
    ]


def test_stacked_factors_are_the_mean_of_products_whatever_the_ranks() -> None:
    people = people_of_unequal_ranks()
    stacked = mix_adapters([(person, 1 / len(people)) for person in people])
    assert distance(products(stacked), mean_product(people)) < 1e-6
    exact = compress(stacked, sum(RANKS))
    assert distance(products(exact), mean_product(people)) < 1e-6
    padded = [  # what heterogeneous ranks are often averaged as: zero-padded factors
        {
            name: (np.pad(a, ((0, 4 - len(a)), (0, 0))), np.pad(b, ((0, 0), (0, 4 - len(a)))))
            for name, (a, b) in p.items()
        }
        for p in people
    ]
    averaged = {
        name: (np.mean([p[name][0] for p in padded], 0), np.mean([p[name][1] for p in padded], 0)) for name in padded[0]
    }
    assert distance(products(averaged), mean_product(people)) > 0.3


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_compression_is_the_best_of_its_rank(rank: int) -> None:
    stacked = mix_adapters([(person, 1.0) for person in people_of_unequal_ranks()])
    small = compress(stacked, rank)
    for name, product in products(stacked).items():
        u, values, v = np.linalg.svd(product)
        best = (u[:, :rank] * values[:rank]) @ v[:rank]
        a, b = small[name]
        assert a.shape[0] == b.shape[1] == rank
        assert np.allclose(b @ a, best, atol=1e-3)
        assert np.allclose(a @ a.T, np.eye(rank), atol=1e-5)


def test_an_adapter_that_changes_nothing_can_still_be_trained_from() -> None:
    maps = tiny_maps()
    small = compress(maps.factors(maps.random_a(), maps.zero_b()), 2)
    assert all(np.allclose(a @ a.T, np.eye(2), atol=1e-5) and not b.any() for a, b in small.values())


def run_round(strategy: ExactProduct, people: int) -> tuple[Factors, list[Factors], list[int]]:
    """(the fleet's adapter after a round from scratch, everybody's own change, lengths of the two vectors)."""
    state, lengths = strategy.start(), []
    own = [strategy.join(person) for person in range(people)]
    changes: list[Factors] = []
    for _ in range(strategy.sums_per_round):
        uploads = [strategy.upload(state, own[person], person_texts(person), 0) for person in range(people)]
        own = [upload.own for upload in uploads]
        changes = changes or [upload.own.change for upload in uploads]
        lengths.append(strategy.dimension(state))
        assert all(len(upload.vector) == lengths[-1] for upload in uploads)
        state = strategy.absorb(state, mean_of(uploads))
    assert state.basis is None and state.round == 1 and all(one.change is None for one in own)
    return state.shared, changes, lengths


def test_two_sums_give_the_mean_product_of_people_of_unequal_ranks() -> None:
    # A change of rank r has at most 2 r (what was trained less where it began): 2 * (1 + 2 + 4) <= 14.
    wide = ExactProduct(tiny_maps(rank=14), RANKS, width=14, rate=0.05)
    shared, changes, lengths = run_round(wide, 3)
    assert distance(products(shared), mean_product(changes)) < 1e-4
    assert [a.shape[0] for a, _ in (one[tiny_maps().names[0]] for one in changes)] == [2, 4, 8]
    assert lengths == [14 * sum(rows for rows, _ in tiny_maps().shapes), 14 * sum(c for _, c in tiny_maps().shapes)]


def test_a_narrow_sketch_is_near_the_best_of_its_rank() -> None:
    narrow = ExactProduct(tiny_maps(rank=3), RANKS, width=3, rate=0.05)
    shared, changes, _ = run_round(narrow, 3)
    exact = mean_product(changes)
    best = products(compress(mix_adapters([(change, 1 / 3) for change in changes]), 3))
    assert distance(best, exact) <= distance(products(shared), exact) < 2.5 * distance(best, exact) < 1.0


def test_everybody_serves_at_their_own_rank() -> None:
    strategy = ExactProduct(tiny_maps(rank=4), RANKS, width=4, rate=0.05)
    state = strategy.start()
    ranks = [len(next(iter(strategy.adapter(state, strategy.join(person)).values()))[0]) for person in range(4)]
    assert ranks == [1, 2, 4, 1]
    assert strategy.numbers_trained == 4 * sum(rows + columns for rows, columns in tiny_maps().shapes)
