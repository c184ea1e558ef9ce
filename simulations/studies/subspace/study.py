"""How much of a fleet's personal adapters the blind sums find, against the centralised SVD and other ways.

    python -m simulations.studies.subspace.study --out DIR    known populations only
    python -m simulations.studies.subspace.study --out DIR --real village blogs    and residuals of real writing

Everything is measured on the clipped residuals: *captured energy* is the part of ``sum_u ||delta_u||^2`` that lies in
the K directions, over what the first K principal directions hold (1 is the oracle). The sums run through the server's
own algorithm and the devices' own rule; the noise is that of the planned round, drawn as Gaussian.
Writes ``DIR/subspace.json`` and ``DIR/subspace.png``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.accounting import noise_multiplier_for
from protocol.bank import Bank
from protocol.frames import Frame
from protocol.round_plan import RoundPlan, plan_task
from protocol.subspace_sketch import sketch_contribution
from server.algorithms import PreferenceBases, PreferencePlan, orthonormal_rows
from simulations.statistics import mean_interval

Matrix = NDArray[np.float64]
METRICS = {"fraction_not_clipped": 1.0, "mean_loss": 0.0, "mean_examples": 1.0, "effective_noise_multiplier": 0.0}
DELTA = 1e-3
SEEDS = 8


@dataclass(frozen=True)
class AfterSum:
    """What the server has after a sum: orthonormal rows (K', d), strongest first, and the bank it publishes."""

    rows: Matrix
    bank: Bank


def plain_frame(dimension: int, seed: int = 0) -> Frame:
    """A frame in which coordinates mean nothing; ``seed`` makes its digest, and so the first rows, another."""
    one = tuple(np.full((1, 1), 1.0, dtype=np.float32) for _ in range(dimension))
    return Frame("0" * 64, 1, 1.0 + seed, tuple(f"m{i}" for i in range(dimension)), one, one)


def clipped(deltas: Matrix, clip_norm: float) -> Matrix:
    """Residuals (n, d) cut to the clip norm."""
    norms = np.linalg.norm(deltas, axis=1, keepdims=True)
    cut: Matrix = deltas * np.minimum(1.0, clip_norm / np.maximum(norms, 1e-300))
    return cut


def blind_sums(
    deltas: Matrix,
    frame: Frame,
    *,
    clip_norm: float,
    basis_count: int,
    oversampling: int = 4,
    sums: int = 3,
    noise_multiplier: float = 0.0,
    seed: int = 0,
) -> list[AfterSum]:
    """Blind subspace iteration over these people, by the server's algorithm; one entry per sum."""
    plan = PreferencePlan(
        shared_rounds=0,
        bases_rounds=sums,
        basis_count=basis_count,
        oversampling=oversampling,
        bases_clip=clip_norm,
    )
    algorithm, random, people = PreferenceBases(frame, plan), np.random.default_rng(seed), len(deltas)
    after: list[AfterSum] = []
    while (chosen := algorithm.next_task(after)) is not None:  # type: ignore[arg-type]
        task = plan_task(
            **{**chosen, "artefacts": {}},
            run_id="study",
            round=len(after),
            noise_multiplier=noise_multiplier,
            cohort_size=people,
            minimum_survivors=people,
            delta=DELTA,
        )
        total = np.zeros(task.update_dimension)
        for delta in deltas:
            total += sketch_contribution(algorithm.rows, delta, clip_norm, noisy=noise_multiplier > 0.0)
        total += RoundPlan.of(task).update_noise_deviation * random.normal(size=total.shape)
        algorithm.absorb(task, total / people, people, METRICS)
        after.append(AfterSum(algorithm.rows, algorithm.bank))
    return after


def private_start(
    deltas: Matrix, *, clip_norm: float, count: int, sums: int, deviation: float, seed: int
) -> list[Matrix]:
    """The other start: a private random unit vector as everybody's weights in the first sum, unit projections after it,
    as many rows as bases, the last sum alone. ``deviation``: of the noise on each number of a sum.
    """
    random, cut, after = np.random.default_rng(seed), clipped(deltas, clip_norm), list[Matrix]()
    weights = random.normal(size=(len(cut), count))
    for _ in range(sums):
        weights /= np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-300)
        total = weights.T @ cut
        after.append(orthonormal_rows(total + deviation * random.normal(size=total.shape))[0])
        weights = cut @ after[-1].T
    return after


def alternating_gradient(
    deltas: Matrix, *, clip_norm: float, count: int, sums: int, deviation: float, seed: int, rate: float
) -> list[Matrix]:
    """Bases trained by gradient: everybody fits w by least squares and offers ``w (x) (delta - w B)``, the gradient of
    ``1/2 ||delta - w B||^2``; the server steps and orthonormalises. The offer is scaled by 2 / C, so that it is bounded
    by C as in the other ways; ``rate``: step in units of 1 / (largest eigenvalue of the mean of delta delta^T).
    """
    random, cut, after = np.random.default_rng(seed), clipped(deltas, clip_norm), list[Matrix]()
    rows = np.linalg.qr(random.normal(size=(cut.shape[1], count)))[0].T
    step = rate * len(cut) / float(np.linalg.svd(cut, compute_uv=False)[0]) ** 2
    for _ in range(sums):
        weights = cut @ rows.T
        total = (2.0 / clip_norm) * weights.T @ (cut - weights @ rows)
        mean = (total + deviation * random.normal(size=total.shape)) / len(cut)
        rows = orthonormal_rows(rows + step * 0.5 * clip_norm * mean)[0]
        after.append(rows)
    return after


def captured(rows: Matrix, deltas: Matrix, count: int) -> float:
    """Energy of the residuals in the first ``count`` rows over that in as many principal directions."""
    best = np.square(np.linalg.svd(deltas, compute_uv=False))[:count].sum()
    return float(np.square(deltas @ rows[:count].T).sum() / best)


def principal_angles(found: Matrix, true: Matrix) -> list[float]:
    """Degrees between two row spaces, smallest first (Bjorck and Golub 1973)."""
    cosines = np.linalg.svd(found @ true.T, compute_uv=False)
    return [float(angle) for angle in np.degrees(np.arccos(np.clip(cosines, 0.0, 1.0)))]


def compare(deltas: Matrix, clip_norm: float, count: int, noise_multiplier: float, *, sums: int = 4) -> dict[str, Any]:
    """Captured energy after each sum, mean and 95 % interval over ``SEEDS`` seeds, for every way."""
    cut, dimension = clipped(deltas, clip_norm), deltas.shape[1]
    deviation = noise_multiplier * clip_norm / np.sqrt(0.9)  # of a sum; the joint bound of `protocol.clipping`

    def of(way: Callable[[int], Sequence[Matrix]]) -> list[tuple[float, float, float]]:
        per_seed = [[captured(rows, cut, count) for rows in way(seed)] for seed in range(SEEDS)]
        return [mean_interval(values) for values in zip(*per_seed, strict=True)]

    def blind(oversampling: int) -> Callable[[int], list[Matrix]]:
        return lambda seed: [
            one.rows
            for one in blind_sums(
                deltas, plain_frame(dimension, seed), clip_norm=clip_norm, basis_count=count,
                oversampling=oversampling, sums=sums, noise_multiplier=noise_multiplier, seed=seed,
            )
        ]  # fmt: skip

    common: dict[str, Any] = {"clip_norm": clip_norm, "count": count, "sums": sums, "deviation": deviation}
    gradients = {rate: of(lambda seed, rate=rate: alternating_gradient(deltas, **common, seed=seed, rate=rate))  # type: ignore[misc]
                 for rate in (0.3, 1.0, 3.0, 10.0, 100.0)}  # fmt: skip
    best = max(gradients, key=lambda rate: gradients[rate][-1][0])
    mean = cut.mean(axis=0, keepdims=True)
    return {
        "blind": of(blind(4)),
        "blind_without_oversampling": of(blind(0)),
        "private_start": of(lambda seed: private_start(deltas, **common, seed=seed)),
        "alternating_gradient": gradients[best],
        "alternating_gradient_rate": best,
        "single_shared_direction": captured(mean / np.linalg.norm(mean), cut, 1)
        * np.square(np.linalg.svd(cut, compute_uv=False))[0]
        / np.square(np.linalg.svd(cut, compute_uv=False))[:count].sum(),
        "oracle_share_of_all_energy": float(
            np.square(np.linalg.svd(cut, compute_uv=False))[:count].sum() / np.square(cut).sum()
        ),
    }


def known_population(people: int, dimension: int, rank: int, share: float, seed: int) -> tuple[Matrix, Matrix]:
    """(residuals (n, d), the true rows): ``share`` of the energy in ``rank`` directions of falling strength (the last
    half as strong as the first), the rest isotropic.
    """
    random = np.random.default_rng([people, dimension, rank, seed])
    rows = np.linalg.qr(random.normal(size=(dimension, max(rank, 1))))[0].T[:rank]
    strength = np.linspace(1.0, 0.5, rank)
    strength *= np.sqrt(share / max(float(np.square(strength).sum()), 1e-300))
    rest = np.sqrt((1.0 - (share if rank else 0.0)) / dimension)
    deltas = random.normal(size=(people, rank)) * strength @ rows
    return deltas + rest * random.normal(size=(people, dimension)), rows


def recover(
    people: int, dimension: int, rank: int, epsilon: float, *, share: float = 0.5, seeds: int = SEEDS
) -> dict[str, Any]:
    """Is K chosen right, and how far from the true directions are the bases? Three sums; over so many populations."""
    z = noise_multiplier_for(epsilon, DELTA, 3) if np.isfinite(epsilon) else 0.0
    counts, angles = list[int](), list[float]()
    for seed in range(seeds):
        deltas, rows = known_population(people, dimension, rank, share, seed)
        clip_norm = float(np.quantile(np.linalg.norm(deltas, axis=1), 0.25))
        frame = plain_frame(dimension, seed)
        bank = blind_sums(
            deltas, frame, clip_norm=clip_norm, basis_count=8, noise_multiplier=z, seed=seed
        )[-1].bank  # fmt: skip
        counts.append(bank.count)
        if rank and bank.count:
            angles.append(float(np.max(principal_angles(bank.directions, rows))))
    return {
        "people": people,
        "dimension": dimension,
        "rank": rank,
        "epsilon": epsilon if np.isfinite(epsilon) else None,
        "noise_multiplier": z,
        "counts": counts,
        "largest_angle_degrees": mean_interval(angles) if angles else None,
    }


def known_study() -> list[dict[str, Any]]:
    """Ranks 0, 1, 3 and 6 in small, middling and large fleets, without noise and at epsilon 8 and 2."""
    sizes = ((64, 64), (300, 64), (300, 512), (2000, 64), (2000, 512))
    return [
        recover(people, dimension, rank, epsilon)
        for people, dimension in sizes
        for rank in (0, 1, 3, 6)
        for epsilon in (np.inf, 8.0, 2.0)
    ] + [recover(2000, 3584, 3, epsilon, seeds=1) for epsilon in (np.inf, 8.0, 2.0)]


def residual_study(deltas: Matrix, basis_counts: Sequence[int] = (1, 2, 4)) -> dict[str, Any]:
    """One population's residuals: every way at each K, without noise and at epsilon 8 and 2 (four sums)."""
    norms = np.linalg.norm(deltas, axis=1)
    clip_norm = float(np.quantile(norms, 0.25))
    noises = {"none": 0.0, **{f"epsilon {e:g}": noise_multiplier_for(e, DELTA, 4) for e in (8.0, 2.0)}}
    return {
        "people": len(deltas),
        "dimension": deltas.shape[1],
        "clip_norm": clip_norm,
        "norm_quartiles": np.quantile(norms, [0.25, 0.5, 0.75]).tolist(),
        "noise_multipliers": noises,
        "ways": {
            f"K={count}": {name: compare(deltas, clip_norm, count, z) for name, z in noises.items()}
            for count in basis_counts
        },
        "chosen_count": {
            name: blind_sums(
                deltas, plain_frame(deltas.shape[1]), clip_norm=clip_norm, basis_count=8, noise_multiplier=z
            )[-1].bank.count
            for name, z in noises.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", nargs="*", default=[], choices=("village", "blogs"))
    parser.add_argument("--people", type=int, default=48, help="bloggers")
    parser.add_argument("--rank", type=int, default=4, help="of the frame of the real residuals")
    given = parser.parse_args()
    from simulations.studies.subspace.plot import draw

    populations = {"known, 300 people, d=128, rank 3": known_population(300, 128, 3, 0.5, 0)[0]}
    if given.real:
        from simulations.studies.subspace.residuals import real_residuals

        for source in given.real:
            deltas = real_residuals(source, given.people, given.rank).deltas
            populations[f"{source}, {len(deltas)} people, d={deltas.shape[1]}"] = deltas
    results = {
        "seeds": SEEDS,
        "delta": DELTA,
        "known": known_study(),
        "residuals": {name: residual_study(deltas) for name, deltas in populations.items()},
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "subspace.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    draw(results, given.out / "subspace.png")


if __name__ == "__main__":
    main()
