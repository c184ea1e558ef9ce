"""Is a frame worth refreshing between releases? One fleet's second release, in the old frame and in a refreshed one.

    python -m simulations.studies.frames.refresh blogs --out DIR

Half of the people's texts train a shared adapter (the first release, to which noise is added as a fleet would); the
frame is then refreshed from that release and public text alone; the other half trains on from the release, once in the
old frame and once, carried over, in the refreshed one. Gains on held-out texts of the same people over the base model
(mean and 95 % interval over people, whole vocabulary, torch).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from client.device_profile import KINDS
from client.examples import prepare_input
from client.frame_builder import refresh_frame
from client.torch_model import Batch, Text, TorchModel, as_theta
from edge_runtime.commands.support import one_line_errors
from edge_runtime.models.catalogue import find_model, write_atomically
from protocol.frames import Frame, carry
from simulations.statistics import mean_interval
from simulations.studies.frames.study import MAX_TOKENS, POOLED, Laboratory, Method, load_people, person_gains
from simulations.studies.frames.training import Passes, coordinate_losses, train_frame
from simulations.study_command import as_command

RELEASED = Method("gradient", 15, KINDS, 8, 0.03)
NOISE = 0.01  # standard deviation on every number of the release


def second_release(
    model: TorchModel,
    frame: Frame,
    public: Sequence[Text],
    batches: tuple[Batch, Batch, Batch],
    *,
    rate: float,
    noise: float,
    passes: Passes,
) -> tuple[dict[str, Tensor], float]:
    """Held-out losses (texts, 2) of the noisy first release, of the same carried into the refreshed frame, and of the
    second release in either; and the fraction of the first that carrying kept. ``batches``: first and second half of
    the training texts, held-out texts."""
    first, second, held_out = batches
    theta, _ = train_frame(model, first, held_out, frame, rate, passes)
    drawn = torch.randn(theta.shape, generator=torch.Generator().manual_seed(passes.seed))
    released = theta + noise * drawn
    vector = released[0].double().numpy()
    fresh = refresh_frame(model, frame, vector, public, noise_deviation=noise)
    moved, kept = carry(vector, frame, fresh)
    carried = as_theta(moved)
    return {
        "release": coordinate_losses(model, held_out, frame, released),
        "carried": coordinate_losses(model, held_out, fresh, carried),
        "old_frame": train_frame(model, second, held_out, frame, rate, passes, start=released)[1],
        "refreshed": train_frame(model, second, held_out, fresh, rate, passes, start=carried)[1],
    }, kept


@one_line_errors
def main(
    source: Annotated[str, typer.Argument(help="Data set: blogs or novels.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for refresh.json.")],
    people: Annotated[int, typer.Option("--people", help="People of the fleet.")] = 24,
) -> None:
    """Measure what refreshing the frame adds to a second release; writes DIR/refresh.json."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    laboratory = Laboratory(find_model(), Passes(epochs=1))
    model, frame = laboratory.at_depth(RELEASED.layers), laboratory.frame(RELEASED)
    texts = laboratory.texts(load_people(source, people, POOLED), 4, 3)
    parts = (texts.train[0::2], texts.train[1::2], texts.held_out)
    first, second, held_out = (model.prepare(prepare_input(part), max_tokens=MAX_TOKENS) for part in parts)
    losses, kept = second_release(
        model,
        frame,
        laboratory.public,
        (first, second, held_out),
        rate=RELEASED.rate,
        noise=NOISE,
        passes=laboratory.passes,
    )
    before = laboratory.base_losses(texts, held_out)
    gains = {name: person_gains(before, after.numpy(), texts.owners) for name, after in losses.items()}
    report: dict[str, Any] = {"source": source, "method": RELEASED.name, "noise": NOISE, "people": people, "kept": kept}
    report |= {name: mean_interval(list(gain.values())) for name, gain in gains.items()}
    report["refreshed_minus_old"] = mean_interval(
        [gains["refreshed"][person] - gains["old_frame"][person] for person in gains["old_frame"]]
    )
    write_atomically(out / "refresh.json", json.dumps(report, indent=1).encode())
    typer.echo(json.dumps(report))


if __name__ == "__main__":
    as_command(main)
