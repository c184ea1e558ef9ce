"""A thousand people in adapter space on one machine: a private shared adapter of the default model.

    python -m simulations.fleets.adapters --out runs/thousand --people 1000 --cohort 100 --rounds 10

Bloggers of ``PENCHANT_DATA`` (``simulations.datasets.writing``), whose posts are dealt out, ``messages`` consecutive
ones to a "person": the corpus has too few authors for a fleet of this size, so an author is several people here. That
is right for what this measures, time, memory and what an adapter learns; the stated privacy is that of such a person,
less than an author's. Judged on authors of whom nobody in the fleet has a post. Given again after a kill, the command
goes on and ends with the same adapter: rounds are in the folder, layers below the adapted ones in the cache.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console

from client.examples import make_example, public_examples
from client.frame_builder import build_frame, public_text
from client.local_training import evaluate_coordinates
from client.torch_model import Text
from client.training import Trainer, TrainingPlan, open_trainer
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.commands.support import one_line_errors
from edge_runtime.models.catalogue import write_atomically
from protocol.errors import PenchantError
from protocol.frames import Frame
from simulations.datasets.writing import Selection, blogger, data_folder, load_blogs, read_records
from simulations.experiments.shared_fleet import SharedSettings
from simulations.fleets.fleet import FleetPlan, FleetState, train_fleet
from simulations.fleets.hidden_files import HiddenFiles
from simulations.fleets.language_model import FrameLearner, LocalTraining
from simulations.fleets.memory import peak_memory
from simulations.machine import describe_machine
from simulations.people import Message
from simulations.stage_display import StageDisplay
from simulations.statistics import mean_interval
from simulations.study_command import as_command

FRAME, REPORT = "frame.cbor", "report.json"
CLIP_NORM: Final = 0.6
JUDGED: Final = 30
_WORDS: Final = {"minimum_words": 20, "cue_words": 10, "max_words": 28}


def dealt_out(folder: Path, people: int, messages: int) -> list[tuple[Message, ...]]:
    """So many people with ``messages`` consecutive posts each, author by author. PenchantError if there are fewer."""
    everything = Selection(10**6, 1, minimum_train_messages=messages, minimum_test_messages=1, **_WORDS)
    found: list[tuple[Message, ...]] = []
    seen: set[str] = set()
    for record in read_records(folder / "blogs" / "fleet.jsonl.gz"):
        person, texts = blogger(record, "fleet", everything)
        if person is None or texts & seen:  # the corpus has some blogs twice
            continue
        seen |= texts
        found += _runs(person.train_messages, messages)
    if len(found) < people:
        raise PenchantError(
            f"the blogs make {len(found)} people of {messages} posts: ask for fewer, or fewer --messages"
        )
    return found[:people]


def _runs(rows: Sequence[Message], length: int) -> Iterator[tuple[Message, ...]]:
    for first in range(0, len(rows) - length + 1, length):
        yield tuple(rows[first : first + length])


def _frame(trainer: Trainer, settings: SharedSettings, file: Path) -> Frame:
    """The default fleet's frame, made once for the run."""
    if not file.is_file():
        public = [(each.tokens, each.prompt_length) for each in public_examples(trainer.engine, public_text())]
        made = build_frame(trainer.torch_model, trainer.model.sha256, public, kinds=settings.kinds, rank=settings.rank)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, made.to_bytes())
    return Frame.from_bytes(file.read_bytes())


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="folder of the run")],
    people: Annotated[int, typer.Option(min=2, help="in the fleet")] = 1000,
    cohort: Annotated[int, typer.Option(min=1, help="expected in a round (Poisson sampling)")] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 10,
    messages: Annotated[int, typer.Option(min=1, help="posts of a person")] = 5,
    noise_multiplier: Annotated[float, typer.Option(min=0.0)] = 1.0,
    delta: Annotated[float, typer.Option(help="at which epsilon is stated")] = 1e-4,
    workers: Annotated[int, typer.Option(min=1, help="processes, one thread each")] = 1,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train, judge, write ``report.json``."""
    settings, training, console = SharedSettings(), TrainingPlan(), Console(stderr=True)
    folder, trainer = data_folder(), open_trainer(settings.top_layers)

    def texts_of(posts: Sequence[Message]) -> list[Text]:
        return [make_example(trainer.engine, plain_draft(post.cue), post.text).text for post in posts]

    fleet = [texts_of(posts) for posts in dealt_out(folder, people, messages)]
    new = load_blogs(folder, people=0, newcomers=JUDGED, selection=Selection(1, 4, 1, 2, **_WORDS))
    judged = [texts_of(person.test_messages) for person in new]
    frame = _frame(trainer, settings, out / FRAME)
    files = HiddenFiles(trainer.torch_model, trainer.model.sha256, training.max_tokens)
    local = LocalTraining(training.epochs, training.batch_size, training.learning_rate)
    learner = FrameLearner(trainer.torch_model, frame, fleet, files, local)
    plan = FleetPlan(people, cohort, rounds, CLIP_NORM, noise_multiplier, seed=seed)
    began, done = time.monotonic(), 0
    with StageDisplay(console) as display:

        def note(state: FleetState) -> None:
            nonlocal done
            done += state.notes[-1].people
            display("rounds", state.round / rounds)

        state = train_fleet(plan, learner, np.zeros(frame.dimension), workers=workers, folder=out, on_round=note)
    seconds = time.monotonic() - began
    losses = [
        [evaluate_coordinates(trainer.torch_model, frame, files.batch(texts), theta) for texts in judged]
        for theta in (np.zeros(frame.dimension), state.theta)
    ]
    gains = [100 * (1 - after / before) for before, after in zip(*losses, strict=True)]
    report: dict[str, Any] = {
        "plan": asdict(plan),
        "numbers": frame.dimension,
        "epsilon": plan.epsilon(delta),
        "delta": delta,
        "unit": f"{messages} consecutive posts; neighbours differ in one such person's presence",
        "sampling_probability": plan.sampling_probability,
        "judged_loss_before": mean_interval(losses[0]),
        "judged_loss": mean_interval(losses[1]),
        "gain_percent": mean_interval(gains),
        "people_trained_in_this_call": done,
        "seconds": round(seconds, 1),
        "people_per_second": done / seconds,
        "peak_memory_mb": peak_memory(),
        "machine": describe_machine(),
    }
    write_atomically(out / REPORT, json.dumps(report, indent=1).encode())
    console.print_json(data=report)


if __name__ == "__main__":
    as_command(main)
