"""A bank: what a fleet shares about how people differ, in adapter space or in reward space.

    taste of person u = shared + sum_k w_uk directions_k            (d,)

In reward space that vector weighs the features of an answer (``protocol/reward_model.py``); in adapter space it is an
adapter's coordinate in the frame (``protocol/frames.py``). ``w_u`` (K,) is private and never leaves its device: it is
real, not on a simplex, with the prior N(0, diag(spread^2)), so that no signal means the shared taste. A direction with
spread 0 moves nobody, and K = 0 says that no direction was found in which people differ. ``centroids`` (M, K) are
noised means of groups of weights, for a newcomer (``protocol/placement.py``); M may be 0.

Canonical CBOR with float32 numbers, so that equal banks are equal bytes and a digest names a bank.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal, get_args

import cbor2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError
from protocol.plain_cbor import read_plain

Space = Literal["adapter", "reward"]

_FORMAT: Final = "penchant-bank-1"
MAXIMUM_BANK_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, eq=False)  # arrays: equal banks have equal digests
class Bank:
    """``shared`` (d,), ``directions`` (K, d), ``spread`` (K,) >= 0, ``centroids`` (M, K): float64, finite.

    ``space_sha256``: digest of the Frame (adapter space) or of the FeatureMap (reward space) in which the vectors
    live. ``spread``: prior standard deviation of a person's weight along each direction. ``tie_width``: eta of the
    choice model (reward space; 0: no ties). Raises ProtocolError if the parts do not fit together.
    """

    space: Space
    space_sha256: str
    shared: NDArray[np.float64]
    directions: NDArray[np.float64]
    spread: NDArray[np.float64]
    centroids: NDArray[np.float64]
    tie_width: float = 0.0

    def __post_init__(self) -> None:
        if self.space not in get_args(Space) or not re.fullmatch(r"[0-9a-f]{64}", self.space_sha256):
            raise ProtocolError("a bank names its space (adapter or reward) and the digest of its frame or feature map")
        count = len(self.directions)
        shapes = (self.directions.ndim, self.spread.shape, self.centroids.ndim, self.centroids.shape[-1])
        if self.shared.ndim != 1 or not len(self.shared) or shapes != (2, (count,), 2, count):
            raise ProtocolError("a bank has shared (d,), directions (K, d), spread (K,) and centroids (M, K)")
        if self.directions.shape[1] != self.dimension:
            raise ProtocolError(f"directions of {self.directions.shape[1]} numbers do not fit {self.dimension}")
        numbers = (self.shared, self.directions, self.spread, self.centroids, np.asarray(self.tie_width))
        if not all(np.isfinite(part).all() for part in numbers) or (self.spread < 0).any() or self.tie_width < 0:
            raise ProtocolError("a bank's numbers are finite, its spread and tie width not negative")

    @staticmethod
    def of_shared(space: Space, space_sha256: str, shared: NDArray[np.float64], tie_width: float = 0.0) -> Bank:
        """A bank without directions: everybody has the shared taste."""
        nothing = np.zeros((0, len(shared)))
        return Bank(space, space_sha256, shared, nothing, np.zeros(0), np.zeros((0, 0)), tie_width)

    @property
    def dimension(self) -> int:
        """d: numbers in one taste."""
        return len(self.shared)

    @property
    def count(self) -> int:
        """K: directions in the bank."""
        return len(self.directions)

    def mix(self, weights: NDArray[np.float64], strength: float = 1.0) -> NDArray[np.float64]:
        """``shared + strength * weights @ directions`` (d,): 0 is the shared taste, above 1 exaggerates the person's.

        ``weights`` may be (n, K) for n people at once; the result is then (n, d).
        """
        if weights.shape[-1:] != (self.count,):
            raise ProtocolError(f"weights of shape {weights.shape} do not fit a bank of {self.count} directions")
        mixed: NDArray[np.float64] = self.shared + strength * (weights @ self.directions)
        return mixed

    def with_centroids(self, centroids: NDArray[np.float64]) -> Bank:
        """The same bank with other centroids (M, K)."""
        return replace(self, centroids=centroids)

    def to_bytes(self) -> bytes:
        """Canonical bytes of this release."""
        body = {
            "format": _FORMAT,
            "space": self.space,
            "in": self.space_sha256,
            "shape": [self.count, self.dimension, len(self.centroids)],
            "tie_width": float(np.float32(self.tie_width)),
            **{name: getattr(self, name).astype("<f4").tobytes() for name in _ARRAYS},
        }
        return cbor2.dumps(body, canonical=True)

    @staticmethod
    def from_bytes(data: bytes, *, space_sha256: str, dimension: int) -> Bank:
        """Parse a bank and check that it belongs to this frame or feature map. Raises ProtocolError."""
        if len(data) > MAXIMUM_BANK_BYTES:
            raise ProtocolError(f"the bank is larger than {MAXIMUM_BANK_BYTES} bytes")
        try:
            body = read_plain(data)
            count, width, groups = (int(number) for number in body["shape"])
            if body["format"] != _FORMAT or body["in"] != space_sha256 or width != dimension:
                raise ProtocolError("this bank is for another frame or feature map; fetch the fleet's current one")
            shapes = {
                "shared": (width,),
                "directions": (count, width),
                "spread": (count,),
                "centroids": (groups, count),
            }
            arrays = {
                name: np.frombuffer(body[name], "<f4").reshape(shape).astype(np.float64)
                for name, shape in shapes.items()
            }
            return Bank(body["space"], space_sha256, tie_width=float(body["tie_width"]), **arrays)
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError("the bank could not be read; fetch it again from the fleet") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of ``to_bytes``."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


_ARRAYS: Final = ("shared", "directions", "spread", "centroids")
