"""What it costs a newcomer to be understood: K weights on the fleet's bases against training an adapter of their own.

    python -m simulations.studies.subspace.newcomer_fit --out DIR

The village's fleet gives the bases (its residuals from `residuals.py`, three blind sums without noise); each
newcomer then fits K weights in three ways and trains a personal adapter on the same texts, and all are judged on the
texts of theirs that were held out. Times are of one run on one thread, the texts prepared (the hidden states below the
adapted layers are the same work for every way and are given beside). Losses: nats per token, as training sees them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from client.examples import make_example, prepare_input
from client.local_training import LocalSettings, evaluate_coordinates, train_coordinates
from client.mixing_weights import fit_weights, residual_weights
from client.torch_model import Batch
from client.training import Trainer, TrainingPlan, open_trainer
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import plain_draft
from protocol.bank import Bank
from protocol.frames import Frame, Vector
from simulations.people import Person
from simulations.statistics import mean_interval
from simulations.studies.subspace.residuals import public_frame, real_people, train_residuals, training_examples
from simulations.studies.subspace.study import blind_sums

HANDFUL = (2, 5)
HELD_OUT = 6
OWN_EPOCHS = 3  # as `penchant train --without-privacy`


def held_out(trainer: Trainer, person: Person, max_tokens: int) -> Batch:
    """The person's earliest held-out messages and choices, prepared."""
    written = [make_example(trainer.engine, plain_draft(row.cue), row.text) for row in person.test_messages[:HELD_OUT]]
    chosen = [
        make_example(trainer.engine, build_messages(row.prompt, []), row.chosen)
        for row in person.test_choices[: max(0, HELD_OUT - len(written))]
    ]
    return trainer.torch_model.prepare(prepare_input(written + chosen), max_tokens=max_tokens)


def timed(work: Callable[[], Vector]) -> tuple[Vector, float]:
    """(what it returns, seconds)."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def judge(
    trainer: Trainer, frame: Frame, bank: Bank, person: Person, plan: TrainingPlan
) -> tuple[float, dict[str, dict[str, float]]]:
    """(seconds of preparing the texts, {way: {seconds, loss}}) for one newcomer."""
    model = trainer.torch_model
    began = time.perf_counter()
    own = model.prepare(prepare_input(training_examples(trainer, person, plan)), max_tokens=plan.max_tokens)
    preparing = time.perf_counter() - began
    test = held_out(trainer, person, plan.max_tokens)

    def trained(epochs: int) -> Vector:
        local = LocalSettings(epochs, plan.batch_size, plan.learning_rate, seed=0)
        return train_coordinates(model, frame, own, bank.shared, local).theta

    def fitted(passes: int, texts: int) -> Vector:
        return bank.mix(fit_weights(model, frame, own.rows(torch.arange(texts)), bank, passes=passes))

    count = len(own.targets)
    ways: dict[str, Callable[[], Vector]] = {
        "shared adapter": lambda: bank.shared,
        f"own adapter, {plan.residual_epochs} epochs": lambda: trained(plan.residual_epochs),
        f"own adapter, {OWN_EPOCHS} epochs": lambda: trained(OWN_EPOCHS),
        "projection of the trained residual": lambda: bank.mix(
            residual_weights(trained(plan.residual_epochs) - bank.shared, bank)
        ),
        "K weights, 1 pass": lambda: fitted(1, count),
        "K weights, 2 passes": lambda: fitted(2, count),
        **{f"K weights, 1 pass over {texts} texts": lambda texts=texts: fitted(1, texts) for texts in HANDFUL},  # type: ignore[misc]
    }
    result = {}
    for way, work in ways.items():
        theta, seconds = timed(work)
        result[way] = {"seconds": seconds, "loss": evaluate_coordinates(model, frame, test, theta)}
    return preparing, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--bases", type=int, default=4)
    given = parser.parse_args()
    people, plan = real_people("village", 0)
    trainer = open_trainer(plan.top_layers)
    frame = public_frame(trainer, given.rank)
    residuals = train_residuals(trainer, frame, people, plan)
    fleet = np.array([person.role == "fleet" for person in people])
    clip_norm = float(np.quantile(np.linalg.norm(residuals.deltas[fleet], axis=1), 0.25))
    found = blind_sums(residuals.deltas[fleet], frame, clip_norm=clip_norm, basis_count=given.bases)[-1]
    rows = found.rows[: given.bases]
    weights = residuals.deltas[fleet] @ rows.T
    # All K directions, whether or not chance could have made them: the question here is what a fit of K costs.
    spread = np.sqrt(np.mean(weights**2, axis=0))
    bank = Bank("adapter", frame.digest, residuals.shared, rows, spread, np.zeros((0, given.bases)))
    newcomers = [person for person in people if person.role == "newcomer"]
    preparing, judged = zip(*(judge(trainer, frame, bank, person, plan) for person in newcomers), strict=True)
    base = np.array([one["shared adapter"]["loss"] for one in judged])
    peer = np.array([one[f"own adapter, {OWN_EPOCHS} epochs"]["seconds"] for one in judged])
    table = {
        way: {
            "seconds": float(np.median([one[way]["seconds"] for one in judged])),
            "ratio_to_own_adapter": float(np.median(np.array([one[way]["seconds"] for one in judged]) / peer)),
            "loss": float(np.mean([one[way]["loss"] for one in judged])),
            "gain_over_shared_percent": mean_interval(
                (100 * (base - [one[way]["loss"] for one in judged]) / base).tolist()
            ),
        }
        for way in judged[0]
    }
    given.out.mkdir(parents=True, exist_ok=True)
    report = {
        "newcomers": len(newcomers),
        "bases": given.bases,
        "distinguishable": found.bank.count,
        "dimension": frame.dimension,
        "preparing_seconds": float(np.median(preparing)),
        "ways": table,
    }
    (given.out / "newcomer_fit.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
