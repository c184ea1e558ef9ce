"""What each objective of personal training is worth, against plain next-token training of the same person.

    python -m simulations.studies.objectives.study --out DIR [--experiment writing --source novels ...]

| experiment | people | arms against ``next_token`` | judged on |
|---|---|---|---|
| `writing` | novels, blogs | `turns`, `grounded`, both, `influence` | held-out texts, without and with retrieval |
| `labels` | blogs | a tenth of the labelled texts, without and with the rest as plain documents | the same |
| `preference` | ukpconvarg, village | preferred texts with DPO beside, DPO alone | held-out pairs, preferred texts |
| `questions` | locomo | questions about what was said, alone and beside | facts, without and with retrieval |

Every arm is ordinary LoRA, trained as `penchant train` does without privacy (but for stopping early) and scored by
llama.cpp on the quantised file: `turns` is what it minimises, a chat of three texts a step, the others take four texts.
As steps are worth something by themselves, `next_token, batches of 3` takes as many of them as `turns`.

One row per person and arm is written as it comes, and what is there already is not computed again. Weights are chosen
on the ``tuning`` group, whose people are in no table; ``--group judged`` makes the tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from client.examples import own_messages
from client.learning_rate import Scheduled
from client.objectives.grounded import grounded
from client.objectives.influence import base_log_probabilities, influence
from client.objectives.next_token import next_token
from client.objectives.objective import Objective
from client.objectives.turns import TOGETHER, turns
from client.objectives.unlabelled import unlabelled
from client.personal_plan import BATCH_SIZE, BLIND_EPOCHS, LORA_LEARNING_RATE
from client.torch_model import TorchModel
from client.training_work import ObjectivesWork, TextSettings
from edge_runtime.commands.support import one_line_errors
from edge_runtime.device import Device, SharedEmbedder
from edge_runtime.models.catalogue import find_model, read_model_shape, write_atomically
from protocol.errors import PenchantError
from simulations.datasets.writing import data_folder
from simulations.people import Person
from simulations.statistics import mean_interval
from simulations.studies.objectives.choices import choice_people, judge_pairs
from simulations.studies.objectives.recall import fact_people, judge_facts
from simulations.studies.personal_fleet import SINGLE_TEXTS, HistorySplit, Workshop, device_of, load_groups, run_work
from simulations.study_command import as_command

SOURCES: Final = {
    "writing": ("novels", "blogs"),
    "labels": ("blogs",),
    "preference": ("ukpconvarg", "village"),
    "questions": ("locomo",),
}
FEW: Final = 0.1  # the share of labelled texts of the arm with few labels
CHATS, SMALL_BATCH = "turns", f"next_token, batches of {TOGETHER}"
Losses = Mapping[str, float]
Arms = dict[str, list[Objective]]


@dataclass(frozen=True)
class Setting:
    """How every arm trains: the same passes over its own material."""

    epochs: int = BLIND_EPOCHS
    batch_size: int = SINGLE_TEXTS
    learning_rate: float = LORA_LEARNING_RATE
    weight: float = 1.0  # of the objective that an arm adds to next-token training

    def of(self, arm: str) -> TextSettings:
        """The steps of an arm."""
        batch_size = {CHATS: BATCH_SIZE, SMALL_BATCH: TOGETHER}.get(arm, self.batch_size)
        return TextSettings(self.epochs, batch_size, self.learning_rate)


@dataclass(frozen=True)
class Subject:
    """One person of a study: their arms, and how an adapter (None: the model alone) is judged."""

    name: str
    arms: Arms
    judge: Callable[[bytes | None], Losses]


class Study:
    """One model, and the settings of all arms."""

    def __init__(self, shop: Workshop, setting: Setting) -> None:
        self.shop, self.setting = shop, setting
        self.start = shop.lora.start(0)

    def adapter(self, objectives: Sequence[Objective], settings: TextSettings) -> bytes:
        """The adapter that a person gets from these objectives."""
        work = ObjectivesWork(self.shop.torch_model, self.shop.lora, objectives, None, settings, start=self.start)
        return self.shop.adapter(run_work(Scheduled(work), self.start), self.shop.lora)

    def rows(self, subject: Subject, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The losses of the model alone and of each wanted arm."""
        for arm in wanted:
            adapter = None if arm == "none" else self.adapter(subject.arms[arm], self.setting.of(arm))
            yield {"person": subject.name, "arm": arm, "losses": dict(subject.judge(adapter))}


def writer(study: Study, person: Person, split: HistorySplit, device: Device) -> Subject:
    """Arms of the `writing` experiment."""
    shop, weight, model = study.shop, study.setting.weight, study.shop.torch_model
    items = own_messages(device)
    plain = next_token(shop.engine, items, ())
    with_notes = grounded(shop.engine, device.memory, items, (), weight=weight)
    weighted = influence(plain.examples, with_notes.examples, lambda example: base_log_probabilities(model, example))
    arms = {
        "next_token": [plain],
        SMALL_BATCH: [plain],
        CHATS: [turns(shop.engine, items, (), tellings=study.setting.epochs)],
        "grounded": [with_notes],
        "next_token+grounded": [plain, with_notes],
        "influence": [weighted],
    }
    return Subject(person.id, arms, _judged_writing(shop, person, split, device))


def labeller(study: Study, person: Person, split: HistorySplit, device: Device) -> Subject:
    """Arms of the `labels` experiment: the newest tenth of the texts keep the request they answer; what is left of the
    others is a plain document, with its first words in place."""
    shop, items = study.shop, own_messages(device)
    few = max(1, round(FEW * len(items)))
    documents = [f"{item.cue.partition(': ')[2]} {item.text}" for item in items]
    labelled = next_token(shop.engine, items, ())
    tenth = next_token(shop.engine, items[-few:], ())
    rest = unlabelled(shop.engine, documents[:-few], weight=study.setting.weight)
    every = unlabelled(shop.engine, documents, weight=study.setting.weight)
    arms = {
        "next_token": [labelled],
        "few": [tenth],
        "few+unlabelled": [tenth, rest],
        "next_token+unlabelled": [labelled, every],
    }
    return Subject(person.id, arms, _judged_writing(shop, person, split, device))


def _judged_writing(
    shop: Workshop, person: Person, split: HistorySplit, device: Device
) -> Callable[[bytes | None], Losses]:
    plain, recalled = shop.texts(person, split, None), shop.texts(person, split, device)
    return lambda adapter: {"without notes": shop.loss(plain, adapter), "with notes": shop.loss(recalled, adapter)}


def subjects(study: Study, experiment: str, source: str, group: str, people: int, seed: int) -> Iterator[Subject]:
    """The people of one group, one after another."""
    if experiment in ("writing", "labels"):
        split = HistorySplit(source, judged=people, tuning=4, fleet=0, history=24, held_out=4, seed=seed)
        groups = load_groups(data_folder(), split)
        make = writer if experiment == "writing" else labeller
        for person in groups.judged if group == "judged" else groups.tuning:
            with device_of(person.train_messages, SharedEmbedder()) as device:
                yield make(study, person, split, device)
    elif experiment == "preference":
        for name, train, held_out in choice_people(source, group, people):
            arms, judge = judge_pairs(study.shop, train, held_out, study.setting.weight)
            yield Subject(name, arms, judge)
    else:
        for owner in fact_people(data_folder() / "locomo", group, people):
            arms, judge = judge_facts(study.shop, owner, study.setting.weight, SharedEmbedder())
            yield Subject(owner.name, arms, judge)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per experiment and source: the mean loss of every arm, and its gain over ``next_token``, in nats, paired per
    person, with a 95 % interval (above zero: better than plain next-token training)."""
    tables: dict[str, Any] = {}
    for key in sorted({(row["experiment"], row["source"]) for row in rows}):
        table: dict[str, dict[str, Any]] = {}
        for row in rows:
            if (row["experiment"], row["source"]) == key:
                table.setdefault(row["arm"], {})[row["person"]] = row["losses"]
        reference = table.get("next_token", {})
        result: dict[str, Any] = {}
        for arm, of in table.items():
            both = sorted(set(of) & set(reference))
            result[arm] = {"people": len(both)}
            for measure in of[both[0]] if both else ():
                gains = [reference[name][measure] - of[name][measure] for name in both]
                mean, low, high = mean_interval(gains)
                loss = float(np.mean([of[name][measure] for name in both]))
                result[arm][measure] = {"mean": loss, "gain": mean, "interval": [low, high]}
        tables["/".join(key)] = result
    return tables


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for the rows and the summary.")],
    experiment: Annotated[list[str], typer.Option(help="Which experiments; all if none is given.")] = [],  # noqa: B006
    source: Annotated[str, typer.Option(help="Only this source of people.")] = "",
    arm: Annotated[list[str], typer.Option(help="Only these arms.")] = [],  # noqa: B006
    group: Annotated[str, typer.Option(help="judged, or tuning: the people on whom settings are chosen.")] = "judged",
    people: Annotated[int, typer.Option(help="People per source.")] = 10,
    epochs: Annotated[int, typer.Option(help="Passes.")] = Setting.epochs,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = Setting.learning_rate,
    weight: Annotated[float, typer.Option(help="Weight of what an arm adds.")] = Setting.weight,
    seed: Annotated[int, typer.Option(help="Draws the people.")] = 0,
) -> None:
    """Train and judge every arm of every person, and summarise."""
    if unknown := set(experiment) - set(SOURCES):
        raise PenchantError(f"there is no experiment {min(unknown)!r}: take some of {', '.join(SOURCES)}")
    out.mkdir(parents=True, exist_ok=True)
    model, setting = find_model(), Setting(epochs=epochs, learning_rate=rate, weight=weight)
    shop = Workshop(model, TorchModel.load(model.path, top_layers=read_model_shape(model.path).layers))
    study, kept = Study(shop, setting), out / f"rows-{group}.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    run = {"group": group, "seed": seed, "space": shop.lora.digest[:12], **asdict(setting)}
    origins = [(name, one) for name in experiment or SOURCES for one in SOURCES[name] if not source or one == source]
    waiting = {key: subjects(study, *key, group, people, seed) for key in origins}
    while waiting:  # one person of each in turn, so that every experiment has people when it is stopped
        for key in list(waiting):
            subject = next(waiting[key], None)
            if subject is None:
                del waiting[key]
                continue
            place = run | {"experiment": key[0], "source": key[1]}
            there = {row["arm"] for row in done if row.items() >= (place | {"person": subject.name}).items()}
            wanted = [one for one in ["none", *subject.arms] if one not in there and (not arm or one in arm)]
            for row in study.rows(subject, wanted):
                with kept.open("a") as file:
                    file.write(json.dumps(place | row) + "\n")
                typer.echo(f"{' '.join(key)} {subject.name} {row['arm']}: {row['losses']}")
    mine = [row for line in kept.read_text().splitlines() if (row := json.loads(line)).items() >= run.items()]
    report = {"run": run, "tables": summary(mine)}
    write_atomically(out / f"summary-{group}.json", json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    as_command(main)
