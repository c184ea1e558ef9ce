"""What a temporary adapter (`client.temporary_adapter`) is worth while one long document is read.

    python -m simulations.studies.temporary --out DIR            novels; what is done is not done again
    python -m simulations.studies.temporary --out DIR --tune     other novels, for the learning rate

A document is the end of a novel, its last passages in their order. It is read chunk by chunk, and each next chunk is
scored before it is learnt, by llama.cpp on the file that serves:

    short             given the tokens just before it
    temporary         the same, with the adapter trained on all chunks before it
    long              given four times as many tokens
    long+temporary    both
    retrieval         given the earlier chunk whose embedding is nearest to that of the tokens just before it, and those

Losses are nats per token of all chunks from the second on; intervals are over novels, differences paired.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from client.personal_training import own_frame
from client.temporary_adapter import TemporarySettings, chunks_of, temporary_adapter
from client.training import Trainer, open_trainer, serving_model
from edge_runtime.commands.support import one_line_errors
from edge_runtime.engine.embedder import Embedder
from edge_runtime.models.catalogue import read_model_shape
from protocol.errors import PenchantError
from simulations.datasets.writing import data_folder, person_id, plain_texts, read_records
from simulations.statistics import mean_interval
from simulations.studies.personal_fleet import FILES, Workshop
from simulations.study_command import as_command

SHORT: Final = 128  # tokens of context
LONG: Final = 4 * SHORT
RATES: Final = (0.01, 0.03)
PAIRS: Final = (
    ("short", "temporary"),
    ("short", "long"),
    ("short", "retrieval"),
    ("long", "temporary"),
    ("long", "long+temporary"),
    ("retrieval", "temporary"),
)
ARMS: Final = ("short", "temporary", "long", "long+temporary", "retrieval")


@dataclass(frozen=True)
class Document:
    """A novel's end as tokens."""

    id: str
    tokens: tuple[int, ...]


def load_documents(folder: Path, shop: Workshop, *, count: int, skip: int, tokens: int) -> list[Document]:
    """``count`` documents of ``tokens`` tokens after the first ``skip`` novels in the order of a seed."""
    records = list(read_records(folder / FILES["novels"]))
    random.Random("temporary").shuffle(records)
    chosen = records[skip : skip + count]
    if len(chosen) < count:
        raise PenchantError(f"there are {len(records)} novels, not {skip + count}: ask for fewer")
    documents = []
    for record in chosen:
        text = "\n\n".join([*plain_texts(record, "train"), *plain_texts(record, "test")])
        documents.append(
            Document(person_id("novel", record), tuple(shop.engine.tokenise(text, special=False)[-tokens:]))
        )
    return documents


def read_document(
    shop: Workshop, document: Document, settings: TemporarySettings, arms: Sequence[str], embedder: Embedder | None
) -> dict[str, Any]:
    """One document: {"sums": {arm: [[nats, tokens] of each chunk from the second on]}, "train_seconds", "tokens"}."""
    engine, chunks = shop.engine, chunks_of(document.tokens, settings.chunk)
    trainer = Trainer(shop.model, shop.torch_model, engine)
    sums: dict[str, list[tuple[float, int]]] = {arm: [] for arm in arms}
    vectors: list[np.ndarray] = []
    seconds = 0.0

    def score(arm: str, before: Sequence[int], chunk: Sequence[int]) -> None:
        row = engine.score(list(before), [list(chunk)])[0]
        sums[arm].append((-float(row.sum()), len(row)))

    for number, chunk in enumerate(chunks):
        if embedder is not None:
            vectors.append(embedder.embed([engine.detokenise(list(chunk))])[0])
        if number == 0:
            continue
        before = [token for part in chunks[:number] for token in part]
        for arm, context in (("short", before[-SHORT:]), ("long", before[-LONG:])):
            if arm in arms:
                score(arm, context, chunk)
        if embedder is not None:
            asked = embedder.embed([engine.detokenise(before[-SHORT:])])[0]
            # what stands right before the chunk is there already
            nearest = int(np.argmax([vector @ asked for vector in vectors[: max(1, number - 1)]]))
            score("retrieval", [*chunks[nearest], *before[-SHORT:]], chunk)
    with temporary_adapter(trainer, engine, "", frame=shop.frame, settings=settings) as temporary:
        for number, chunk in enumerate(chunks[:-1]):
            started = time.perf_counter()
            temporary.read_chunks([chunk])
            seconds += time.perf_counter() - started
            before = [token for part in chunks[: number + 1] for token in part]
            for arm, context in (("temporary", before[-SHORT:]), ("long+temporary", before[-LONG:])):
                if arm in arms:
                    score(arm, context, chunks[number + 1])
    return {"sums": sums, "train_seconds": seconds, "tokens": len(document.tokens)}


def losses_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Nats per token of each arm of one document."""
    return {arm: sum(nats for nats, _ in part) / sum(count for _, count in part) for arm, part in row["sums"].items()}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over documents, and gains: what an arm spares, paired; ``by_chunk`` is the mean gain of ``temporary`` over
    ``short`` at each chunk from the second on."""
    losses = [losses_of(row) for row in rows]
    pairs = [(first, then) for first, then in PAIRS if first in losses[0] and then in losses[0]]
    chunks = min(len(row["sums"]["short"]) for row in rows)

    def gain(row: Mapping[str, Any], number: int) -> float:
        (before, count), (after, _) = row["sums"]["short"][number], row["sums"]["temporary"][number]
        return float((before - after) / count)

    return {
        "documents": len(rows),
        "losses": {arm: mean_interval([one[arm] for one in losses]) for arm in losses[0]},
        "gains": {
            f"{then} over {first}": mean_interval([one[first] - one[then] for one in losses]) for first, then in pairs
        },
        "by_chunk": [float(np.mean([gain(row, number) for row in rows])) for number in range(chunks)],
    }


@one_line_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for temporary.json, new or not.")],
    documents: Annotated[int, typer.Option(min=2, max=40)] = 8,
    tokens: Annotated[int, typer.Option(min=512, help="Tokens of each document.")] = 1536,
    tune: Annotated[bool, typer.Option("--tune", help="Choose the learning rate on two other novels.")] = False,
) -> None:
    """Read the ends of novels with and without a temporary adapter."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / ("temporary_tuning.json" if tune else "temporary.json")
    done: dict[str, Any] = json.loads(path.read_text("utf-8"))["documents"] if path.is_file() else {}
    embedder = None if tune else Embedder.open()
    trainer = open_trainer(read_model_shape(serving_model().path).layers)
    frame = own_frame(trainer, lambda fraction: typer.echo(f"frame {fraction:.0%}", err=True))
    with closing(Workshop(trainer.model, trainer.torch_model, frame)) as shop:
        skip, count = (0, 2) if tune else (2, documents)
        for document in load_documents(data_folder(), shop, count=count, skip=skip, tokens=tokens):
            for rate in RATES if tune else (TemporarySettings().learning_rate,):
                name = f"{document.id} {rate}" if tune else document.id
                if name in done:
                    continue
                settings = replace(TemporarySettings(), learning_rate=rate)
                done[name] = read_document(shop, document, settings, ARMS[:2] if tune else ARMS, embedder)
                groups = {f" {rate}" for rate in RATES} if tune else {""}
                kept = {end.strip(): [row for key, row in done.items() if key.endswith(end)] for end in sorted(groups)}
                report = {end or "all": summary(rows) for end, rows in kept.items() if rows}
                path.write_text(json.dumps({"summary": report, "documents": done}, indent=2) + "\n", "utf-8")
                typer.echo(f"{name}: {losses_of(done[name])}", err=True)


if __name__ == "__main__":
    as_command(main)
