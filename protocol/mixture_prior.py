"""What the fleet knows about kinds of people: a Gaussian mixture over the private weights of a bank.

    w_u ~ sum_m shares_m N(centroids_m, diag(within^2))

All of it comes from noised sums (`centroid_sums`). A device reads it and works out alone where its owner stands; the
prior travels down, nothing about the owner travels up.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import cbor2
import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.errors import ProtocolError
from protocol.plain_cbor import read_plain

Array = NDArray[np.float64]

_FORMAT = "penchant-mixture-prior-1"
_CLOUD, _LLOYD_STEPS = 4096, 25


@dataclass(frozen=True, eq=False)
class MixturePrior:
    """`centroids` (M, K), `shares` (M,) of all people, `within` (K,) standard deviation around any centroid; all over
    the weights of the bank with digest `bank_sha256` (the one without centroids). M may be 0: no kinds are known.
    """

    bank_sha256: str
    centroids: Array
    shares: Array
    within: Array

    def __post_init__(self) -> None:
        if self.centroids.ndim != 2 or self.shares.shape != self.centroids.shape[:1]:
            raise ProtocolError("a mixture prior has one share for each of its centroids (M, K)")
        if self.within.shape != self.centroids.shape[1:] or not self.within.size:
            raise ProtocolError("a mixture prior has one deviation for each direction of its bank")
        if not all(np.isfinite(values).all() for values in (self.centroids, self.shares, self.within)):
            raise ProtocolError("a mixture prior holds a number that is not finite")
        if (self.within < 0.0).any() or (self.shares < 0.0).any():
            raise ProtocolError("a mixture prior has no negative deviation or share")
        if len(self.shares) and abs(float(self.shares.sum()) - 1.0) > 1e-5:
            raise ProtocolError("the shares of a mixture prior sum to one")

    @property
    def log_shares(self) -> Array:
        """log of the shares (M,); a share of zero stays finite, so that evidence can still overrule it."""
        return np.log(np.maximum(self.shares, 1e-6))

    def to_bytes(self) -> bytes:
        """Canonical bytes; float32 on the wire, as in a bank."""
        body = {
            "format": _FORMAT,
            "bank": self.bank_sha256,
            "shape": list(self.centroids.shape),
            "centroids": self.centroids.astype("<f4").tobytes(),
            "shares": self.shares.astype("<f4").tobytes(),
            "within": self.within.astype("<f4").tobytes(),
        }
        return cbor2.dumps(body, canonical=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes, *, bank_sha256: str, weight_count: int) -> MixturePrior:
        """Parse a prior and check that it belongs to this bank. Raises ProtocolError."""
        try:
            body = read_plain(data)
            count, width = (int(n) for n in body["shape"])
            if body["format"] != _FORMAT or body["bank"] != bank_sha256 or width != weight_count:
                raise ProtocolError("these centroids were made for another bank; fetch the fleet's current ones")
            return MixturePrior(
                bank_sha256,
                np.frombuffer(body["centroids"], "<f4").reshape(count, width).astype(np.float64),
                np.frombuffer(body["shares"], "<f4").reshape(count).astype(np.float64),
                np.frombuffer(body["within"], "<f4").reshape(width).astype(np.float64),
            )
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError("the centroids could not be read; fetch them again from the fleet") from error


def without_centroids(bank: Bank) -> Bank:
    """The bank that a mixture prior names: the same before and after centroids were added to it."""
    return bank.with_centroids(np.zeros((0, bank.count)))


def weight_units(bank: Bank) -> Array:
    """(K,) the unit in which weights are compared: the bank's spread, 1 for a direction that moves nobody."""
    return np.where(bank.spread > 0.0, bank.spread, 1.0)


def prior_quantiser(bank: Bank, centroid_count: int, seed: int) -> MixturePrior:
    """Where the centroids start, from the bank's `spread` (K,) alone: the best M points for N(0, diag(spread^2)).

    k-means on a seeded cloud drawn from the bank's own prior (no data, so no privacy): the starting points lie where
    people are expected, none of them out where nobody is. `within` starts as the spread that is left around them.
    """
    random = np.random.default_rng(seed)
    cloud = random.normal(size=(_CLOUD, bank.count))
    points = cloud[random.choice(_CLOUD, centroid_count, replace=False)].copy()
    for _ in range(_LLOYD_STEPS):
        nearest = np.square(cloud[:, None] - points).sum(2).argmin(1)
        for m in range(centroid_count):
            if (nearest == m).any():
                points[m] = cloud[nearest == m].mean(0)
    nearest = np.square(cloud[:, None] - points).sum(2).argmin(1)
    left = np.sqrt(np.square(cloud - points[nearest]).mean(0))
    shares = np.bincount(nearest, minlength=centroid_count) / _CLOUD
    return MixturePrior(without_centroids(bank).digest, points * bank.spread, shares, left * bank.spread)
