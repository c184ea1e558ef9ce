"""From a person's history to one soft token: the projection that a fleet shares, and the maths of using it.

Persona-Plug (Liu et al. 2024, arXiv 2409.11901) puts an embedding of the whole history before the prompt of a frozen
model; Embedding-to-Prefix (Huber et al. 2025, arXiv 2505.17051) makes it one learnt projection to one soft token. Their
projections are MLPs of 0.3 to 1 million numbers, too many for the noise that hides a person among tens or hundreds.
Here only a small matrix between two fixed, public bases is learnt:

    p = sum_i softmax_i(q . h_i / temperature) h_i     h_i (m,) unit vectors of the history, q (m,) of the request
    x = N(V (p - centre))                              V (r_in, m): leading directions of public texts, N: unit length
    c = b + strength * R x                             R (r_out, r_in), b (r_out,): learnt, r_out * (r_in + 1) numbers
    token = norm * N(anchor + U c)                     U (n, r_out), anchor (n,) of unit length: public, of the model

``norm`` is the mean length of the model's token embeddings (the 539.97 of PPlug's code, measured). The temperature is
ours: without it cosines in [-1, 1] give all but equal weights. ``theta`` is R row by row, then b. With R = 0, with
strength 0 or without a history the token is the fleet's, the same for everybody; with b = 0 too it is the anchor.

What a person learns from their texts is pulled back from the token by ``pull_back``, so training needs no second
implementation of these formulas.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import cbor2
import numpy as np
from numpy.typing import NDArray

from protocol.coordinates import Coordinates
from protocol.errors import ProtocolError
from protocol.frames import Matrix, Vector
from protocol.plain_cbor import read_plain

_FORMAT = "penchant-projection-frame-1"
MAX_PROJECTION_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class ProjectionFrame:
    """The fixed part, a release artefact like ``Frame``: base and embedder by SHA-256, ``temperature``, ``norm``,
    ``anchor`` (n,), ``centre`` (m,), ``inputs`` = V (r_in, m), ``outputs`` = U (n, r_out); float32."""

    base_sha256: str
    embedder_sha256: str
    temperature: float
    norm: float
    anchor: Matrix
    centre: Matrix
    inputs: Matrix
    outputs: Matrix

    def __post_init__(self) -> None:
        if self.inputs.ndim != 2 or self.outputs.ndim != 2 or 0 in (*self.inputs.shape, *self.outputs.shape):
            raise ProtocolError("a projection needs at least one direction of texts and one of tokens")
        if self.centre.shape != self.inputs.shape[1:] or self.anchor.shape != self.outputs.shape[:1]:
            raise ProtocolError("a projection's centre and anchor must be as wide as its directions")
        if not (0.0 < self.temperature < math.inf and 0.0 < self.norm < math.inf):
            raise ProtocolError("a projection needs a temperature and a norm above zero")
        if not all(np.isfinite(part).all() for part in (self.anchor, self.centre, self.inputs, self.outputs)):
            raise ProtocolError("a projection holds a number that is not finite")
        if not self.anchor.any():
            raise ProtocolError("a projection's anchor must not be zero")

    @property
    def dimension(self) -> int:
        """Length d of theta: r_out * (r_in + 1)."""
        rank: int = self.outputs.shape[1]
        return rank * (len(self.inputs) + 1)

    def parts(self, theta: Vector) -> tuple[Vector, Vector]:
        """``theta`` (d,) as R (r_out, r_in) and b (r_out,)."""
        if theta.shape != (self.dimension,):
            raise ProtocolError(f"this projection has {self.dimension} numbers, got {theta.shape}")
        rank = self.outputs.shape[1]
        return theta[:-rank].reshape(rank, len(self.inputs)), theta[-rank:]

    def person(self, history: NDArray[np.float32], query: NDArray[np.float32] | None = None) -> Vector:
        """x (r_in,) from vectors (n, m) of a history, weighed by their closeness to ``query`` (m,), equally without
        one; zero without a history."""
        if history.ndim != 2 or history.shape[1:] != self.centre.shape:
            raise ProtocolError(f"this projection reads vectors of {len(self.centre)} numbers")
        if not len(history):
            return np.zeros(len(self.inputs))
        x: Vector = self.inputs.astype(np.float64) @ (pool(history, query, self.temperature) - self.centre)
        length = float(np.linalg.norm(x))
        return x / length if length > 0.0 else x

    def token(self, theta: Vector, person: Vector, strength: float = 1.0) -> Vector:
        """The soft token (n,) of a person x (r_in,)."""
        mixture = self._mixture(theta, person, strength)
        result: Vector = self.norm * mixture / np.linalg.norm(mixture)
        return result

    def pull_back(self, theta: Vector, person: Vector, token_gradient: Vector) -> Vector:
        """The gradient (d,) for theta of a loss whose gradient for the token is ``token_gradient`` (n,)."""
        mixture = self._mixture(theta, person, 1.0)
        length = float(np.linalg.norm(mixture))
        unit = mixture / length
        along = token_gradient - unit * (unit @ token_gradient)  # the length of the token is fixed
        gradient = self.outputs.T.astype(np.float64) @ along * (self.norm / length)  # for c (r_out,)
        return np.concatenate([np.outer(gradient, person).ravel(), gradient])

    def _mixture(self, theta: Vector, person: Vector, strength: float) -> Vector:
        matrix, bias = self.parts(theta)
        mixture: Vector = self.anchor + self.outputs.astype(np.float64) @ (bias + strength * (matrix @ person))
        return mixture

    def to_bytes(self) -> bytes:
        """Canonical bytes: the same projection always gives the same digest."""
        body = {
            "format": _FORMAT,
            "base": self.base_sha256,
            "embedder": self.embedder_sha256,
            "temperature": float(self.temperature),
            "norm": float(self.norm),
            "ranks": [len(self.inputs), self.outputs.shape[1]],
            "anchor": self.anchor.astype("<f4").tobytes(),
            "centre": self.centre.astype("<f4").tobytes(),
            "inputs": self.inputs.astype("<f4").tobytes(),
            "outputs": self.outputs.astype("<f4").tobytes(),
        }
        return cbor2.dumps(body, canonical=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of ``to_bytes``; the ``Coordinates`` of theta name it as their frame."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes) -> ProjectionFrame:
        """Parse and validate; the caller has checked the digest. Raises ProtocolError."""
        if len(data) > MAX_PROJECTION_BYTES:
            raise ProtocolError(f"the projection is larger than {MAX_PROJECTION_BYTES} bytes")
        try:
            body = read_plain(data)
            if body["format"] != _FORMAT:
                raise ProtocolError("this is not a projection of a known format")
            rows, columns = (int(rank) for rank in body["ranks"])

            def numbers(name: str) -> Matrix:
                return np.frombuffer(body[name], "<f4").astype(np.float32)

            return ProjectionFrame(
                str(body["base"]),
                str(body["embedder"]),
                float(body["temperature"]),
                float(body["norm"]),
                numbers("anchor"),
                numbers("centre"),
                numbers("inputs").reshape(rows, -1),
                numbers("outputs").reshape(-1, columns),
            )
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError("the projection could not be read; fetch it again from the fleet") from error


@dataclass(frozen=True)
class UserProjection:
    """A projection ready for use: the frame and the fleet's ``theta`` (d,)."""

    frame: ProjectionFrame
    theta: Vector

    def __post_init__(self) -> None:
        self.frame.parts(self.theta)
        if not np.isfinite(self.theta).all():
            raise ProtocolError("a projection's numbers must be finite")

    def token(self, person: Vector, strength: float = 1.0) -> Vector:
        """The soft token (n,) of a person x (r_in,)."""
        return self.frame.token(self.theta, person, strength)

    def to_bytes(self) -> bytes:
        """The fleet's release: everything a device needs, canonical; theta travels as float32."""
        rows = Coordinates(self.frame.digest, self.theta[None])
        return cbor2.dumps({"frame": self.frame.to_bytes(), "theta": rows.to_bytes()}, canonical=True)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of ``to_bytes``."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes) -> UserProjection:
        """Parse and validate a release; the caller has checked its digest. Raises ProtocolError."""
        if len(data) > MAX_PROJECTION_BYTES:
            raise ProtocolError(f"the projection is larger than {MAX_PROJECTION_BYTES} bytes")
        try:
            body = read_plain(data)
            frame = ProjectionFrame.from_bytes(body["frame"])
            rows = Coordinates.from_bytes(body["theta"], frame_sha256=frame.digest, dimension=frame.dimension).rows
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError("the projection could not be read; fetch it again from the fleet") from error
        return UserProjection(frame, rows[0])


def pool(history: NDArray[np.float32], query: NDArray[np.float32] | None, temperature: float) -> Vector:
    """softmax(history . query / temperature)-weighted mean (m,) of unit vectors (n, m), n > 0; the plain mean without
    a query."""
    vectors = history.astype(np.float64)
    if query is None:
        mean: Vector = vectors.mean(0)
        return mean
    scores = vectors @ query.astype(np.float64) / temperature
    weights = np.exp(scores - scores.max())
    pooled: Vector = weights @ vectors / weights.sum()
    return pooled
