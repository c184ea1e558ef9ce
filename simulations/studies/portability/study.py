"""What moving an adapter to an evolved base is worth: people of the village, moved against retrained.

    python -m simulations.studies.portability.evolved_base --out evolved.gguf
    python -m simulations.studies.portability.study --evolved evolved.gguf --out DIR

Each person trains an adapter on the old base with three quarters of their training messages; the newest quarter is the
gate's. It then goes to the evolved base by `client.portability` (as it is, retrained a little, or dropped), and the
same person trains from nothing there. Adapters are ordinary LoRA, trained as `penchant train` does but for stopping
early. All are judged on the person's test messages, which neither training nor gate saw, on the files that serve
(llama.cpp). Losses are nats per token, means over texts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from client.device_profile import ALL_KINDS, LORA_RANK, MAX_TOKENS
from client.examples import Example, make_example, prepare_input
from client.learning_rate import Scheduled
from client.lora_layout import LoraLayout
from client.personal_gate import SCORING_CONTEXT, split_newest, token_losses
from client.personal_plan import BLIND_EPOCHS, LORA_LEARNING_RATE
from client.portability import LOST_SHARE, TOLERANCE, Losses, move_adapter
from client.torch_model import TorchModel
from client.training_ledger import TrainingLedger
from client.training_work import TextSettings, TextWork
from client.warm_start import rebased, warm_retrained
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.commands.support import one_line_errors
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile, describe_model, find_model, read_model_shape
from simulations.datasets.village import load_village
from simulations.experiments.arms import adapter_bytes
from simulations.people import Message, Person
from simulations.statistics import mean_interval
from simulations.studies.personal_fleet import SINGLE_TEXTS, run_work
from simulations.study_command import as_command

TRAINING = TextSettings(BLIND_EPOCHS, SINGLE_TEXTS, LORA_LEARNING_RATE)
ARMS = ("old_base", "old_adapter", "new_base", "moved", "warm", "retrained")


class Bases:
    """One base model, open in torch and in llama.cpp."""

    def __init__(self, model: ModelFile, tell: Callable[[str], None]) -> None:
        self.model = model
        self.engine = Engine.open(model, context_tokens=SCORING_CONTEXT, threads=1)
        self.shape = read_model_shape(model.path)
        started = time.perf_counter()
        self.torch_model = TorchModel.load(model.path, top_layers=self.shape.layers)
        self.load_seconds = time.perf_counter() - started
        self.space = LoraLayout.of(self.torch_model.module_shapes(ALL_KINDS), LORA_RANK)
        tell(f"{model.name}: loaded in {self.load_seconds:.0f} s")

    def examples(self, messages: Sequence[Message]) -> list[Example]:
        return [make_example(self.engine, plain_draft(message.cue), message.text) for message in messages]

    def trained(self, texts: Sequence[Example]) -> bytes:
        """An adapter from nothing."""
        work = TextWork(self.torch_model, self.space, prepare_input(texts), [], TRAINING, max_tokens=MAX_TOKENS)
        theta = run_work(Scheduled(work), self.space.start(0))
        return adapter_bytes(self.space, theta, self.model, self.shape, round=0, epsilon=None)


def losses_of(old: Bases, new: Bases, texts: Sequence[Example]) -> Losses:
    """The gate's losses of these texts, with both models open already."""
    engines = {base.model.sha256: base.engine for base in (old, new)}
    return lambda model, adapter: token_losses(engines[model.sha256], texts, adapter)


def study_person(person: Person, old: Bases, new: Bases, ledger: TrainingLedger) -> dict[str, Any]:
    """One person's losses per arm, what became of the adapter, and seconds of each part."""
    training, gate = split_newest(old.examples(person.train_messages))
    test = losses_of(old, new, old.examples(person.test_messages))
    data = old.trained(training)
    move = move_adapter(
        data,
        old.model,
        new.model,
        losses=losses_of(old, new, gate),
        learnt=losses_of(old, new, training),
        retrain=lambda moved: warm_retrained(moved, new.model, training, ledger=ledger),
        created="",
    )
    unjudged = rebased(data, new.model, created="")  # as it is, whatever the gate said
    started = time.perf_counter()
    warm = warm_retrained(unjudged, new.model, training, ledger=ledger)
    warmed = time.perf_counter()
    fresh = new.trained(training)
    retraining_seconds = time.perf_counter() - warmed
    cases = ((old, None), (old, data), (new, None), (new, unjudged), (new, warm), (new, fresh))
    losses = {
        arm: float(np.mean([text.mean() for text in test(base.model, adapter)]))
        for arm, (base, adapter) in zip(ARMS, cases, strict=True)
    }
    served = {"moved": "moved", "retrained": "warm", "dropped": "new_base"}[move.outcome]
    return {
        "person": person.id,
        "outcome": move.outcome,
        "losses": losses | {"gated": losses[served]},
        "judgements": [asdict(judged) | {"passed": judged.passed} for judged in move.judgements],
        "relative_change": move.lineage.relative,
        "change_in_adapters": move.lineage.in_adapters,
        "seconds": {
            "lineage": move.lineage_seconds,
            "judging": move.judging_seconds,
            "warm": warmed - started,
            "retraining": retraining_seconds,
        },
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over people with their 95 % intervals; differences are paired, above zero: the second is better."""
    pairs = {
        "old adapter's gain": ("old_base", "old_adapter"),
        "moved adapter's gain": ("new_base", "moved"),
        "retrained adapter's gain": ("new_base", "retrained"),
        "gate's gain": ("new_base", "gated"),
        "retrained against moved": ("moved", "retrained"),
        "retrained against gated": ("gated", "retrained"),
        "retrained against warm": ("warm", "retrained"),
        "old adapter against moved": ("moved", "old_adapter"),
    }
    return {
        "people": len(rows),
        "tolerance": TOLERANCE,
        "lost_share": LOST_SHARE,
        "outcomes": {kind: sum(row["outcome"] == kind for row in rows) for kind in ("moved", "retrained", "dropped")},
        "losses": {arm: mean_interval([row["losses"][arm] for row in rows]) for arm in (*ARMS, "gated")},
        "differences": {
            name: mean_interval([row["losses"][first] - row["losses"][second] for row in rows])
            for name, (first, second) in pairs.items()
        },
        "seconds": {part: float(np.mean([row["seconds"][part] for row in rows])) for part in rows[0]["seconds"]},
        "relative_change": float(np.mean([row["relative_change"] for row in rows])),
        "change_in_adapters": float(np.mean([row["change_in_adapters"] for row in rows])),
    }


@one_line_errors
def main(
    evolved: Annotated[
        Path, typer.Option(help="The GGUF file that simulations.studies.portability.evolved_base wrote.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for portability.json, new or not.")],
    people: Annotated[int, typer.Option(min=2, max=32, help="How many of the village.")] = 8,
) -> None:
    """Move people's adapters from the bundled model to an evolved one, and retrain them there."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    old, new = Bases(find_model(), tell), Bases(describe_model(evolved), tell)
    rows: list[dict[str, Any]] = []
    with Device.open(out / "account", create=True, key_method="file") as device:
        ledger = TrainingLedger(device.vault)
        for person in load_village()[:people]:
            rows.append(study_person(person, old, new, ledger))
            tell(f"{person.id}: {rows[-1]['outcome']} {rows[-1]['losses']} {rows[-1]['seconds']}")
            if len(rows) > 1:  # what is done is on disk, also if the rest is cut short
                document: dict[str, Any] = {"summary": summary(rows), "people": rows}
                document["load_seconds"] = new.load_seconds
                (out / "portability.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    typer.echo(json.dumps(summary(rows), indent=2))


if __name__ == "__main__":
    as_command(main)
