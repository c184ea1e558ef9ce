"""What the four arms do for one person of a benchmark: the product's prompts, its training, and what comes of a query.

The device remembers the person's history and recalls from it for every query. Serving (`benchmarks/form.py`):

    writing     drafting's chat: recalled requests and replies as turns        answering/drafting.py
    question    answering's chat: recalled texts as notes                      answering/answering.py
    advice      the choice among answers: likelihood and leaning               answering/choosing.py

Without memory the same chat is built with nothing found, so that what memory adds is its content and not the look of
the prompt. Options are ranked by their mean log-probability per token behind the prompt; a gold text is scored in nats
per token; where a benchmark is scored by ROUGE, an answer is generated, greedily. All of it by llama.cpp on the file
that serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np

from client.device_profile import ALL_KINDS, LORA_RANK
from client.examples import message_examples
from client.learning_rate import Scheduled
from client.lora_layout import LoraLayout
from client.personal_install import adapter_file
from client.personal_plan import LORA_LEARNING_RATE
from client.torch_model import TorchModel
from client.training_work import TextSettings, TextWork
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.choosing import choose
from edge_runtime.answering.drafting import DRAFT_SAMPLING, build_draft
from edge_runtime.answering.pipeline import DEFAULT_MEMORIES
from edge_runtime.answering.planner import recall_floor
from edge_runtime.device import Device
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import TextEmbedder
from edge_runtime.memory.ranking import RELEVANCE_FLOOR
from edge_runtime.memory.statements import Recalled
from edge_runtime.models.catalogue import ModelFile
from protocol.errors import PenchantError
from simulations.benchmarks.form import Benchmark, Query, Serving, Task
from simulations.benchmarks.metrics import overlap
from simulations.experiments.arms import DRAFT_MEMORIES, NOTHING_FOUND
from simulations.studies.personal_fleet import SINGLE_TEXTS, run_work

CONTEXT_TOKENS: Final = 1024
GOLD_TOKENS: Final = 64  # of a gold text or an option are scored at most
RECALLED: Final[dict[Serving, int]] = {"writing": DRAFT_MEMORIES, "question": DEFAULT_MEMORIES, "advice": 1}
Outcome = dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """The person's adapter: ordinary LoRA of ``rank`` on all maps of all layers, ``passes`` over the ``newest`` texts
    of the history, each cut to ``max_tokens`` with its request, in batches of ``batch_size``, by Adam at
    ``learning_rate`` with warm-up and decay."""

    rank: int = LORA_RANK
    passes: int = 2
    batch_size: int = SINGLE_TEXTS
    learning_rate: float = LORA_LEARNING_RATE
    newest: int = 40
    max_tokens: int = 128
    seed: int = 0


@dataclass(frozen=True)
class Opened:
    """One model, open in torch and in llama.cpp, and the embedder of memories."""

    model: ModelFile
    torch_model: TorchModel
    engine: Engine
    embedder: TextEmbedder


def train_personal(opened: Opened, device: Device, recipe: Recipe) -> bytes:
    """The GGUF of the adapter that the device trains on what it holds, as `penchant train` does without a gate."""
    examples = message_examples(opened.engine, device, recipe.newest)
    texts = [example.text for example in examples if example.has_targets(recipe.max_tokens)]
    if not texts:
        raise PenchantError(f"no request of this person leaves room for a reply within {recipe.max_tokens} tokens")
    layout = LoraLayout.of(opened.torch_model.module_shapes(ALL_KINDS), recipe.rank)
    settings = TextSettings(recipe.passes, recipe.batch_size, recipe.learning_rate)
    work = TextWork(opened.torch_model, layout, texts, [], settings, max_tokens=recipe.max_tokens)
    theta = run_work(Scheduled(work), layout.start(recipe.seed), seed=recipe.seed)
    return adapter_file(
        opened.model,
        layout.lora_factors(theta),
        alpha=float(recipe.rank),
        frame_sha256="",
        parent_sha256="",
        epsilon=None,
        created="",
    )


@contextmanager
def under(engine: Engine, adapter: bytes | None) -> Iterator[None]:
    """The engine with this adapter (None: the model alone), and without one afterwards."""
    loaded = engine.load_adapter(adapter, sha256=sha256(adapter).hexdigest()) if adapter else None
    engine.use_adapters([(loaded, 1.0)] if loaded else [])
    try:
        yield
    finally:
        engine.use_adapters([])
        if loaded:
            engine.unload_adapter(loaded)


def recalled(device: Device, query: Query, serving: Serving) -> list[Recalled]:
    """What the product would recall for a query, best first."""
    floor = RELEVANCE_FLOOR if serving == "writing" else recall_floor(query.input)
    return device.memory.recall(query.input, k=RECALLED[serving], floor=floor)


def evidence_found(task: Task, query: Query, notes: Sequence[Recalled]) -> float:
    """Share of a query's evidence that is among the notes."""
    shown = {(note.item.cue, note.item.text) for note in notes}
    wanted = {(task.history[place].cue, task.history[place].text) for place in query.evidence}
    return len(wanted & shown) / len(wanted)


def chat_of(serving: Serving, query: Query, notes: Sequence[Recalled]) -> list[ChatMessage]:
    """The product's chat for a query with these notes."""
    if serving == "question":
        return build_messages(query.input, notes or [NOTHING_FOUND])
    return build_draft(query.input, notes)


def prompt_of(engine: Engine, benchmark: Benchmark, query: Query, notes: Sequence[Recalled]) -> list[int]:
    """Its tokens, with as many of the notes as leave room for an answer."""
    room = engine.context_tokens - max(GOLD_TOKENS, benchmark.answer_tokens)
    for count in range(len(notes), -1, -1):
        prompt = engine.tokenise(engine.chat_prompt(chat_of(benchmark.serving, query, notes[:count])))
        if len(prompt) <= room:
            return prompt
    raise PenchantError("a query alone fills the context: shorten its input")


def outcome(opened: Opened, benchmark: Benchmark, query: Query, notes: Sequence[Recalled]) -> Outcome:
    """What comes of a query under the weights in use: for options the places of ``gold`` and ``chosen`` among them,
    else ``nats`` and ``tokens`` of the gold, and the ``overlap`` of an answer where the benchmark asks."""
    engine = opened.engine
    if benchmark.serving == "advice":
        texts = [note.item.text for note in notes]
        best = choose(engine, opened.embedder, query.input, query.options, texts)[0].option
        return {"gold": query.options.index(query.gold), "chosen": query.options.index(best)}
    prompt = prompt_of(engine, benchmark, query, notes)
    if query.options:
        replies = [engine.tokenise(option, special=False)[:GOLD_TOKENS] for option in query.options]
        scores = [float(logs.mean()) for logs in engine.score(prompt, replies)]
        return {"gold": query.options.index(query.gold), "chosen": int(np.argmax(scores))}
    reply = [*engine.tokenise(query.gold, special=False), engine.end_of_turn[0]][:GOLD_TOKENS]
    logs = engine.score(prompt, [reply])[0]
    result: Outcome = {"nats": -float(logs.sum()), "tokens": len(logs)}
    if benchmark.measure == "rouge1":
        answer = "".join(engine.generate(prompt, max_tokens=benchmark.answer_tokens, sampling=DRAFT_SAMPLING))
        result |= overlap(query.gold, answer)
    return result


def outcomes(
    opened: Opened, benchmark: Benchmark, task: Task, notes: Sequence[Sequence[Recalled]], adapter: bytes | None
) -> list[Outcome]:
    """The outcomes of a person's queries, each with its notes, under one adapter."""
    with under(opened.engine, adapter):
        return [outcome(opened, benchmark, query, shown) for query, shown in zip(task.queries, notes, strict=True)]
