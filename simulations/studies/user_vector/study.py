"""What one soft token per person is worth: the user projection from public text to held-out loss, through the
deployment's own rounds and llama.cpp.

    python -m simulations.studies.user_vector.study --out DIR

Two bases for the token are compared on public text. Then the village's fleet learns the projection twice, without
noise and at a stated epsilon, over the secure sum; and everybody's held-out messages are scored behind

    none               no soft token at all
    anchor             the token before any training
    shared             the fleet's token, the same for everybody (strength 0)
    own                the person's, their history weighed by the request
    own_mean           the same with all of the history weighed alike
    stranger           the next person's history in place of theirs, weighed by the request

What is personal is ``own`` against ``shared`` and against ``stranger``, not against ``none``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from client import app as client_app
from client.examples import public_examples
from client.frame_builder import public_text
from client.training import Trainer
from client.user_vector import (
    PersonalText,
    Text,
    UserVectorPlan,
    open_full_trainer,
    soft_losses,
    train_projection,
)
from client.user_vector_frame import (
    build_projection_frame,
    captured_energy,
    embedding_directions,
    leading_directions,
    public_gradients,
)
from edge_runtime.device import SharedEmbedder
from edge_runtime.memory.memory import TextEmbedder
from edge_runtime.memory.statements import embedded_text
from protocol.accounting import noise_multiplier_for
from protocol.user_projection import ProjectionFrame
from server.credentials import ServerCredentials
from server.fleet import FleetResult, FleetSettings, run_fleet
from server.user_vector import ProjectionFleet, ProjectionPlan
from simulations.datasets.village import load_village
from simulations.experiments.homes import create_homes
from simulations.experiments.local_grid import LocalGrid
from simulations.people import Person
from simulations.studies.user_vector.arms import (
    answer_cost,
    arm_table,
    held_out_texts,
    scored,
    tokens_of,
    torch_agreement,
)
from simulations.study_command import as_command

Say = Callable[[str], None]


@dataclass(frozen=True)
class StudySettings:
    """``fleet`` and ``newcomers``: people taken. ``epsilon`` at ``delta`` of the private run (one person, all rounds).
    ``held_out`` messages of at most ``max_tokens`` are scored for each person. ``bases_epochs`` passes over half the
    public texts train each of the two bases that are compared (0: no comparison)."""

    fleet: int = 20
    newcomers: int = 6
    input_rank: int = 8
    output_rank: int = 8
    temperature: float = 0.1
    rounds: int = 2
    clip: float = 0.25
    epsilon: float = 8.0
    delta: float = 1e-3
    dropout_fraction: float = 0.2
    held_out: int = 2
    max_tokens: int = 96
    bases_epochs: int = 2
    bases_step: float = 0.15
    training: UserVectorPlan = field(default_factory=UserVectorPlan)


def run_study(
    settings: StudySettings, people: Sequence[Person], out: Path, embedder: TextEmbedder, say: Say
) -> dict[str, Any]:
    """Everything; returns the report."""
    started = time.process_time()
    fleet = [person for person in people if person.role == "fleet"][: settings.fleet]
    newcomers = [person for person in people if person.role == "newcomer"][: settings.newcomers]
    chosen = [*fleet, *newcomers]
    trainer = open_full_trainer()
    public = PublicTexts.read(trainer, embedder)
    frame = public_frame(trainer, public, settings)
    homes, credentials = create_homes(chosen, out / "devices", epsilon_budget=float("inf"), delta=settings.delta)
    texts = [
        held_out_texts(trainer, person, count=settings.held_out, max_tokens=settings.max_tokens) for person in chosen
    ]
    anchor = frame.token(np.zeros(frame.dimension), np.zeros(len(frame.inputs))).astype(np.float32)[None]
    losses = scored(trainer.model, texts, {"none": [[None] * len(rows) for rows in texts]})
    losses |= scored(trainer.model, texts, {"anchor": [[anchor] * len(rows) for rows in texts]})
    report: dict[str, Any] = {
        "settings": asdict(settings),
        "model": {"name": trainer.model.name, "sha256": trainer.model.sha256},
        "people": {"fleet": len(fleet), "newcomers": len(newcomers)},
        "numbers_trained": frame.dimension,
        "frame_bytes": len(frame.to_bytes()),
        "runs": {},
    }
    if settings.bases_epochs:
        report["bases"] = compare_bases(trainer, frame, public, settings)
        say(f"bases on public text: {report['bases']}")
    noise = noise_multiplier_for(settings.epsilon, settings.delta, settings.rounds)
    for name, multiplier in (("without_noise", 0.0), ("private", noise)):
        plan = ProjectionPlan(settings.rounds, settings.clip, settings.training.settings())
        algorithm = ProjectionFleet(frame, plan)
        result, sent = federate(algorithm, homes[: len(fleet)], credentials, out / name, settings, multiplier)
        matrix, bias = frame.parts(algorithm.theta)
        report["runs"][name] = {
            "noise_multiplier": multiplier,
            "epsilon": result.epsilon if multiplier else None,
            "bytes_up_per_person_and_round": sent,
            "norm_of_matrix": float(np.linalg.norm(matrix)),
            "norm_of_bias": float(np.linalg.norm(bias)),
        }
        say(f"{name}: {report['runs'][name]}")
        tokens = tokens_of(homes, texts, algorithm.projection)
        losses |= scored(trainer.model, texts, {f"{name}/{arm}": rows for arm, rows in tokens.items()})
        report |= {"arms": arm_table(losses, len(fleet)), "losses": losses}
        if name == "without_noise":
            report["torch_and_llama"] = torch_agreement(trainer, tokens["own"], texts)
            report["answer_cost_ms"] = answer_cost(trainer.model, homes[0], algorithm.projection, texts[0])
        report["cpu_seconds"] = time.process_time() - started
        (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


# ---- public text


@dataclass(frozen=True, eq=False)
class PublicTexts:
    """The project's public pairs: tokenised, their vectors (k, m) and their gradients (k, n) at the anchor."""

    texts: list[Text]
    vectors: NDArray[np.float32]
    gradients: NDArray[np.float64]

    @staticmethod
    def read(trainer: Trainer, embedder: TextEmbedder) -> PublicTexts:
        pairs = public_text()
        texts: list[Text] = [(one.tokens, one.prompt_length) for one in public_examples(trainer.engine, pairs)]
        vectors = embedder.embed([embedded_text(reply, request) for request, reply in pairs])
        return PublicTexts(texts, vectors, public_gradients(trainer.torch_model, texts, texts[0][0][0]))


def public_frame(trainer: Trainer, public: PublicTexts, settings: StudySettings) -> ProjectionFrame:
    """The fleet's frame, from all public text."""
    return build_projection_frame(
        trainer.torch_model,
        trainer.model.sha256,
        public.vectors,
        public.gradients,
        public.texts[0][0][0],
        input_rank=settings.input_rank,
        output_rank=settings.output_rank,
        temperature=settings.temperature,
    )


def compare_bases(
    trainer: Trainer, frame: ProjectionFrame, public: PublicTexts, settings: StudySettings
) -> dict[str, Any]:
    """Two bases for the token, made from one half of the public texts and judged on the other.

    ``captured``: part of the other half's squared gradient that lies in the basis. ``loss``: nats per token of the
    other half behind the token after b alone was trained on the first; ``anchor_loss`` before.
    """
    half, rank = len(public.texts) // 2, settings.output_rank
    unit = frame.anchor.astype(np.float64)
    beside = public.gradients[:half] - np.outer(public.gradients[:half] @ unit, unit)
    candidates = {
        "gradient": leading_directions(beside, rank).T,
        "token_embeddings": embedding_directions(trainer.torch_model, frame.anchor, rank),
    }
    nobody = np.zeros(settings.input_rank)
    plan = replace(settings.training, epochs=settings.bases_epochs, step=settings.bases_step)
    judged, start = public.texts[half:], np.zeros(frame.dimension)
    compared: dict[str, Any] = {"anchor_loss": _loss(trainer, judged, frame.token(start, nobody))}
    for name, outputs in candidates.items():
        tried = replace(frame, outputs=outputs)
        impersonal = [PersonalText(text, nobody) for text in public.texts[:half]]
        theta = train_projection(trainer.torch_model, tried, impersonal, start, plan, seed=0).theta
        compared[name] = {
            "captured": captured_energy(public.gradients[half:], frame.anchor, outputs),
            "loss": _loss(trainer, judged, tried.token(theta, nobody)),
        }
    return compared


def _loss(trainer: Trainer, texts: Sequence[Text], token: NDArray[np.float64]) -> float:
    """Nats per token of texts behind one token, in torch."""
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(texts), 4):
            chunk = texts[start : start + 4]
            losses, counts = soft_losses(
                trainer.torch_model, chunk, torch.from_numpy(np.tile(token, (len(chunk), 1))).float()
            )
            total, count = total + float(losses.sum()), count + int(counts.sum())
    return total / count


# ---- the fleet


def federate(
    algorithm: ProjectionFleet,
    homes: Sequence[Path],
    credentials: ServerCredentials,
    out: Path,
    settings: StudySettings,
    noise_multiplier: float,
) -> tuple[FleetResult, float]:
    """The rounds through both apps and the secure sum; and bytes up per person and round, all stages together."""
    fleet = FleetSettings(
        run_id=f"projection-{out.name}",
        rounds=settings.rounds,
        noise_multiplier=noise_multiplier,
        delta=settings.delta,
        dropout_fraction=settings.dropout_fraction,
    )
    grid = LocalGrid(client_app.app, homes)
    try:
        result = run_fleet(grid, fleet, out, algorithm, credentials=credentials)
    finally:
        client_app.close_devices()
    return result, sum(grid.bytes_per_device("up").values()) / len(homes) / settings.rounds


def main(
    out: Annotated[Path, typer.Option(help="Folder for devices, releases and report.json.")],
    fleet: Annotated[int, typer.Option(min=8, help="People of the village who train.")] = 20,
    newcomers: Annotated[int, typer.Option(min=0, help="People who only receive the projection.")] = 6,
    bases: Annotated[bool, typer.Option(help="Compare the two bases on public text first.")] = True,
) -> None:
    """Run the study on the village and write OUT/report.json."""
    torch.set_num_threads(1)
    settings = StudySettings(fleet=fleet, newcomers=newcomers, bases_epochs=2 if bases else 0)
    run_study(settings, load_village(), out, SharedEmbedder(), lambda line: typer.echo(line))


if __name__ == "__main__":
    as_command(main)
