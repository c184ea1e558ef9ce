from __future__ import annotations

import dataclasses

import cbor2
import numpy as np
import pytest

from protocol.bank import Bank
from protocol.errors import ProtocolError

SPACE = "a" * 64


def some_bank(count: int = 3, dimension: int = 7, groups: int = 2) -> Bank:
    random = np.random.default_rng(0)
    return Bank(
        "reward",
        SPACE,
        random.normal(size=dimension),
        random.normal(size=(count, dimension)),
        random.uniform(0.1, 1.0, size=count),
        random.normal(size=(groups, count)),
        0.25,
    )


def test_a_mixture_is_the_shared_taste_plus_the_weighted_directions() -> None:
    bank, weights = some_bank(), np.array([1.0, -2.0, 0.5])
    own = bank.directions[0] - 2 * bank.directions[1] + 0.5 * bank.directions[2]
    assert np.allclose(bank.mix(weights), bank.shared + own)
    assert np.allclose(bank.mix(weights, 0.5), bank.shared + own / 2)
    assert np.array_equal(bank.mix(weights, 0.0), bank.shared)
    assert np.allclose(bank.mix(np.stack([weights, -weights])), [bank.shared + own, bank.shared - own])
    with pytest.raises(ProtocolError, match="3 directions"):
        bank.mix(np.zeros(4))


def test_without_directions_everybody_has_the_shared_taste() -> None:
    bank = Bank.of_shared("adapter", SPACE, np.arange(5.0))
    assert (bank.count, bank.dimension) == (0, 5)
    assert np.array_equal(bank.mix(np.zeros(0)), bank.shared)
    assert Bank.from_bytes(bank.to_bytes(), space_sha256=SPACE, dimension=5).digest == bank.digest


def test_a_bank_survives_its_bytes_and_equal_banks_are_equal_bytes() -> None:
    bank = some_bank()
    read = Bank.from_bytes(bank.to_bytes(), space_sha256=SPACE, dimension=7)
    assert read.to_bytes() == bank.to_bytes() and read.digest == bank.digest
    assert (read.space, read.space_sha256, read.tie_width) == ("reward", SPACE, 0.25)
    for name in ("shared", "directions", "spread", "centroids"):
        assert np.allclose(getattr(read, name), getattr(bank, name), rtol=1e-6)


def test_everything_is_in_the_digest() -> None:
    bank = some_bank()
    changes = {
        "space": "adapter",
        "space_sha256": "b" * 64,
        "shared": bank.shared + 1,
        "directions": -bank.directions,
        "spread": 2 * bank.spread,
        "centroids": bank.centroids[:1],
        "tie_width": 0.5,
    }
    digests = {bank.digest} | {dataclasses.replace(bank, **{name: value}).digest for name, value in changes.items()}  # type: ignore[arg-type]
    assert len(digests) == 1 + len(changes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"space": "other"},
        {"space_sha256": "A" * 64},
        {"shared": np.zeros(6)},
        {"shared": np.full(7, np.nan)},
        {"directions": np.zeros((2, 7))},
        {"spread": np.array([0.1, -0.1, 0.1])},
        {"centroids": np.zeros((2, 2))},
        {"tie_width": -1.0},
        {"tie_width": float("inf")},
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        dataclasses.replace(some_bank(), **wrong)  # type: ignore[arg-type]


def test_a_bank_of_another_space_and_damaged_bytes_are_refused() -> None:
    data = some_bank().to_bytes()
    with pytest.raises(ProtocolError, match="another"):
        Bank.from_bytes(data, space_sha256="b" * 64, dimension=7)
    with pytest.raises(ProtocolError, match="another"):
        Bank.from_bytes(data, space_sha256=SPACE, dimension=8)
    body = cbor2.loads(data)
    damaged = (data[:-9], b"", cbor2.dumps({**body, "shape": [9, 7, 2]}), cbor2.dumps({**body, "spread": b"abc"}))
    for bad in damaged:
        with pytest.raises(ProtocolError, match="could not be read"):
            Bank.from_bytes(bad, space_sha256=SPACE, dimension=7)
