"""Personal residuals of real writing in a fleet's frame, trained once and kept: what blind subspace iteration sums.

The same as on devices, without the devices: a frame from public text, ``shared_rounds`` of plain FedAvg (no noise),
then everybody's residual on top of the shared adapter, all with `client.local_training` and the texts that
`client.training` would take. The arrays lie in the model cache under a digest of all they depend on.

    python -m simulations.studies.subspace.residuals village
    python -m simulations.studies.subspace.residuals blogs --people 48 --rank 4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from client.examples import Example, make_example, prepare_input, public_examples
from client.frame_builder import build_frame, public_text
from client.local_training import LocalSettings, train_coordinates
from client.training import Trainer, TrainingPlan, open_trainer
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.models.catalogue import cache_folder, write_atomically
from protocol.frames import Frame, Vector
from simulations.datasets.village import load_village
from simulations.datasets.writing import Selection, data_folder, load_blogs
from simulations.people import Person

FRAME_KINDS = ("attn_output", "ffn_down")


@dataclass(frozen=True)
class Residuals:
    """``deltas`` (n, d) on top of ``shared`` (d,), in the order of the people, in the frame with this digest."""

    frame_sha256: str
    shared: Vector
    deltas: NDArray[np.float64]


def real_people(source: str, people: int) -> tuple[list[Person], TrainingPlan]:
    """The village (fleet and newcomers) or ``people`` bloggers, with the texts that are trained on of each."""
    if source == "village":
        return load_village(), TrainingPlan()
    chosen = load_blogs(data_folder(), people=people, selection=Selection(max_words=60))
    return chosen, TrainingPlan(messages=8, choices=0)


def training_examples(trainer: Trainer, person: Person, plan: TrainingPlan) -> list[Example]:
    """What `client.examples.device_examples` gives on this person's device."""
    messages = person.train_messages[max(0, len(person.train_messages) - plan.messages) :]
    choices = person.train_choices[max(0, len(person.train_choices) - plan.choices) :] if plan.choices else ()
    written = [make_example(trainer.engine, plain_draft(row.cue), row.text) for row in messages]
    return written + [make_example(trainer.engine, build_messages(row.prompt, []), row.chosen) for row in choices]


def public_frame(trainer: Trainer, rank: int) -> Frame:
    """The fleet's frame at this rank."""
    examples = prepare_input(public_examples(trainer.engine, public_text()))
    return build_frame(trainer.torch_model, trainer.model.sha256, examples, kinds=FRAME_KINDS, rank=rank)


def train_residuals(
    trainer: Trainer, frame: Frame, people: Sequence[Person], plan: TrainingPlan, shared_rounds: int = 2
) -> Residuals:
    """Train the shared adapter on the fleet, then everybody's residual; kept in the cache."""
    written = [training_examples(trainer, person, plan) for person in people]
    in_fleet = np.array([person.role == "fleet" for person in people])
    key = sha256(repr((frame.digest, plan, shared_rounds, written, in_fleet.tolist())).encode()).hexdigest()[:16]
    path = cache_folder() / f"residuals-{key}.npz"
    if path.is_file():
        stored = np.load(path)
        return Residuals(frame.digest, stored["shared"], stored["deltas"])
    model = trainer.torch_model
    batches = [
        model.prepare(prepare_input(examples), max_tokens=plan.max_tokens)
        for examples in track(written, "preparing texts", console=Console(stderr=True))
    ]
    shared = np.zeros(frame.dimension)
    for number in range(shared_rounds):
        local = LocalSettings(plan.epochs, plan.batch_size, plan.learning_rate, seed=number)
        trained = [
            train_coordinates(model, frame, batch, shared, local).theta
            for batch, counts in zip(batches, in_fleet, strict=True)
            if counts
        ]
        shared = np.mean(trained, axis=0)
    local = LocalSettings(plan.residual_epochs, plan.batch_size, plan.learning_rate, seed=0)
    deltas = np.array(
        [
            train_coordinates(model, frame, batch, shared, local).theta - shared
            for batch in track(batches, "training residuals", console=Console(stderr=True))
        ]
    )
    packed = BytesIO()
    np.savez(packed, shared=shared, deltas=deltas)
    write_atomically(path, packed.getvalue())
    return Residuals(frame.digest, shared, deltas)


def real_residuals(source: str, people: int, rank: int) -> Residuals:
    """Residuals of the village or of ``people`` bloggers in a frame of this rank."""
    chosen, plan = real_people(source, people)
    trainer = open_trainer(plan.top_layers)
    return train_residuals(trainer, public_frame(trainer, rank), chosen, plan)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=("village", "blogs"))
    parser.add_argument("--people", type=int, default=48)
    parser.add_argument("--rank", type=int, default=2)
    given = parser.parse_args()
    found = real_residuals(given.source, given.people, given.rank)
    norms = np.linalg.norm(found.deltas, axis=1)
    print(f"{found.deltas.shape} norms {np.quantile(norms, [0, 0.25, 0.5, 0.75, 1]).round(3)}")
