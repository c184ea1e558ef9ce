"""Which features a reward should be linear in: sources and k compared by a global model of real choices.

    python -m simulations.choices.feature_sources --json FILE    (PENCHANT_DATA names the folder that holds ukpconvarg/)

One Bradley-Terry model for everybody (ridge logistic regression on differences of phi, a tie counted as half a choice
each way) is fitted to the training judgements of all judges, and scored on the held-out judgements of those with at
least 40 (ties left out), mean over people with a 95 % interval. Two questions:

- `same`: the held-out quarter as it is. Other judges have judged the same arguments, so a map with many numbers can
  tell the arguments apart and learn each one's strength.
- `unseen`: the same judgements, each predicted by a model that saw no judgement of its debate (four folds of debates).
  This is what a device meets: answers that nobody has rated.

The feature map is fitted on the arguments without any judgement, grouped by debate. The ridge is chosen on training
judgements alone: of every fifth judge for `same`, of every fifth remaining debate for `unseen`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge_runtime.models.catalogue import write_atomically
from protocol.feature_map import SOURCES, Source, fit_feature_map
from simulations.choices.data import ChoiceSet, load_ukpconvarg
from simulations.choices.feature_cache import cached_features
from simulations.datasets.writing import data_folder
from simulations.statistics import mean_interval

COMBINATIONS: Final[tuple[tuple[Source, ...], ...]] = (
    ("style",),
    ("embedding",),
    ("hidden",),
    ("embedding", "style"),
    ("hidden", "style"),
    ("hidden", "embedding"),
    ("hidden", "embedding", "style"),
)
DIMENSIONS: Final = (32, 64, 128)
FOLDS: Final = 4
RIDGES: Final = (0.3, 3.0, 30.0, 300.0)
_STEPS: Final = 12

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Judgements, one row each: items (n, 2), outcome (n,) in {1, 0, 0.5}, the judge's number and the debate's."""

    items: NDArray[np.int64]
    outcomes: Array
    judges: NDArray[np.int64]
    debates: NDArray[np.int64]

    def where(self, rows: NDArray[np.bool_]) -> Judged:
        return Judged(self.items[rows], self.outcomes[rows], self.judges[rows], self.debates[rows])


@dataclass(frozen=True)
class Score:
    """Of one set of features; accuracies and nll (nats) are (mean, low, high) over people."""

    features: str
    k: int
    same_accuracy: tuple[float, float, float]
    same_nll: tuple[float, float, float]
    unseen_accuracy: tuple[float, float, float]
    unseen_nll: tuple[float, float, float]


def collect(choice_set: ChoiceSet) -> tuple[Judged, Judged]:
    """(training, held out) judgements of a choice set."""
    names = {name: number for number, name in enumerate(dict.fromkeys(choice_set.groups))}
    debates = np.array([names[name] for name in choice_set.groups])
    parts = []
    for held_out in (False, True):
        rows = [
            (person.held_out_pairs, person.held_out_outcomes) if held_out else (person.pairs, person.outcomes)
            for person in choice_set.people
        ]
        items = np.concatenate([pairs for pairs, _ in rows])
        judges = np.repeat(np.arange(len(rows)), [len(pairs) for pairs, _ in rows])
        parts.append(Judged(items, np.concatenate([outcomes for _, outcomes in rows]), judges, debates[items[:, 0]]))
    return parts[0], parts[1]


def fit(phi: Array, judged: Judged, ridge: float) -> Array:
    """(k,) theta that minimises sum nll + ridge |theta|^2 / 2; equal pairs are one row with a weight."""
    swapped = judged.items[:, 0] > judged.items[:, 1]
    pairs = np.where(swapped[:, None], judged.items[:, ::-1], judged.items)
    wins = np.where(swapped, 1 - judged.outcomes, judged.outcomes)
    distinct, index = np.unique(pairs, axis=0, return_inverse=True)
    counts = np.bincount(index.ravel()).astype(float)
    share = np.bincount(index.ravel(), weights=wins) / counts
    x = phi[distinct[:, 0]] - phi[distinct[:, 1]]
    theta = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = _sigmoid(x @ theta)
        gradient = x.T @ (counts * (p - share)) + ridge * theta
        hessian = (x * (counts * p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(theta))
        step = np.linalg.solve(hessian, gradient)
        theta = theta - step
        if np.abs(step).max() < 1e-6 * np.abs(theta).max():
            break
    return theta


def nll(phi: Array, judged: Judged, theta: Array) -> Array:
    """(n,) nats of each judgement."""
    margin = (phi[judged.items[:, 0]] - phi[judged.items[:, 1]]) @ theta
    return np.asarray(np.logaddexp(0, -margin) + (1 - judged.outcomes) * margin)


def chosen_fit(phi: Array, judged: Judged, validation: NDArray[np.bool_]) -> Array:
    """theta of all of `judged` with the ridge that predicts its part `validation` best from the rest."""
    rest, part = judged.where(~validation), judged.where(validation)
    losses = [nll(phi, part, fit(phi, rest, ridge)).mean() for ridge in RIDGES]
    return fit(phi, judged, RIDGES[int(np.argmin(losses))])


def score(features: str, phi: Array, training: Judged, held_out: Judged) -> Score:
    """Both questions for the features `phi` (items, k)."""
    decided = held_out.where(held_out.outcomes != 0.5)
    same = nll(phi, decided, chosen_fit(phi, training, training.judges % 5 == 0))
    unseen = np.empty(len(decided.outcomes))
    for fold in range(FOLDS):
        seen = training.where(training.debates % FOLDS != fold)
        validation = np.isin(seen.debates, np.unique(seen.debates)[::5])
        rows = decided.debates % FOLDS == fold
        unseen[rows] = nll(phi, decided.where(rows), chosen_fit(phi, seen, validation))
    return Score(features, phi.shape[1], *_over_people(same, decided), *_over_people(unseen, decided))


def _over_people(losses: Array, judged: Judged) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """((accuracy, low, high), (nll, low, high)); a judgement is predicted right if its nll is below log 2."""
    people = [losses[judged.judges == judge] for judge in np.unique(judged.judges)]
    right = [float(np.mean(own < np.log(2))) for own in people]
    return mean_interval(right), mean_interval([float(own.mean()) for own in people])


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def compare(
    choice_set: ChoiceSet,
    blocks: dict[Source, NDArray[np.float32]],
    combinations: Sequence[tuple[Source, ...]] = COMBINATIONS,
    dimensions: Sequence[int] = DIMENSIONS,
) -> list[Score]:
    """A score per combination of `blocks` (raw features (items, width) of each source) and k."""
    training, held_out = collect(choice_set)
    scores = []
    for sources in combinations:
        raw = np.concatenate([blocks[source] for source in sources], axis=1)
        widths = {source: blocks[source].shape[1] for source in sources}
        for k in dimensions if sources != ("style",) else (widths["style"],):
            feature_map = fit_feature_map(
                raw,
                widths,
                k,
                base_sha256="compared" * ("hidden" in sources),
                embedder_sha256="compared" * ("embedding" in sources),
                groups=choice_set.groups,
            )
            scores.append(score("+".join(sources), feature_map.apply(raw), training, held_out))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    options = parser.parse_args()
    choice_set = load_ukpconvarg(data_folder())
    blocks = {source: cached_features("ukpconvarg", choice_set.items, [source]) for source in SOURCES}
    scores = compare(choice_set, blocks)
    table = Table("features", "k", "same: %", "nll", "unseen: %", "nll", box=None)
    for one in scores:
        cells = [_shown(one.same_accuracy, 100), _shown(one.same_nll), _shown(one.unseen_accuracy, 100)]
        table.add_row(one.features, str(one.k), *cells, _shown(one.unseen_nll))
    Console(width=120).print(table)
    if options.json:
        rows = [asdict(one) for one in scores]
        write_atomically(options.json, json.dumps({"data": "ukpconvarg", "seed": 0, "scores": rows}, indent=1).encode())


def _shown(interval: tuple[float, float, float], factor: float = 1.0) -> str:
    mean, low, high = (factor * value for value in interval)
    digits = 1 if factor > 1 else 3
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    main()
