"""Does knowing the kinds of people help with a newcomer? Placement, gate and codes against the plain few-shot fit.

    python -m simulations.studies.placement.study --out DIR
    python -m simulations.studies.placement.study --out DIR --data clustered --data taste

For each population a bank is learnt from the fleet without noise, so that only the centroids differ; then the fleet's
centroids without noise and at epsilon 8 and 2 (of the centroid rounds alone, delta = 1 / n^1.1). Newcomers are judged
by their first 0, 4, 8, 16, 32 choices; every number is a mean over newcomers with a 95 % bootstrap interval, and gains
over `global` and over `map` are paired. A fifth of the fleet's people with held-out choices, at most 120, leave it to
choose temperatures and numbers of centroids. Private runs are tuned on one draw of the noise and judged on three
others, a person's score being their mean. `simulations.studies.placement.methods` says what the arms are.

`clustered` is synthetic: eight kinds of people in six directions, a person's weights 0.35 of the bank's spread around
their kind's. The other populations are those of `simulations.choices.tables`. Where the fleet's own choice is that it
has no direction worth publishing, placement has nothing to place by and everybody stays with `global`. To see whether
placing by directions that mean little would hurt, the study then takes four all the same (`bank: forced`): the shared
taste of the fleet, directions fitted centrally, and the spread under which `map` does best on the tuning people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from edge_runtime.commands.support import one_line_errors
from protocol.bank import Bank
from protocol.feature_map import FeatureMap
from protocol.reward_model import ChoiceBatch, Choices
from server.centroids import CentroidPlan
from server.reward_bases import RewardPlan
from simulations.choices.data import Judge, judges
from simulations.choices.features import item_features
from simulations.choices.reward_fleet import centralised_bases, identity_map, train_reward_bases
from simulations.choices.scores import Scores, bootstrap_interval, mean_scores
from simulations.choices.tables import Data as Table
from simulations.choices.tables import Features, load
from simulations.datasets.writing import data_folder
from simulations.studies.placement.fleet import DrawnCentroids, draw_centroids
from simulations.studies.placement.methods import (
    TEMPERATURES,
    WITH_CENTROIDS,
    WITHOUT_CENTROIDS,
    controversial,
    predict,
    tune,
)
from simulations.study_command import as_command

COUNTS: Final = (0, 4, 8, 16, 32)
TUNED_AT: Final = (4, 8, 16, 32)
EPSILONS: Final = (None, 8.0, 2.0)
CENTROID_COUNTS: Final = (4, 8, 16)
NOISE_SEEDS: Final = (1, 2, 3)
MOST_TUNING: Final = 120
ROUNDING: Final = 1e-9  # what the mean of three equal scores may be off by
COMPARED_AT: Final = 8
FORCED_DIRECTIONS: Final = 4
FORCED_SPREADS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)

Array = NDArray[np.float64]
Echo = Callable[[str], None]


class Data(StrEnum):
    """The populations."""

    CLUSTERED = "clustered"
    TASTE = "taste"
    UKPCONVARG = "ukpconvarg"
    MOVIELENS = "movielens"


@dataclass(frozen=True, eq=False)
class Population:
    """`fleet` draws the centroids, `tuning` people choose the settings, `newcomers` are reported."""

    name: str
    fleet: list[Choices]
    tuning: list[Judge]
    newcomers: list[Judge]
    feature_map: FeatureMap


def population_of(name: str, everybody: Sequence[Judge], feature_map: FeatureMap) -> Population:
    """Every fifth fleet member with held-out choices tunes, `MOST_TUNING` at most; everybody else is the fleet."""
    reported = [judge for judge in everybody if judge.role == "fleet" and len(judge.held_out)]
    tuning = reported[::5][:MOST_TUNING]
    left = {judge.user for judge in tuning}
    fleet = [judge.choices for judge in everybody if judge.role == "fleet" and judge.user not in left]
    newcomers = [judge for judge in everybody if judge.role == "newcomer" and len(judge.held_out)]
    return Population(name, fleet, tuning, newcomers, feature_map)


def clustered_judges(
    seed: int, *, fleet: int = 1500, newcomers: int = 500, kinds: int = 8, directions: int = 6, features: int = 24
) -> list[Judge]:
    """People of `kinds` equally common kinds: weights N(centroid, 0.35^2) around centroids N(0, 1), 32 choices and 24
    held-out ones between random answers."""
    random = np.random.default_rng([seed, 5])
    rows = np.linalg.qr(random.normal(size=(features, directions)))[0].T
    shared, centroids = random.normal(size=features) * 0.35, random.normal(size=(kinds, directions))
    people = []
    for number in range(fleet + newcomers):
        weights = centroids[random.integers(kinds)] + 0.35 * random.normal(size=directions)
        taste, parts = shared + 2.0 * weights @ rows, []
        for count in (32, 24):
            differences = random.normal(size=(count, features)) * 0.5
            rewards, drawn = differences @ taste, random.random(count)
            first, second = (1.0 / (1.0 + np.exp(0.2 - sign * rewards)) for sign in (1.0, -1.0))
            outcomes = np.where(drawn < first, 1.0, np.where(drawn < first + second, 0.0, 0.5))
            parts.append(Choices(differences, outcomes))
        people.append(Judge(f"clustered-{number}", "fleet" if number < fleet else "newcomer", parts[0], parts[1]))
    return people


def learnt_bank(population: Population) -> tuple[Bank, str]:
    """(the fleet's bank without noise, "learnt"), or ("forced") one with directions that the fleet did not want."""
    learnt = train_reward_bases(population.fleet, RewardPlan(), feature_map=population.feature_map).bank
    if learnt.count:
        return learnt, "learnt"
    rows = centralised_bases(population.fleet, FORCED_DIRECTIONS, tie_width=learnt.tie_width).directions
    forced = [
        replace(learnt, directions=rows, spread=np.full(len(rows), width), centroids=np.zeros((0, len(rows))))
        for width in FORCED_SPREADS
    ]
    return min(forced, key=lambda bank: tune("map", population.tuning, TUNED_AT, bank, None)[0]), "forced"


def study(population: Population, echo: Echo) -> dict[str, Any]:
    """All arms on one population, as it is written to JSON."""
    bank, origin = learnt_bank(population)
    echo(f"{population.name}: {origin} bank of {bank.count} directions")
    batch, people, delta = ChoiceBatch.of(population.fleet), population.newcomers, len(population.fleet) ** -1.1
    longest = max(len(judge.choices) for judge in people)
    counts = [count for count in COUNTS if count <= longest]
    scores: dict[str, dict[int, Scores]] = {
        arm: {count: predict(arm, people, count, bank).scores(people) for count in counts} for arm in WITHOUT_CENTROIDS
    }
    settings: dict[str, Any] = {}
    contested: dict[str, list[Array]] = {}
    split: list[NDArray[np.bool_]] = []
    for epsilon in EPSILONS:
        echo(f"{population.name}: centroids at epsilon {epsilon or 'infinity'}")

        def drawn(count: int, seed: int, epsilon: float | None = epsilon) -> DrawnCentroids:
            plan = CentroidPlan(centroid_count=count)
            return draw_centroids(batch, bank, population.feature_map, plan, epsilon=epsilon, delta=delta, seed=seed)

        trial = {count: drawn(count, 0) for count in CENTROID_COUNTS}
        for arm in WITH_CENTROIDS:
            tuned = {one: tune(arm, population.tuning, TUNED_AT, bank, trial[one]) for one in CENTROID_COUNTS}
            count = min(tuned, key=lambda one: tuned[one][0])
            loss, best = tuned[count]
            judged = [trial[count]] if epsilon is None else [drawn(count, seed) for seed in NOISE_SEEDS]
            name = arm if epsilon is None else f"{arm}_epsilon_{epsilon:g}"
            settings[name] = {
                "centroids": count,
                **(asdict(best) if arm in TEMPERATURES else {}),
                "tuning_nll": loss,
                "kinds_kept": [len(one.prior.centroids) for one in judged],
                "within": [float(np.mean(one.prior.within / bank.spread)) for one in judged],
                "epsilon": None if epsilon is None else judged[0].epsilon,
                "noise_multiplier": judged[0].noise_multiplier,
            }
            scores[name] = {
                n: mean_scores([predict(arm, people, n, bank, one, best).scores(people) for one in judged])
                for n in counts
            }
            if epsilon is None:
                split = split or controversial(people, trial[max(CENTROID_COUNTS)])
                found = predict(arm, people, COMPARED_AT, bank, trial[count], best)
                contested[name] = [found.accuracy_where(people, which) for which in (split, [~one for one in split])]
    for arm in WITHOUT_CENTROIDS:
        found = predict(arm, people, COMPARED_AT, bank)
        contested[arm] = [found.accuracy_where(people, which) for which in (split, [~one for one in split])]
    return {
        "data": population.name,
        "bank": {"origin": origin, "directions": bank.count, "spread": bank.spread.tolist()},
        "people": {"fleet": len(population.fleet), "tuning": len(population.tuning), "newcomers": len(people)},
        "delta": delta,
        "settings": settings,
        "arms": {
            arm: {str(n): _cell(cells[n], scores["global"][n], scores["map"][n]) for n in counts}
            for arm, cells in scores.items()
        },
        "controversial": {
            "share": float(np.mean(np.concatenate(split))),
            "choices": COMPARED_AT,
            "accuracy": {
                arm: {"controversial": bootstrap_interval(parts[0]), "common": bootstrap_interval(parts[1])}
                for arm, parts in contested.items()
            },
        },
    }


def _cell(scores: Scores, base: Scores, fitted: Scores) -> dict[str, tuple[float, float, float]]:
    """Gains are paired over people, positive where the arm is better."""
    return {
        "accuracy": bootstrap_interval(scores.accuracy),
        "nll": bootstrap_interval(scores.nll),
        "accuracy_over_global": bootstrap_interval(scores.accuracy - base.accuracy),
        "accuracy_over_map": bootstrap_interval(scores.accuracy - fitted.accuracy),
        "nll_over_global": bootstrap_interval(base.nll - scores.nll),
        "nll_over_map": bootstrap_interval(fitted.nll - scores.nll),
    }


def markdown(result: dict[str, Any]) -> str:
    """Accuracy in per cent for a reader, with the paired gain over `map` where it is beyond doubt (+ or -)."""
    counts = list(result["arms"]["global"])
    lines = [
        f"| {result['data']} | " + " | ".join(f"{n} choices" for n in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for arm, cells in result["arms"].items():
        shown = []
        for n in counts:
            mean, low, high = (100 * value for value in cells[n]["accuracy"])
            _, worst, best = cells[n]["accuracy_over_map"]
            mark = " +" if worst > ROUNDING else " -" if best < -ROUNDING else ""
            shown.append(f"{mean:.1f} [{low:.1f}, {high:.1f}]{mark}")
        lines.append(f"| `{arm}` | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for placement-DATA.json and .md.")],
    data: Annotated[list[Data] | None, typer.Option(help="Populations; all by default.")] = None,
    sources: Annotated[list[Features] | None, typer.Option(help="Sources of the features; all by default.")] = None,
    dimension: Annotated[int, typer.Option(min=1, help="Features k, style numbers included.")] = 48,
    seed: Annotated[int, typer.Option(help="Draws people, newcomers and pairs.")] = 0,
) -> None:
    """Write one table per population."""
    out.mkdir(parents=True, exist_ok=True)
    for chosen in data or list(Data):
        if chosen is Data.CLUSTERED:
            everybody = clustered_judges(seed)
            feature_map = identity_map(everybody[0].choices.differences.shape[1])
        else:
            folder = data_folder()
            choice_set = load(Table(chosen.value), folder, seed)
            features = item_features(choice_set, folder, [source.value for source in sources or Features], dimension)
            everybody = judges(choice_set, features.phi)
            feature_map = features.feature_map or identity_map(features.phi.shape[1])
        result = {**study(population_of(chosen.value, everybody, feature_map), lambda line: typer.echo(line, err=True)),
                  "seed": seed}  # fmt: skip
        (out / f"placement-{chosen.value}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (out / f"placement-{chosen.value}.md").write_text(markdown(result), encoding="utf-8")
        typer.echo(markdown(result))


if __name__ == "__main__":
    as_command(main)
