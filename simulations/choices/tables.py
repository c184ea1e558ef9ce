"""Who understands people's choices best: one table per data set, the same methods and people in all of them.

    python -m simulations.choices.tables --data taste --out DIR
    python -m simulations.choices.tables --data ukpconvarg --out DIR --sources hidden --sources embedding

writes DIR/DATA.json, DIR/DATA.md and DIR/DATA.png. Fleet people are judged with all their training choices; newcomers,
whom no training saw, with their first 0, 4, 8, 16, 32. Private runs hold at the stated epsilon per person over all
rounds, delta = 1 / n^1.1 for a fleet of n; they are repeated with other noise, and a person's score is the mean over
the repetitions. `methods` says what the methods are, `data` what the people chose, `scores` how
means and intervals are made. Further rows, where they can be had: `length_rule` (a person's own leaning to longer or
shorter texts and nothing else) and, for simulated people, `reach` (the best that rewards linear in these features
could do, fitted to the true scorers on the training texts) and `oracle` (the true utilities).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from edge_runtime.commands.support import one_line_errors
from protocol.reward_model import Choices
from server.reward_bases import RewardPlan
from simulations.choices.data import (
    ChoiceSet,
    Judge,
    judges,
    load_movielens,
    load_taste,
    load_ukpconvarg,
    load_village_choices,
)
from simulations.choices.features import ItemFeatures, best_linear_tastes, item_features
from simulations.choices.methods import (
    Array,
    Method,
    bank_method,
    centralised_method,
    global_method,
    own_direction_method,
    residual_method,
    softmax_lore_method,
    tuning_split,
)
from simulations.choices.plots import draw_curves
from simulations.choices.report import markdown
from simulations.choices.reward_fleet import train_reward_bases
from simulations.choices.scores import Scores, bootstrap_interval, mean_scores, score
from simulations.choices.tastes import TasteRecipe
from simulations.datasets.writing import data_folder
from simulations.study_command import as_command

COUNTS: Final = (0, 4, 8, 16, 32)
EPSILONS: Final = (8.0, 2.0)
GLOBAL: Final = "global"
CENTRAL: Final = "lore_centralised"
PLAN: Final = RewardPlan(maximum_count=12)  # chosen on the taste population of seed 1, which no table reports
Progress = Callable[[str], None]


class Data(StrEnum):
    """The sets with a table."""

    TASTE = "taste"
    UKPCONVARG = "ukpconvarg"
    MOVIELENS = "movielens"
    VILLAGE = "village"


class Features(StrEnum):
    """The sources of features."""

    HIDDEN = "hidden"
    EMBEDDING = "embedding"
    STYLE = "style"


def load(data: Data, folder: Path, seed: int) -> ChoiceSet:
    """The choices of one set; `seed` draws simulated people, newcomers and pairs of films."""
    if data is Data.VILLAGE:
        return load_village_choices()
    if data is Data.TASTE:
        return load_taste(folder, TasteRecipe(seed=seed))
    return load_ukpconvarg(folder, seed) if data is Data.UKPCONVARG else load_movielens(folder, seed)


def compare(
    choice_set: ChoiceSet,
    features: ItemFeatures,
    *,
    plan: RewardPlan,
    epsilons: Sequence[float],
    noise_seeds: int,
    on_stage: Progress = lambda stage: None,
) -> dict[str, Any]:
    """The table of one set, as it is written to JSON: `people`, `features`, `privacy` and `methods`."""
    everybody = judges(choice_set, features.phi)
    fleet = [judge.choices for judge in everybody if judge.role == "fleet"]
    delta = len(fleet) ** -1.1
    on_stage("global")
    base = global_method(fleet)
    shared = base.tastes([fleet[0]])[0]
    runs: dict[str, list[Method]] = {GLOBAL: [base]}
    on_stage("scratch and map")
    runs["scratch"] = [own_direction_method("scratch", fleet, np.zeros_like(shared), base.tie_width)]
    runs["map"] = [own_direction_method("map", fleet, shared, base.tie_width)]
    on_stage("lore_softmax")
    runs["lore_softmax"] = [softmax_lore_method(fleet, base.tie_width, seed=0)]
    on_stage(CENTRAL)
    runs[CENTRAL] = [centralised_method(fleet, base.tie_width)]
    privacy = {}
    for epsilon in (None, *epsilons):
        name = "ours" if epsilon is None else f"ours_epsilon_{epsilon:g}"
        runs[name] = []
        for seed in range(1 if epsilon is None else noise_seeds):
            on_stage(f"{name}, noise {seed}")
            trained = train_reward_bases(
                fleet, plan, epsilon=epsilon, delta=delta, seed=seed, feature_map=features.feature_map
            )
            runs[name].append(bank_method(name, trained.bank))
            if epsilon is None:
                early = train_reward_bases(tuning_split(fleet)[0], plan, delta=delta, feature_map=features.feature_map)
                runs["ours_residual"] = [residual_method(fleet, trained.bank, early.bank)]
        privacy[name] = {
            "epsilon": None if epsilon is None else trained.epsilon,
            "noise_multiplier": trained.noise_multiplier,
            "delta": delta,
            "rounds": trained.rounds,
            "bytes_up": trained.bytes_up,
            "repetitions": len(runs[name]),
        }
    on_stage("scores")
    rows = {name: (methods, everybody) for name, methods in runs.items()}
    if features.feature_map is not None:  # texts
        words = np.log1p([[len(text.split())] for _, text in choice_set.items])
        by_length = judges(choice_set, words)
        leaning = own_direction_method(
            "length_rule", [judge.choices for judge in by_length if judge.role == "fleet"], np.zeros(1), base.tie_width
        )
        rows["length_rule"] = ([leaning], by_length)
    results = score_rows(rows, fixed_rows(choice_set, features, base.tie_width))
    reported = [judge for judge in everybody if len(judge.held_out)]
    return {
        "data": choice_set.name,
        "people": {
            "fleet_trained": len(fleet),
            "fleet_reported": sum(judge.role == "fleet" for judge in reported),
            "newcomers": sum(judge.role == "newcomer" for judge in reported),
        },
        "features": {"sources": features.sources, "dimension": features.phi.shape[1]},
        "privacy": privacy,
        "methods": results,
    }


def fixed_rows(
    choice_set: ChoiceSet, features: ItemFeatures, tie_width: float
) -> dict[str, tuple[list[Judge], Array, float]]:
    """Name -> (judges, everybody's reward vector, tie width) of the bounds that only simulated people have."""
    if choice_set.truth is None:
        return {}
    scores, tastes = choice_set.truth
    shown = np.unique(np.concatenate([person.pairs.ravel() for person in choice_set.people]))
    linear = best_linear_tastes(features.phi, scores, shown, choice_set.groups)
    return {
        "reach": (judges(choice_set, features.phi), tastes @ linear.T, tie_width),
        "oracle": (judges(choice_set, scores), tastes, tie_width),
    }


def score_rows(
    rows: dict[str, tuple[list[Method], list[Judge]]],
    fixed: dict[str, tuple[list[Judge], Array, float]],
) -> dict[str, Any]:
    """Every method's cells: fleet people with all their choices, newcomers with their first 0 ... 32."""
    longest = max(len(judge.choices) for _, everybody in rows.values() for judge in _reported(everybody, "newcomer"))
    counts = [count for count in COUNTS if count <= longest]
    found: dict[str, dict[str, Scores]] = {}
    for name, (methods, everybody) in rows.items():
        fleet, new = _reported(everybody, "fleet"), _reported(everybody, "newcomer")
        found[name] = {"fleet": _runs(methods, fleet, [judge.choices for judge in fleet])}
        for count in counts:
            few = [judge.choices.part(slice(0, count)) for judge in new]
            found[name][str(count)] = _runs(methods, new, few)
    for name, (everybody, tastes, tie_width) in fixed.items():
        own: dict[str, Scores] = {}
        for role in ("fleet", "newcomer"):
            chosen = [place for place, judge in enumerate(everybody) if judge.role == role and len(judge.held_out)]
            scores = score(tastes[chosen], [everybody[place].held_out for place in chosen], tie_width)
            own |= {"fleet": scores} if role == "fleet" else {str(count): scores for count in counts}
        found[name] = own
    return {
        name: {
            "settings": [method.settings for method in rows[name][0]] if name in rows else [],
            "fleet": _cell(cells["fleet"], found[GLOBAL]["fleet"], found[CENTRAL]["fleet"]),
            "newcomers": {
                count: _cell(cells[count], found[GLOBAL][count], found[CENTRAL][count])
                for count in cells
                if count != "fleet"
            },
        }
        for name, cells in found.items()
    }


def _reported(everybody: Sequence[Judge], role: str) -> list[Judge]:
    return [judge for judge in everybody if judge.role == role and len(judge.held_out)]


def _runs(methods: Sequence[Method], people: Sequence[Judge], choices: Sequence[Choices]) -> Scores:
    held_out = [judge.held_out for judge in people]
    return mean_scores([score(method.tastes(choices), held_out, method.tie_width) for method in methods])


def _cell(scores: Scores, base: Scores, central: Scores) -> dict[str, tuple[float, float, float]]:
    """Means with 95 % intervals; differences are paired, positive where the method is better than global (gain) or
    more accurate than the central LoRe.
    """
    return {
        "accuracy": bootstrap_interval(scores.accuracy),
        "nll": bootstrap_interval(scores.nll),
        "accuracy_gain": bootstrap_interval(scores.accuracy - base.accuracy),
        "nll_gain": bootstrap_interval(base.nll - scores.nll),
        "accuracy_from_central": bootstrap_interval(scores.accuracy - central.accuracy),
    }


@one_line_errors
def main(
    data: Annotated[Data, typer.Option(help="Whose choices.")],
    out: Annotated[Path, typer.Option(help="Folder for DATA.json, DATA.md and DATA.png.")],
    sources: Annotated[list[Features] | None, typer.Option(help="Sources of the features; all by default.")] = None,
    dimension: Annotated[int, typer.Option(min=1, help="Features k, style numbers included.")] = 48,
    seed: Annotated[int, typer.Option(help="Draws people, newcomers and pairs.")] = 0,
    noise_seeds: Annotated[int, typer.Option(min=1, help="Repetitions of each private run.")] = 3,
) -> None:
    """Write one data set's table."""
    folder = data_folder()
    choice_set = load(data, folder, seed)
    result = compare(
        choice_set,
        item_features(choice_set, folder, [source.value for source in sources or Features], dimension),
        plan=PLAN,
        epsilons=EPSILONS,
        noise_seeds=noise_seeds,
        on_stage=lambda stage: typer.echo(f"{data.value}: {stage}", err=True),
    )
    result["seed"] = seed
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{data.value}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{data.value}.md").write_text(markdown(result), encoding="utf-8")
    (out / f"{data.value}.png").write_bytes(draw_curves(result))
    typer.echo(markdown(result))


if __name__ == "__main__":
    as_command(main)
