from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocol.errors import ProtocolError
from protocol.mixture_prior import MixturePrior, prior_quantiser, without_centroids
from tests.protocol.clustered_people import clustered_people

BANK = clustered_people(4, 2).bank


def test_a_prior_survives_the_wire_and_names_its_bank() -> None:
    prior = prior_quantiser(BANK, 6, seed=1)
    again = MixturePrior.from_bytes(prior.to_bytes(), bank_sha256=prior.bank_sha256, weight_count=BANK.count)
    assert again.digest == prior.digest
    assert np.allclose(again.centroids, prior.centroids, atol=1e-6) and np.allclose(again.within, prior.within)
    assert prior.bank_sha256 == without_centroids(BANK).digest != BANK.digest  # whichever centroids the bank carries
    for bank, count in (("c" * 64, BANK.count), (prior.bank_sha256, BANK.count + 1)):
        with pytest.raises(ProtocolError, match="another bank"):
            MixturePrior.from_bytes(prior.to_bytes(), bank_sha256=bank, weight_count=count)
    with pytest.raises(ProtocolError, match="could not be read"):
        MixturePrior.from_bytes(b"\xa0", bank_sha256=prior.bank_sha256, weight_count=BANK.count)


@pytest.mark.parametrize(
    "changes",
    [
        {"shares": np.array([0.5, 0.6])},
        {"shares": np.array([1.5, -0.5])},
        {"shares": np.ones(1)},
        {"within": np.array([1.0, -1.0])},
        {"within": np.ones(3)},
        {"centroids": np.full((2, 2), np.nan)},
    ],
)
def test_what_is_not_a_mixture_is_refused(changes: dict[str, Any]) -> None:
    good = MixturePrior("a" * 64, np.zeros((2, 2)), np.full(2, 0.5), np.ones(2))
    with pytest.raises(ProtocolError, match="mixture prior"):
        replace(good, **changes)


def test_the_quantiser_covers_where_the_bank_expects_people() -> None:
    """Nearer to people drawn from the bank's prior than the same number of random ones, and the same every time."""
    prior = prior_quantiser(BANK, 8, seed=3)
    random = np.random.default_rng(5)
    people = random.normal(size=(2000, BANK.count)) * BANK.spread
    guesses = random.normal(size=(8, BANK.count)) * BANK.spread

    def error(points: np.ndarray) -> float:
        return float(np.square((people[:, None] - points) / BANK.spread).sum(2).min(1).mean())

    assert error(prior.centroids) < 0.85 * error(guesses)
    left = np.square(prior.within / BANK.spread).sum()
    assert error(prior.centroids) == pytest.approx(left, rel=0.1)
    assert prior.shares.min() > 0.03
    assert prior.digest == prior_quantiser(BANK, 8, seed=3).digest != prior_quantiser(BANK, 8, seed=4).digest
