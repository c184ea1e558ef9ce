"""People of unequal ranks, and the mean of their products B_u A_u itself, re-compressed to one rank.

Stacked factors hold a sum of products exactly whatever the ranks (FLoRA, Wang et al. 2024, arXiv 2409.05976;
``adapter_file.mix_adapters``), and ``compress`` finds the best rank-r adapter of a stack from QR of its two sides,
without the full matrix:

    [B_1 .. B_n] = Q_B R_B,   [A_1; ..; A_n]^T = Q_A R_A,   SVD of R_B R_A^T (as large as the ranks together)

But whoever stacks sees everybody's factors. Through a secure sum only sums are seen, so a round here is two of them
(the randomised range finder of Halko, Martinsson and Tropp 2011, 4.1 and 5.1; FedASK, arXiv 2507.09990, does the same):

    Y = sum_u D_u Omega,   Q = orth(Y),   P = sum_u D_u^T Q,   sum_u D_u ~ Q P^T       (Omega public, in x s)

with D_u the change of u's product, never formed: only B_u (A_u Omega) and A_u^T (B_u^T Q). It is exact if the changes'
ranks together are at most the sketch's width s, and near the best approximation of rank s otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from edge_runtime.adapters.adapter_file import Factors, mix_adapters
from protocol.frames import Matrix, Vector
from simulations.strategies.lora_training import TorchTexts
from simulations.strategies.strategy import (
    PUBLIC_SEED,
    AdaptedMaps,
    Strategy,
    Upload,
    pack,
    size_of,
    unpack,
)


def compress(adapter: Factors, rank: int) -> Factors:
    """The best approximation of every B A by rank ``rank`` (Eckart and Young), with orthonormal rows in A.

    Where the product is of lower rank, A's spare rows are those of the given A's span and B's columns zero: training
    can go on from there.
    """
    compressed = {}
    for name, (a, b) in adapter.items():
        left, upper = np.linalg.qr(b.astype(np.float64))  # (out, k), (k, R)
        right, lower = np.linalg.qr(a.T.astype(np.float64))  # (in, l), (l, R)
        u, values, v = np.linalg.svd(upper @ lower.T, full_matrices=False)
        kept_b = (left @ u[:, :rank]) * values[:rank]
        compressed[name] = ((v[:rank] @ right.T).astype(np.float32), kept_b.astype(np.float32))
    return compressed


@dataclass(frozen=True)
class ProductState:
    """``shared``: the fleet's adapter. ``basis``: after a round's first sum, Q (out, s) of every map. ``round``: rounds
    finished, which names the sketch."""

    shared: Factors
    basis: tuple[Matrix, ...] | None = None
    round: int = 0


@dataclass(frozen=True)
class OwnProduct:
    """A person's rank and, between a round's two sums, the change that their training made (stacked factors)."""

    rank: int
    change: Factors | None = None


@dataclass(frozen=True)
class ExactProduct(Strategy[ProductState, TorchTexts]):
    """``ranks``: people's ranks, dealt in turn. ``width`` s of the sketch. ``maps.rank``: of the fleet's adapter.
    ``rate``: Adam's learning rate on the device."""

    maps: AdaptedMaps
    ranks: tuple[int, ...]
    width: int
    rate: float
    name: ClassVar[str] = "exact_product"
    sums_per_round: ClassVar[int] = 2

    @property
    def numbers_trained(self) -> int:
        """A and B of the person with the largest rank."""
        return max(self.ranks) * sum(rows + columns for rows, columns in self.maps.shapes)

    def start(self) -> ProductState:
        """A public and random, B zero."""
        return ProductState(self.maps.factors(self.maps.random_a(), self.maps.zero_b()))

    def join(self, person: int) -> OwnProduct:
        """This person's rank."""
        return OwnProduct(self.ranks[person % len(self.ranks)])

    def dimension(self, state: ProductState) -> int:
        """All of Y, then all of P."""
        return size_of(self._y_shapes if state.basis is None else self._p_shapes)

    def release(self, state: ProductState) -> bytes:
        """The fleet's adapter before a round's first sum, the basis before its second."""
        if state.basis is not None:
            return self.maps.release(pack(state.basis))
        lefts, rights = self.maps.split(state.shared)
        return self.maps.release(pack([*lefts, *rights]))

    def upload(self, state: ProductState, own: Any, data: TorchTexts, seed: int) -> Upload:
        """First D Omega, after training; then D^T Q of the same change."""
        if state.basis is not None and own.change is not None:
            vector = pack([a.T @ (b.T @ q) for (a, b), q in zip(self._pairs(own.change), state.basis, strict=True)])
            return Upload(vector, 0.0, replace(own, change=None))
        begin = compress(state.shared, own.rank)
        trained = data.train(begin, train_a=True, train_b=True, rate=self.rate, seed=seed)
        change = mix_adapters([(trained.adapter, 1.0), (begin, -1.0)])
        sketches = self._sketches(state.round)
        vector = pack([b @ (a @ omega) for (a, b), omega in zip(self._pairs(change), sketches, strict=True)])
        return Upload(vector, trained.loss, replace(own, change=change))

    def absorb(self, state: ProductState, mean: Vector) -> ProductState:
        """First the basis of the mean change, then the change itself, added and re-compressed."""
        if state.basis is None:
            basis = tuple(np.linalg.qr(y)[0].astype(np.float32) for y in unpack(mean, self._y_shapes))
            return replace(state, basis=basis)
        change = self.maps.factors([p.T for p in unpack(mean, self._p_shapes)], state.basis)
        shared = compress(mix_adapters([(state.shared, 1.0), (change, 1.0)]), self.maps.rank)
        return ProductState(shared, None, state.round + 1)

    def adapter(self, state: ProductState, own: Any) -> Factors:
        """The fleet's adapter as far as this person's rank reaches."""
        return compress(state.shared, own.rank)

    def _pairs(self, adapter: Factors) -> Sequence[tuple[Matrix, Matrix]]:
        return [adapter[name] for name in self.maps.names]

    def _sketches(self, round: int) -> list[Matrix]:
        draw = np.random.default_rng((PUBLIC_SEED, round))
        shapes = self._p_shapes
        return [(draw.normal(size=shape) / np.sqrt(self.width)).astype(np.float32) for shape in shapes]

    @property
    def _y_shapes(self) -> list[tuple[int, int]]:
        return [(rows, self.width) for rows, _ in self.maps.shapes]

    @property
    def _p_shapes(self) -> list[tuple[int, int]]:
        return [(columns, self.width) for _, columns in self.maps.shapes]
