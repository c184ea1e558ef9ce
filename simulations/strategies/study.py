"""`python -m simulations.strategies.study --out DIR`: every strategy on the same people, rounds, clip rule and noise.

Villagers of the fleet train; the village's newcomers, who are in no sum that is reported, choose each strategy's
learning rate (the best of a few on their own held-out messages after as many rounds) and its clip norm (the median
length of their first uploads). Then the fleet's people run every strategy twice: without noise, and with the noise
that the mean over a fleet of `fleet_people` would have at `noise_multiplier`. A round costs every strategy the same
privacy: one of two sums has sqrt(2) times the noise in each. What is known of the noise is used for all alike: the
server shrinks a mean by what noise explains (`server.algorithms.shrink`), so that a sum drowned in noise changes little
instead of destroying the adapter.

Judged by llama.cpp: nats per token of held-out messages, relative gain over the bare model per person, mean and 95 %
interval over people. Bytes are measured in one real round per strategy (`simulations.bench.wire`).
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from client.examples import make_example, prepare_input, public_examples
from client.frame_builder import build_frame, public_text
from client.training import Trainer, open_trainer
from edge_runtime.answering.drafting import build_draft, plain_draft
from edge_runtime.engine.engine import ChatMessage, Engine
from edge_runtime.models.catalogue import read_model_shape
from protocol.accounting import gaussian_epsilon
from protocol.errors import PenchantError
from protocol.frames import Frame
from protocol.seed_scalars import SeedPool
from simulations.bench.wire import empty_homes, measure
from simulations.datasets.village import load_village
from simulations.experiments.arms import HeldOut, held_out_texts
from simulations.experiments.scoring import CONTEXT_TOKENS, Job, Scorer
from simulations.people import Message, Person
from simulations.statistics import mean_interval
from simulations.strategies.exact_product import ExactProduct
from simulations.strategies.fedsa_lora import FedSaLora
from simulations.strategies.ffa_lora import FfaLora
from simulations.strategies.frame_coordinates import FrameCoordinates
from simulations.strategies.lora_averaging import LoraAveraging
from simulations.strategies.lora_training import TorchTexts
from simulations.strategies.private_mean import DELTA
from simulations.strategies.rounds import AnyStrategy, RoundsResult, run_rounds, tune
from simulations.strategies.seed_scalars import SeedScalars, adapter_file
from simulations.strategies.strategy import AdaptedMaps
from simulations.study_command import as_command

KINDS = ("attn_output", "ffn_down")
LORA_RATES, FRAME_RATES, SEED_RATES = (0.003, 0.01, 0.03), (0.01, 0.03, 0.08), (3.0, 10.0, 30.0)
PROMPT_TOKENS = 256  # room for the worked turns of a draft's prompt


@dataclass(frozen=True)
class StudyPlan:
    """Sizes. `train_messages` and `held_out_messages` of each person, cut to so many tokens; `steps` of two forward
    passes for seeds and scalars; `pool_count` K of its directions."""

    people: int = 10
    tuning_people: int = 3
    rounds: int = 2
    noise_multiplier: float = 1.0
    fleet_people: int = 100
    top_layers: int = 4
    rank: int = 8
    product_ranks: tuple[int, ...] = (2, 4, 8)
    pool_count: int = 256
    steps: int = 8
    train_messages: int = 8
    held_out_messages: int = 3
    max_tokens: int = 72
    seed: int = 0


def strategies_of(frame: Frame, plan: StudyPlan) -> list[tuple[Any, tuple[float, ...]]]:
    """Every strategy on the frame's maps (its rate still open), and the rates to try."""
    shapes = tuple((u.shape[0], v.shape[1]) for u, v in zip(frame.left, frame.right, strict=True))
    maps = AdaptedMaps(frame.modules, shapes, plan.rank)
    pool = SeedPool(sha256(b"the study's pool").digest(), plan.pool_count, frame.dimension)
    return [
        (FrameCoordinates(frame, 0.0), FRAME_RATES),
        (LoraAveraging(maps, 0.0), LORA_RATES),
        (FfaLora(maps, 0.0), LORA_RATES),
        (FedSaLora(maps, 0.0), LORA_RATES),
        (ExactProduct(maps, plan.product_ranks, plan.rank, 0.0), LORA_RATES),
        (SeedScalars(frame, pool, 0.0, plan.steps, distance=1.0), SEED_RATES),
    ]


def training_texts(trainer: Trainer, messages: Sequence[Message], plan: StudyPlan) -> TorchTexts:
    """Messages in the short form that devices train on."""
    return _prepared(trainer, [(plain_draft(one.cue), one.text) for one in messages], plan.max_tokens)


def serving_texts(trainer: Trainer, messages: Sequence[Message], plan: StudyPlan) -> TorchTexts:
    """Messages in the form that serves, worked turns before them: what the judge scores."""
    return _prepared(trainer, [(build_draft(one.cue), one.text) for one in messages], PROMPT_TOKENS + plan.max_tokens)


def _prepared(trainer: Trainer, pairs: Sequence[tuple[list[ChatMessage], str]], max_tokens: int) -> TorchTexts:
    examples = [make_example(trainer.engine, prompt, reply) for prompt, reply in pairs]
    batch = trainer.torch_model.prepare(prepare_input(examples), max_tokens=max_tokens)
    return TorchTexts(trainer.torch_model, batch)


class Judge:
    """Scores adapters on people's held-out messages with llama.cpp."""

    def __init__(self, engine: Engine, people: Sequence[Person], plan: StudyPlan) -> None:
        limits = HeldOut(messages=plan.held_out_messages, facts=0, choices=0, max_tokens=plan.max_tokens)
        self._texts = [held_out_texts(engine, person, limits, None) for person in people]
        self._scorer, self._model = Scorer(engine), engine.model
        self._shape = read_model_shape(engine.model.path)
        self.base = self._losses([(b"", "")] * len(people))

    def losses(self, strategy: AnyStrategy, result: RoundsResult) -> list[float]:
        """Nats per token of every person under the adapter that the strategy leaves them."""
        files = [
            adapter_file(strategy.adapter(result.state, own), self._model.sha256, self._shape) for own in result.own
        ]
        return self._losses([(data, sha256(data).hexdigest()) for data in files])

    def _losses(self, adapters: Sequence[tuple[bytes, str]]) -> list[float]:
        jobs = [
            Job("study", person, self._texts[person], data or None, digest)
            for person, (data, digest) in enumerate(adapters)
        ]
        in_order = sorted(jobs, key=lambda job: job.adapter_sha256)  # neighbours share what is loaded
        by_person = {result.person: result.loss for result in map(self._scorer.score, in_order)}
        return [by_person[person] for person in range(len(jobs))]


def gain_block(losses: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Mean loss, and relative gain over the base with its interval over people."""
    gains = [1.0 - loss / bare for loss, bare in zip(losses, base, strict=True)]
    mean, low, high = mean_interval(gains)
    return {"loss": float(np.mean(losses)), "gain": mean, "gain_interval": [low, high], "gains": gains}


def run_study(plan: StudyPlan, out: Path, console: Console) -> dict[str, Any]:
    """Run everything and return it; `out`/strategies.json grows by one strategy after the other."""
    village = load_village()
    fleet = [person for person in village if person.role == "fleet"][: plan.people]
    newcomers = [person for person in village if person.role == "newcomer"][: plan.tuning_people]
    if len(fleet) < plan.people or plan.people < 8 or len(newcomers) < plan.tuning_people or plan.tuning_people < 3:
        raise PenchantError("the study needs 8 to 26 people and 3 to 6 newcomers of the village")
    trainer = open_trainer(plan.top_layers)
    public = prepare_input(public_examples(trainer.engine, public_text()))
    frame = build_frame(trainer.torch_model, trainer.model.sha256, public, kinds=KINDS, rank=plan.rank)
    console.print(f"frame of {frame.dimension} coordinates")
    newest, tuning = (
        [training_texts(trainer, person.train_messages[-plan.train_messages :], plan) for person in group]
        for group in (fleet, newcomers)
    )
    judged = [serving_texts(trainer, person.test_messages[: plan.held_out_messages], plan) for person in newcomers]
    # As on the mean of a larger fleet whose average person these are: z C / fleet_people per coordinate.
    noise = plan.noise_multiplier * plan.people / plan.fleet_people
    results: dict[str, Any] = {}
    document: dict[str, Any] = {
        "plan": asdict(plan),
        "model_sha256": trainer.model.sha256,
        "frame_sha256": frame.digest,
        "maps": list(frame.modules),
        "epsilon": gaussian_epsilon(math.sqrt(plan.rounds) / plan.noise_multiplier, DELTA),
        "delta": DELTA,
        "strategies": results,
    }
    out.mkdir(parents=True, exist_ok=True)
    with (
        Engine.open(trainer.model, context_tokens=CONTEXT_TOKENS, threads=1) as engine,
        tempfile.TemporaryDirectory() as folder,
    ):
        judge = Judge(engine, fleet, plan)
        homes, credentials = empty_homes(Path(folder), plan.people)
        for strategy, rates in strategies_of(frame, plan):
            tuned = tune(strategy, rates, tuning, judged, rounds=plan.rounds, seed=plan.seed)
            wire = measure(tuned.strategy, homes, credentials, Path(folder) / tuned.strategy.name)
            block: dict[str, Any] = {
                "rate": tuned.rate,
                "rates_tried": list(rates),
                "clip_norms": list(tuned.clips),
                "numbers_trained": tuned.strategy.numbers_trained,
                "values_summed": wire.values,
                "bytes_up": wire.up,
                "bytes_down": wire.down,
            }
            for arm, multiplier in (("without_noise", 0.0), ("with_noise", noise)):
                finished = run_rounds(
                    tuned.strategy,
                    newest,
                    rounds=plan.rounds,
                    clips=tuned.clips,
                    noise_multiplier=multiplier,
                    seed=plan.seed,
                )
                block[arm] = gain_block(judge.losses(tuned.strategy, finished), judge.base)
            results[tuned.strategy.name] = block
            document["base_loss"] = float(np.mean(judge.base))
            (out / "strategies.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
            console.print(f"{tuned.strategy.name}: {block['without_noise']['gain']:.2%} without noise")
    return document


def show(document: dict[str, Any], console: Console) -> None:
    """The table of the study."""
    plan = document["plan"]
    noisy = f"gain, as of {plan['fleet_people']} people at epsilon {document['epsilon']:.1f}"
    table = Table("strategy", "numbers trained", "bytes up", "bytes down", "gain without noise", noisy)
    for name, block in document["strategies"].items():
        cells = []
        for arm in ("without_noise", "with_noise"):
            low, high = block[arm]["gain_interval"]
            cells.append(f"{block[arm]['gain']:+.2%} ({low:+.2%} to {high:+.2%})")
        table.add_row(
            name, f"{block['numbers_trained']:,}", f"{block['bytes_up']:,.0f}", f"{block['bytes_down']:,.0f}", *cells
        )
    console.print(table)


def main(
    out: Annotated[Path, typer.Option(help="Folder for strategies.json.")],
    people: Annotated[int, typer.Option(help="People of the village that train (8 to 26).")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of every strategy.")] = 2,
    seed: Annotated[int, typer.Option(help="Order of texts, rounding and noise.")] = 0,
) -> None:
    """Every way of sharing an adapter on the same people: gain, bytes, and what noise leaves of it."""
    console = Console()
    try:
        show(run_study(StudyPlan(people=people, rounds=rounds, seed=seed), out, console), console)
    except PenchantError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    as_command(main)
