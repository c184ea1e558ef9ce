"""One frame, many people: the fixed subspace in which every adapter of a fleet lives.

For each adapted linear map ``W`` (out x in) the frame holds ``U`` (out x r, orthonormal columns) and ``V``
(r x in, orthonormal rows). A *coordinate* of an adapter is ``R`` (r x r), and

    delta W = scale * U R V .

All adapters of a fleet are vectors ``theta`` of length ``d = modules * r * r`` (row-major ``R`` of each module,
one after the other), so sums, means and mixtures of adapters are exact: there are no cross terms of ``A`` and
``B`` as in plain LoRA averaging (the idea of sharing only ``R`` is that of Fed-SB, arXiv 2502.15436; the frame
itself comes from public text only, see ``client/frame_builder.py``).

As ordinary LoRA the same adapter is ``A = V`` (r x in) and ``B = scale * U R`` (out x r) with alpha = r.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import cbor2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError
from protocol.plain_cbor import read_plain

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]

_FORMAT = "penchant-frame-1"
MAX_FRAME_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Frame:
    """The frame of a fleet.

    ``modules`` are GGUF tensor names without ``.weight`` ("blk.26.attn_v"); ``left[i]`` is U (out, r) and
    ``right[i]`` is V (r, in) of module i, float32, in the row order of the Hugging Face model (the adapter
    writer permutes the rows of q and k for GGUF).
    """

    base_sha256: str
    rank: int
    scale: float
    modules: tuple[str, ...]
    left: tuple[Matrix, ...]
    right: tuple[Matrix, ...]

    def __post_init__(self) -> None:
        if not self.modules or not len(self.modules) == len(self.left) == len(self.right):
            raise ProtocolError("a frame needs one U and one V for each of its modules")
        if self.rank < 1 or not math.isfinite(self.scale) or len(set(self.modules)) != len(self.modules):
            raise ProtocolError("a frame needs a rank of at least 1, a finite scale and distinct modules")
        if not all(isinstance(name, str) for name in self.modules):
            raise ProtocolError("a frame names its modules by text")
        for name, u, v in zip(self.modules, self.left, self.right, strict=True):
            if u.ndim != 2 or v.ndim != 2 or u.shape[1] != self.rank or v.shape[0] != self.rank:
                raise ProtocolError(f"frame module {name}: U must be (out, {self.rank}), V ({self.rank}, in)")
            if not (np.isfinite(u).all() and np.isfinite(v).all()):
                raise ProtocolError(f"frame module {name} holds a number that is not finite")

    @property
    def dimension(self) -> int:
        """Length d of every adapter vector in this frame."""
        return len(self.modules) * self.rank * self.rank

    def coordinates(self, theta: Vector) -> Vector:
        """The vector ``theta`` (d,) as one R per module, shape (modules, r, r)."""
        if theta.shape != (self.dimension,):
            raise ProtocolError(f"this frame's adapters have {self.dimension} numbers, got {theta.shape}")
        return theta.reshape(len(self.modules), self.rank, self.rank)

    def lora_factors(self, theta: Vector) -> dict[str, tuple[Matrix, Matrix]]:
        """The adapter as LoRA factors: name -> (A (r, in), B (out, r)) with delta W = B A (alpha = rank)."""
        return {
            name: (v, (self.scale * u @ r.astype(np.float32)).astype(np.float32))
            for name, u, v, r in zip(self.modules, self.left, self.right, self.coordinates(theta), strict=True)
        }

    def to_bytes(self) -> bytes:
        """Canonical bytes: the same frame always gives the same digest. Factors travel as float16."""
        body = {
            "format": _FORMAT,
            "base": self.base_sha256,
            "rank": self.rank,
            "scale": float(self.scale),
            "modules": list(self.modules),
            "shapes": [[u.shape[0], v.shape[1]] for u, v in zip(self.left, self.right, strict=True)],
            "left": [u.astype("<f2").tobytes() for u in self.left],
            "right": [v.astype("<f2").tobytes() for v in self.right],
        }
        return cbor2.dumps(body, canonical=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of ``to_bytes``."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes) -> Frame:
        """Parse and validate a frame; the caller has checked the digest. Raises ProtocolError."""
        if len(data) > MAX_FRAME_BYTES:
            raise ProtocolError(f"the frame is larger than {MAX_FRAME_BYTES} bytes")
        try:
            body = read_plain(data)
            if body["format"] != _FORMAT:
                raise ProtocolError("this is not a frame of a known format")
            rank = int(body["rank"])
            left = tuple(
                np.frombuffer(raw, "<f2").reshape(int(shape[0]), rank).astype(np.float32)
                for raw, shape in zip(body["left"], body["shapes"], strict=True)
            )
            right = tuple(
                np.frombuffer(raw, "<f2").reshape(rank, int(shape[1])).astype(np.float32)
                for raw, shape in zip(body["right"], body["shapes"], strict=True)
            )
            return Frame(str(body["base"]), rank, float(body["scale"]), tuple(body["modules"]), left, right)
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError("the frame could not be read; fetch it again from the fleet") from error


def carry(theta: Vector, source: Frame, target: Frame) -> tuple[Vector, float]:
    """The adapter ``theta`` (d_source,) of one frame in the coordinates (d_target,) of another, and how much of it
    is there.

    With ``delta W = s U R V`` the target's coordinates are those of the nearest change of weights it can hold,

        R' = (s / s') U'^+ U R V V'^+          (U'^+ = U'^T up to rounding: U' has orthonormal columns),

    which is ``delta W`` itself where the target's spans contain the source's (frames of the same public gradient
    and different ranks are nested). The pseudo-inverse keeps that exact although factors travel as float16.

    The second value is the kept fraction of the norm, ``|delta W'|_F / |delta W|_F`` over all modules, in [0, 1];
    modules that the target lacks are lost, and count. 1 for the adapter that changes nothing. Raises ProtocolError
    if the frames belong to different bases, or a module differs in shape.
    """
    if source.base_sha256 != target.base_sha256:
        raise ProtocolError("the two frames belong to different base models; an adapter cannot be carried over")
    places = {name: position for position, name in enumerate(target.modules)}
    carried = np.zeros((len(target.modules), target.rank, target.rank))
    whole, kept = 0.0, 0.0
    for position, (name, r) in enumerate(zip(source.modules, source.coordinates(theta), strict=True)):
        u, v = source.left[position].astype(np.float64), source.right[position].astype(np.float64)
        whole += source.scale**2 * _squared_norm(u, r, v)
        if name not in places:
            continue
        place = places[name]
        into, onto = target.left[place].astype(np.float64), target.right[place].astype(np.float64)
        if len(into) != len(u) or onto.shape[1] != v.shape[1]:
            raise ProtocolError(f"the two frames disagree on the shape of {name}")
        # U'^+ U (r', r) and V V'^+ (r, r')
        carried[place] = np.linalg.pinv(into) @ u @ (source.scale * r) @ (v @ np.linalg.pinv(onto))
        kept += _squared_norm(into, carried[place], onto)
        carried[place] /= target.scale
    fraction = min(1.0, math.sqrt(kept / whole)) if whole > 0 else 1.0
    return carried.ravel(), fraction


def _squared_norm(u: Vector, r: Vector, v: Vector) -> float:
    """|U R V|_F^2, from the Gram matrices of U and V."""
    return float(np.sum((u.T @ u @ r) * (r @ v @ v.T)))
