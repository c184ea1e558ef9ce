"""An evolved base model: the one that serves, fine-tuned on public text, as a new GGUF file.

    python -m simulations.studies.portability.evolved_base --out evolved.gguf

A provider would ship continued pre-training; a few minutes of it on novels stand in here: all weights (not an adapter)
of the maps of the top layers, Adam, one pass, on passages by authors who are nobody in the experiments. The new file is
the old one with those tensors replaced, quantised as they were; it names its parent by digest (`lineage.PARENT_KEY`).
The maps of q and k stay as they are.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from gguf.quants import quantize
from numpy.typing import NDArray

from client.examples import make_example
from client.torch_model import TorchModel
from edge_runtime.adapters.lineage import PARENT_KEY
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.commands.support import one_line_errors
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile, describe_model, find_model, write_atomically
from edge_runtime.models.gguf_bytes import encode_header, encode_pair, pad_length, read_header
from protocol.errors import PenchantError
from simulations.datasets.writing import data_folder, load_novels
from simulations.people import Message
from simulations.study_command import as_command

KINDS = ("attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class Evolution:
    """How far the base is trained: ``texts`` of at most ``max_tokens`` in batches, once, at ``learning_rate``, in the
    top ``layers``."""

    texts: int = 96
    layers: int = 6
    batch_size: int = 8
    max_tokens: int = 128
    learning_rate: float = 3e-4
    seed: int = 0


def evolve(
    model: ModelFile,
    texts: list[tuple[list[int], int]],
    settings: Evolution,
    on_progress: Callable[[float, float], None] = lambda fraction, loss: None,
) -> dict[str, NDArray[np.float32]]:
    """Fine-tune ``model`` on ``texts`` (tokens, prompt_length): {module: its new weights (out, in)}, in float32.

    ``on_progress`` gets the fraction done and the loss of the last batch (nats per token).
    """
    torch.manual_seed(settings.seed)
    torch_model = TorchModel.load(model.path, top_layers=settings.layers, dtype=torch.float32)
    weights = {name: torch_model.linear(name).weight for name in torch_model.module_names(KINDS)}
    for weight in weights.values():
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(list(weights.values()), lr=settings.learning_rate)
    for start in range(0, len(texts), settings.batch_size):
        # Prepared at the present weights: the loss' gradient is exact there.
        batch = torch_model.prepare(texts[start : start + settings.batch_size], max_tokens=settings.max_tokens)
        losses, tokens = torch_model.losses(batch)
        loss = losses.sum() / tokens.sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        on_progress(min(1.0, (start + settings.batch_size) / len(texts)), float(loss.detach()))
    return {name: weight.detach().numpy() for name, weight in weights.items()}


def write_evolved(model: ModelFile, weights: Mapping[str, NDArray[np.float32]], path: Path) -> ModelFile:
    """Write ``model`` with other ``weights`` {module: (out, in) in the file's row order} to ``path``."""
    with model.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = read_header(data, what=model.name)
        shapes = {entry.name: entry.shape for entry in header.tensors}
        for name, weight in weights.items():
            if shapes.get(f"{name}.weight") != weight.shape:
                raise PenchantError(f"{model.name} has no {name} of the shape {weight.shape}")
        start, end = header.pairs_span
        pairs = data[start:end] + encode_pair(PARENT_KEY, model.sha256)
        layout = [(entry.name, entry.shape, entry.kind) for entry in header.tensors]
        head, _ = encode_header(pairs, header.pair_count + 1, layout)
        result = bytearray(head)
        for entry in header.tensors:
            changed = weights.get(entry.name.removesuffix(".weight"))
            raw = (
                data[entry.offset : entry.offset + entry.byte_count]
                if changed is None
                else quantize(np.ascontiguousarray(changed), entry.kind).tobytes()
            )
            result += raw
            result += bytes(pad_length(len(raw)))
    write_atomically(path, result)
    return describe_model(path)


def public_passages(model: ModelFile, settings: Evolution) -> list[tuple[list[int], int]]:
    """Passages of novels as (tokens, prompt_length), from people of the fleet's role, shuffled by the seed."""
    people = load_novels(data_folder(), people=max(1, -(-settings.texts // 40)), seed=settings.seed)
    rows: list[Message] = [message for person in people for message in person.train_messages]
    order = np.random.default_rng(settings.seed).permutation(len(rows))[: settings.texts]
    with Engine.open(model, context_tokens=256, threads=1) as engine:
        examples = [make_example(engine, plain_draft(rows[index].cue), rows[index].text) for index in order]
    return [(list(example.tokens), example.prompt_length) for example in examples]


@one_line_errors
def main(
    out: Annotated[Path, typer.Option("--out", help="The GGUF file to write.")],
    texts: Annotated[int, typer.Option(min=8, help="Passages to train on.")] = Evolution.texts,
    layers: Annotated[int, typer.Option(min=1, help="Top layers to train.")] = Evolution.layers,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Adam's step.")] = Evolution.learning_rate,
    seed: Annotated[int, typer.Option(help="Chooses the passages.")] = 0,
) -> None:
    """Fine-tune the serving model (PENCHANT_MODEL, else the bundled one) on novels."""
    settings = Evolution(texts=texts, layers=layers, learning_rate=learning_rate, seed=seed)
    named = os.environ.get("PENCHANT_MODEL")
    model = find_model(named) if named else find_model()
    passages = public_passages(model, settings)
    weights = evolve(
        model, passages, settings, lambda fraction, loss: typer.echo(f"{fraction:.0%}  loss {loss:.3f}", err=True)
    )
    written = write_evolved(model, weights, out)
    typer.echo(f"Wrote {out}: {written.sha256}, evolved from {model.sha256}")


if __name__ == "__main__":
    as_command(main)
