"""The numbers of an adapter as ordinary LoRA: every map W (out x in) of the adapted layers gets ``delta W = B A``.

    y = x W^T + (x A^T) B^T           A (r, in), B (out, r); x (n, in)

Hu et al. 2022 with alpha = r, A drawn uniformly from +-1/sqrt(in) (PEFT's Kaiming start) and B = 0, so that training
starts at the base. ``theta`` (d,) holds the factors of all maps, A before B, row-major; d = r * sum(in + out), some
160 times the numbers of a frame, but no artefact of public text is needed. It serves the tier that never leaves the
device; what is summed over a fleet needs a frame (sums of products are no products of sums).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from edge_runtime.adapters.adapter_file import Factors
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector


@dataclass(frozen=True)
class LoraLayout:
    """Where each factor lies in theta: ``shapes[i]`` is (out, in) of module i."""

    modules: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    rank: int

    @staticmethod
    def of(shapes: Mapping[str, tuple[int, int]], rank: int) -> LoraLayout:
        """Rank ``rank`` for maps of these ``shapes`` (``TorchModel.module_shapes``)."""
        if not shapes or rank < 1:
            raise PenchantError("ordinary LoRA needs a rank of at least 1 and a map of the adapted layers")
        return LoraLayout(tuple(shapes), tuple(shapes.values()), rank)

    @property
    def dimension(self) -> int:
        """Length d of theta."""
        return self.rank * sum(out + inner for out, inner in self.shapes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of what a theta needs to be read."""
        return sha256(repr((self.modules, self.shapes, self.rank)).encode()).hexdigest()

    def start(self, seed: int) -> Vector:
        """Theta (d,) of an adapter that changes nothing: A drawn from ``seed``, B zero. In float32, for its length."""
        random = np.random.default_rng(seed)
        theta: Vector = np.zeros(self.dimension).astype(np.float32)
        for a, _ in self._slices(theta):
            a[:] = random.uniform(-1.0, 1.0, a.shape) / np.sqrt(a.shape[1])
        return theta

    def lora_factors(self, theta: Vector) -> Factors:
        """The adapter's factors for ``write_adapter(..., alpha=rank)``: module -> (A (r, in), B (out, r))."""
        pairs = zip(self.modules, self._slices(self._checked(theta)), strict=True)
        return {name: (a.astype(np.float32), b.astype(np.float32)) for name, (a, b) in pairs}

    def split(self, theta: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(module, A, B) as views of a tensor (1, d); gradients flow back in one piece."""
        sizes = [self.rank * size for out, inner in self.shapes for size in (inner, out)]
        parts = iter(torch.split(theta[0], sizes))
        for name, (out, inner) in zip(self.modules, self.shapes, strict=True):
            yield name, next(parts).view(self.rank, inner), next(parts).view(out, self.rank)

    def flat(self, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Vector:
        """The inverse of ``lora_factors``, from tensors; modules that are not there are zero."""
        theta = np.zeros(self.dimension)
        for name, (a, b) in zip(self.modules, self._slices(theta), strict=True):
            if name in pairs:
                a[:], b[:] = (part.detach().double().numpy() for part in pairs[name])
        return theta

    def _slices(self, theta: Vector) -> Iterator[tuple[Vector, Vector]]:
        """Views of theta: A and B of each module."""
        first = 0
        for out, inner in self.shapes:
            middle, last = first + self.rank * inner, first + self.rank * (inner + out)
            yield theta[first:middle].reshape(self.rank, inner), theta[middle:last].reshape(out, self.rank)
            first = last

    def _checked(self, theta: Vector) -> Vector:
        if theta.shape != (self.dimension,):
            raise PenchantError(f"this adapter has {self.dimension} numbers, got {theta.shape}")
        return theta


AdapterSpace = Frame | LoraLayout  # where the numbers of a personal adapter live
