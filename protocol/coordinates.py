"""Adapters as they travel: rows of frame coordinates with the digest of their frame.

A release is one row (the shared adapter) or K rows (the bases); every row is a vector theta of the frame
(``protocol/frames.py``). float32 little endian, canonical CBOR, so that equal rows give equal digests.
"""

from __future__ import annotations

from dataclasses import dataclass

import cbor2
import numpy as np

from protocol.errors import ProtocolError
from protocol.plain_cbor import read_plain

_FORMAT = "penchant-coordinates-1"


@dataclass(frozen=True)
class Coordinates:
    """``rows`` (k, d) float64 in the frame with digest ``frame_sha256``."""

    frame_sha256: str
    rows: np.ndarray

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or not len(self.rows) or not np.isfinite(self.rows).all():
            raise ProtocolError("adapter coordinates must be finite numbers, one row per adapter")

    @staticmethod
    def zeros(frame_sha256: str, count: int, dimension: int) -> Coordinates:
        """``count`` adapters that change nothing."""
        return Coordinates(frame_sha256, np.zeros((count, dimension)))

    def to_bytes(self) -> bytes:
        """Canonical bytes of this release."""
        body = {
            "format": _FORMAT,
            "frame": self.frame_sha256,
            "shape": list(self.rows.shape),
            "rows": self.rows.astype("<f4").tobytes(),
        }
        return cbor2.dumps(body, canonical=True)

    @staticmethod
    def from_bytes(data: bytes, *, frame_sha256: str, dimension: int) -> Coordinates:
        """Parse a release and check that it belongs to this frame. Raises ProtocolError."""
        try:
            body = read_plain(data)
            count, width = (int(n) for n in body["shape"])
            if body["format"] != _FORMAT or body["frame"] != frame_sha256 or width != dimension:
                raise ProtocolError("this release was made for another frame; fetch the fleet's current one")
            rows = np.frombuffer(body["rows"], "<f4").reshape(count, width).astype(np.float64)
            return Coordinates(frame_sha256, rows)
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError("the release could not be read; fetch it again from the fleet") from error
