"""Best of n and steering by personal taste, from choices to generated answers.

    python -m simulations.studies.steering.study --out DIR      (PENCHANT_DATA names the folder that holds prefeval/)

1. **Choices**: how often attribute weights from a person's choices tell their held-out ones (`people.py`).
2. **Generation**, for requests that nobody's choices are about: held-out requests of the village, and questions of
   PrefEval's topics. Each is answered plainly (the pipeline's own sampling), seven times at temperature 0.8, and
   steered. The selecting reward is a bank in reward space (embedding and style features) learnt from other taste
   people's choices, with the person's weights; steering uses their attribute weights. Judged is by what neither has
   seen: the person's *true* utility, with its taste for length left out, in the recipe's units (1 is one nat of
   choice). Controls: a stranger's weights; the best by truth; and the length of the answers beside it all.
   For the villagers, who have no known truth, selecting and judging rewards are fitted to the same choices on
   features that have nothing in common.
3. **PrefEval's choice among four** (`prefeval.py`).

Every answer is kept in DIR/answers.json (`answers.py`); a run that was stopped goes on there.
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
from rich.console import Console

from edge_runtime.answering.attributes import length_slopes, log_length
from edge_runtime.answering.best_of import BAND, length_controlled
from edge_runtime.answering.guiding import token_head
from edge_runtime.device import SharedEmbedder
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import find_model, write_atomically
from edge_runtime.reward.features import RewardFeatures
from protocol.bank import Bank
from protocol.feature_map import fit_feature_map
from protocol.reward_model import Choices, fit_direction, fit_weights
from simulations.choices.feature_cache import cached_features
from simulations.choices.reward_fleet import centralised_bases
from simulations.choices.tastes import score_texts
from simulations.datasets.writing import data_folder
from simulations.stage_display import StageDisplay
from simulations.studies.steering.answers import (
    CANDIDATES,
    STRENGTHS,
    Answers,
    Requests,
    Writer,
    asked_answers,
    candidates_of,
    guiding_writers,
    held_out_requests,
    steered_answer,
    steering_writers,
)
from simulations.studies.steering.people import (
    Array,
    Judge,
    Pool,
    person_attributes,
    taste_choices,
    taste_people,
    told,
    village_choices,
    village_pool,
    villager_attributes,
    without_length_scores,
)
from simulations.studies.steering.prefeval import prefeval_choices

ROUNDS = 2  # people who ask each request
VILLAGERS = 5
FLEET, PEOPLE = 200, 200
BASES = 8


# ---- selection and judgement


@dataclass(frozen=True)
class Spaces:
    """`phi` of (request, answer) pairs in one reward space, with that of the pool's texts (2n, k) and of the candidates
    (requests, CANDIDATES, k).
    """

    phi: Callable[[Sequence[tuple[str, str]]], Array]
    pool: Array
    candidates: Array


def reward_space(pool: Pool, requests: Requests, made: Sequence[Sequence[str]], sources: Sequence[Any]) -> Spaces:
    """The feature map is fitted on the pool, by request."""
    features = RewardFeatures(None, SharedEmbedder(), sources)
    raw = features.of(pool.texts)
    groups = [request for request, _ in pool.texts]
    dense = min(32, len(pool.choices) // 2) if "embedding" in sources else 0
    k = dense + features.widths.get("style", 0)
    space = fit_feature_map(raw, features.widths, k, embedder_sha256=features.embedder_sha256, groups=groups)
    pairs = [(request, text) for request, texts in zip(requests.texts, made, strict=True) for text in texts]

    def phi(asked: Sequence[tuple[str, str]]) -> Array:
        return space.apply(features.of(asked))

    return Spaces(phi, space.apply(raw), phi(pairs).reshape(len(made), CANDIDATES, -1))


def differences(spaces: Spaces) -> Array:
    """(n, k) phi of the chosen answer less that of the rejected one."""
    return spaces.pool[::2] - spaces.pool[1::2]


def taste_directions(
    pool: Pool, spaces: Spaces, fleet: Sequence[Judge], people: Sequence[Judge]
) -> tuple[Array, Array]:
    """Every person's direction (people, k), from a bank of the fleet's, and what its reward gains per unit of log
    length in the person's own choices (people,).
    """
    train = ~pool.held_out
    apart = differences(spaces)[train]
    bank = learnt_bank(apart, train, fleet)
    directions = np.stack([bank.mix(fit_weights(judged(apart, train, person), bank).weights) for person in people])
    return directions, directions @ length_slopes(apart, pool.longer[train])


def asked_table(rewards: Array, slopes: Array, truth: Array, lengths: Array) -> dict[str, object]:
    """Answers that ask for an attribute outright, the plain one first in every row (requests, 1 + ATTRIBUTES): the best
    of them by personal reward; and without generating them all, the one attribute per person whose reward, less what
    length explains, is highest on the *other* requests (or none).
    """
    people, requests, _ = rewards.shape
    apart = lengths - lengths[:, :1]
    table_of: dict[str, object] = {}
    gains: dict[str, tuple[Array, Array]] = {}
    for name, shift in (("own", 0), ("stranger's", 1)):
        best, asked = np.zeros((2, people, requests)), np.zeros((2, people, requests))
        for person in range(people):
            judge = (person + shift) % people
            neutral = rewards[judge] - slopes[judge] * apart
            neutral = neutral - neutral[:, :1]
            for request in range(requests):
                others = np.arange(requests) != request
                which = int(np.argmax(neutral[others].mean(axis=0)))
                chosen = picked(rewards[judge, request], lengths[request], float(slopes[judge]), CONTROLS[-1])
                for table, place in ((best, chosen), (asked, which)):
                    table[0, person, request] = truth[person, request, place] - truth[person, request, 0]
                    table[1, person, request] = apart[request, place]
        gains[name] = best[0].mean(axis=0), asked[0].mean(axis=0)
        table_of[f"best of attributes, {name}"] = summary(*best.mean(axis=1))
        table_of[f"asked for {name} attribute"] = summary(*asked.mean(axis=1))
    apart_of = [told((own - other).tolist()) for own, other in zip(*gains.values(), strict=True)]
    return table_of | {"own less stranger's": dict(zip(("best of attributes", "asked for"), apart_of, strict=True))}


CONTROLS = ("none", "slope", "band", "slope and band")


def picked(rewards: Array, lengths: Array, slope: float, control: str) -> int:
    """Which candidate is given under a length control."""
    if control == "slope and band":
        return int(np.argmax(length_controlled(rewards, lengths, slope)))
    scores = rewards - slope * (lengths - lengths[0]) if control == "slope" else rewards
    if control == "band":
        scores = np.where(np.abs(lengths - lengths[0]) <= BAND + 1e-9, scores, -np.inf)
    return int(np.argmax(scores))


def best_of_table(rewards: Array, slopes: Array, truth: Array, lengths: Array) -> dict[str, object]:
    """Gains over the plain answer of best of 4 and 8, by length control; means over people, intervals over requests."""
    people, requests, _ = rewards.shape
    table: dict[str, object] = {"people": people, "requests": requests}

    def row(count: int, control: str, whose: Callable[[int], int] | None) -> dict[str, object]:
        gain, length = np.zeros((people, requests)), np.zeros((people, requests))
        for person in range(people):
            for request in range(requests):
                place: int
                if whose is None:
                    place = picked(truth[person, request, :count], lengths[request, :count], 0.0, control)
                else:
                    judge = whose(person)
                    own = rewards[judge, request, :count]
                    place = picked(own, lengths[request, :count], float(slopes[judge]), control)
                gain[person, request] = truth[person, request, place] - truth[person, request, 0]
                length[person, request] = lengths[request, place] - lengths[request, 0]
        return summary(gain.mean(axis=0), length.mean(axis=0)) | {"gain_over_people": told(gain.mean(axis=1).tolist())}

    for count in (4, CANDIDATES):
        for control in CONTROLS:
            table[f"best of {count}, {control}"] = row(count, control, lambda person: person)
        table[f"best of {count}, stranger"] = row(count, CONTROLS[-1], lambda person: (person + 1) % people)
        table[f"best of {count}, truth"] = row(count, CONTROLS[-1], None)
    return table


def summary(gains: Array, log_lengths: Array) -> dict[str, object]:
    """Mean gain, and the ratio of lengths, with 95 % intervals over the values."""
    ratio = [round(float(np.exp(value)), 4) for value in told(log_lengths.tolist())]
    return {"gain": told(gains.tolist()), "length_ratio": ratio}


Utility = Callable[[Sequence[tuple[int, str]]], Array]  # (person's number, answer) rows -> what they are worth


def written_table(
    requests: Requests,
    plain: list[str],
    writers: dict[str, Writer],
    utility: Utility,
    on_progress: Callable[[float], None],
) -> dict[str, object]:
    """Gains over the plain answer of each way to write one; every request is asked by ROUNDS people in turn."""
    said: dict[str, list[str]] = {arm: [] for arm in writers}
    count = ROUNDS * len(plain)
    for number in range(count):
        for arm, write in writers.items():
            said[arm].append(write(number, requests.texts[number % len(plain)]))
        on_progress((number + 1) / count)
    # all in one call: scorers are standardised over what they are given
    texts = [*plain * ROUNDS, *(text for arm in writers for text in said[arm])]
    owners = np.tile(np.arange(count), 1 + len(writers)).tolist()
    values = utility(list(zip(owners, texts, strict=True))).reshape(1 + len(writers), -1)
    lengths = np.array([log_length(text) for text in texts]).reshape(1 + len(writers), -1)
    return {arm: summary(values[row] - values[0], lengths[row] - lengths[0]) for row, arm in enumerate(writers, 1)}


def personal_heads(engine: Engine, pool: Pool, fleet: Sequence[Judge], people: Sequence[Judge]) -> list[Any]:
    """(n_embd,) per person: what their direction, in a bank over hidden states alone, reads off a state."""
    raw = cached_features("village", pool.texts, ["hidden"])
    groups = [request for request, _ in pool.texts]
    space = fit_feature_map(raw, {"hidden": raw.shape[1]}, 32, base_sha256=engine.model.sha256, groups=groups)
    phi = space.apply(raw)
    train = ~pool.held_out
    apart = (phi[::2] - phi[1::2])[train]
    bank = learnt_bank(apart, train, fleet)
    tastes = [bank.mix(fit_weights(judged(apart, train, person), bank).weights) for person in people]
    return [token_head(space, taste, raw.shape[1]) for taste in tastes]


def judged(apart: Array, train: NDArray[np.bool_], person: Judge) -> Choices:
    """A person's training choices, `apart` (m, k) chosen by the villager less rejected."""
    return Choices(apart, (person.sides[train] + 1.0) / 2.0)


def learnt_bank(apart: Array, train: NDArray[np.bool_], fleet: Sequence[Judge]) -> Bank:
    """The bank of the fleet's training choices."""
    return centralised_bases([judged(apart, train, person) for person in fleet], BASES)


def villager_table(
    engine: Engine,
    answers: Answers,
    pool: Pool,
    requests: Requests,
    made: Sequence[Sequence[str]],
    on_progress: Callable[[float], None],
) -> dict[str, object]:
    """The villagers on their own held-out requests. Best of n selects by style and is judged by embeddings; steering,
    which uses neither, is judged by embeddings too. All rewards without what length explains of them.
    """
    asked = [number for number, villager in enumerate(requests.villagers) if villager >= 0]
    lengths = np.array([[log_length(text) for text in texts] for texts in made])
    style, meaning = (reward_space(pool, requests, made, [source]) for source in ("style", "embedding"))

    def direction(spaces: Spaces, villager: int) -> tuple[Array, float]:
        rows = pool.rows[villager]
        train = rows[~pool.held_out[rows]]
        apart = differences(spaces)[train]
        own = fit_direction(Choices(apart, np.ones(len(train))), np.zeros(apart.shape[1]), 2.0)
        return own, float(own @ length_slopes(apart, pool.longer[train]))

    gains: dict[str, list[float]] = {}
    longer: dict[str, list[float]] = {}
    for done, number in enumerate(asked):
        villager, request = requests.villagers[number], requests.texts[number]
        other = (villager + 1) % len(pool.rows)
        judge, judge_slope = direction(meaning, villager)
        plain = float(judge @ meaning.candidates[number, 0])
        name = f"best of {CANDIDATES}"
        for arm, whose, control in (
            *((f"{name}, {control}", villager, control) for control in CONTROLS),
            (f"{name}, stranger", other, CONTROLS[-1]),
        ):
            own, slope = direction(style, whose)
            place = picked(style.candidates[number] @ own, lengths[number], slope, control)
            apart = float(lengths[number, place] - lengths[number, 0])
            value = float(judge @ meaning.candidates[number, place]) - plain - judge_slope * apart
            gains.setdefault(arm, []).append(value)
            longer.setdefault(arm, []).append(apart)
        for arm, whose in ((f"steer {STRENGTHS[-1]:g}", villager), (f"steer {STRENGTHS[-1]:g}, stranger", other)):
            weights = villager_attributes(pool, whose)
            text = steered_answer(engine, answers, f"village/{number}/{arm}", request, weights, STRENGTHS[-1])
            apart = log_length(text) - float(lengths[number, 0])
            phi = meaning.phi([(request, text)])[0]
            gains.setdefault(arm, []).append(float(judge @ phi) - plain - judge_slope * apart)
            longer.setdefault(arm, []).append(apart)
        on_progress((done + 1) / len(asked))
    return {arm: summary(np.array(gains[arm]), np.array(longer[arm])) for arm in gains}


def run(out: Path, data: Path, seed: int) -> dict[str, object]:
    """The whole study; the report is also written to `out`/steering.json."""
    out.mkdir(parents=True, exist_ok=True)
    answers = Answers.open(out / "answers.json")
    with (
        Engine.open(find_model(), context_tokens=1024, threads=1) as engine,
        StageDisplay(Console(stderr=True)) as shown,
    ):
        pool = village_pool(engine, VILLAGERS, lambda done: shown("attributes", done))
        requests = held_out_requests(pool, data / "prefeval")
        made = []
        for number, request in enumerate(requests.texts):
            made.append(candidates_of(engine, answers, number, request))
            shown("candidates", (number + 1) / len(requests.texts))
        flat = [text for texts in made for text in texts]
        scores = score_texts([text for _, text in pool.texts] + flat)
        pool_scores, made_scores = scores[: len(pool.texts)], scores[len(pool.texts) :]
        fleet, people = taste_people(pool_scores, FLEET, seed), taste_people(pool_scores, PEOPLE, seed + 1)
        truth = np.stack([made_scores @ without_length_scores(person.taste) for person in people])
        truth = truth.reshape(PEOPLE, len(made), CANDIDATES)
        lengths = np.array([[log_length(text) for text in texts] for texts in made])
        spaces = reward_space(pool, requests, made, ["embedding", "style"])
        directions, slopes = taste_directions(pool, spaces, fleet, people)
        rewards = np.einsum("pk,rck->prc", directions, spaces.candidates)
        report: dict[str, object] = {
            "seed": seed,
            "village_choices": village_choices(pool),
            "taste_choices": taste_choices(pool, people, seed),
            "taste_best_of": best_of_table(rewards, slopes, truth, lengths),
        }
        write_atomically(out / "steering.json", json.dumps(report, indent=1).encode())

        def utility(rows: Sequence[tuple[int, str]]) -> Array:
            together = score_texts([text for _, text in pool.texts] + flat + [text for _, text in rows])[-len(rows) :]
            return np.array(
                [
                    row @ without_length_scores(people[number].taste)
                    for row, (number, _) in zip(together, rows, strict=True)
                ]
            )

        asked = []
        for number, request in enumerate(requests.texts):
            asked.append([made[number][0], *asked_answers(engine, answers, number, request)])
            shown("attributes asked for", (number + 1) / len(requests.texts))
        pairs = [(request, text) for request, row in zip(requests.texts, asked, strict=True) for text in row]
        phi = spaces.phi(pairs).reshape(len(asked), len(asked[0]), -1)
        texts = [text for _, text in pool.texts] + flat + [text for _, text in pairs]
        tastes = np.stack([without_length_scores(person.taste) for person in people])
        worth = tastes @ score_texts(texts)[-len(pairs) :].T
        report["taste_asked"] = asked_table(
            np.einsum("pk,rck->prc", directions, phi),
            slopes,
            worth.reshape(PEOPLE, len(asked), -1),
            np.array([[log_length(text) for text in row] for row in asked]),
        )
        write_atomically(out / "steering.json", json.dumps(report, indent=1).encode())
        plain, asking = [texts[0] for texts in made], people[: ROUNDS * len(made)]
        writers = steering_writers(engine, answers, [person_attributes(pool, person) for person in asking])
        report["taste_steering"] = written_table(
            requests, plain, writers, utility, lambda done: shown("steering", done)
        )
        writers = guiding_writers(engine, answers, personal_heads(engine, pool, fleet, asking))
        report["taste_guiding"] = written_table(requests, plain, writers, utility, lambda done: shown("guiding", done))
        write_atomically(out / "steering.json", json.dumps(report, indent=1).encode())
        report["villagers"] = villager_table(
            engine, answers, pool, requests, made, lambda done: shown("villagers", done)
        )
        write_atomically(out / "steering.json", json.dumps(report, indent=1).encode())
        report["prefeval"] = prefeval_choices(
            engine, data / "prefeval", lambda done: shown("prefeval", done), seed=seed
        )
        write_atomically(out / "steering.json", json.dumps(report, indent=1).encode())
    return report


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Best of n and steering by personal taste.")
    parser.add_argument("--out", type=Path, required=True, help="folder for steering.json and the answers")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    Console().print_json(json.dumps(run(arguments.out, data_folder(), arguments.seed)))


if __name__ == "__main__":
    main()
