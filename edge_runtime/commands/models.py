"""The commands that load a model: `penchant ask`, `draft`, `chat`, `model list` and `model info`.

llama.cpp is imported inside them, so that `penchant recall` or `--help` answers at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edge_runtime.commands.support import (
    AsJson,
    Home,
    item_json,
    one_line_errors,
    opened_device,
    print_json,
    print_table,
    printable,
    recalled_json,
    source_line,
)
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.adapters.log import Task
    from edge_runtime.device import Device
    from edge_runtime.engine.engine import Engine

ModelName = Annotated[str, typer.Option("--model", help="The bundled model's name, or the path of a GGUF file.")]
MemoryCount = Annotated[
    int, typer.Option("-k", "--memories", min=0, max=20, help="Memories shown to the model; 0 for none.")
]
MaxTokens = Annotated[int, typer.Option(min=1, max=4096, help="Longest answer, in tokens.")]
Sentences = Annotated[
    int | None, typer.Option(min=1, help="End the answer after so many sentences.", show_default="as it comes")
]
BestOf = Annotated[
    int, typer.Option("--best-of", min=1, max=32, help="Give the one of so many answers that you would like best.")
]
Steer = Annotated[
    float, typer.Option(min=0.0, max=4.0, help="Lean every word towards your taste (1 is usual; no gain was measured).")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads for the model.", show_default="cores - 1")]


@one_line_errors
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    k: MemoryCount = 3,
    model: ModelName = "smollm2-135m",
    max_tokens: MaxTokens = 160,
    sentences: Sentences = None,
    best_of: BestOf = 1,
    steer: Steer = 0.0,
    as_of: Annotated[str | None, typer.Option(help="Answer from what was known that day, YYYY-MM-DD.")] = None,
    threads: Threads = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Answer one question from what is remembered, and name the sources."""
    from edge_runtime.answering.answering import statement_to_remember
    from edge_runtime.answering.pipeline import AnswerOptions, Assistant
    from edge_runtime.commands.answers import print_answer, print_sources, sources_json

    if not question.strip():
        raise PenchantError("The question is empty.")
    with opened_device(home, create=True) as device:
        statement = statement_to_remember(question)
        if statement:
            item = device.memory.remember(statement)
            if as_json:
                print_json({"question": question, "remembered": item_json(item)})
            else:
                typer.echo(f"Remembered as {item.id} ({item.said_at}).")
            return
        options = AnswerOptions(
            k=k, max_tokens=max_tokens, sentences=sentences, as_of=as_of, best_of=best_of, steer=steer
        )
        with _opened_engine(model, threads, device) as engine:
            started = time.monotonic()
            stream = Assistant(device, engine).stream(question, options=options)
            answer, stopped = print_answer(stream, quiet=as_json)
            if not as_json:
                print_sources(stream)
                return
            print_json(
                {
                    "question": question,
                    "answer": answer,
                    "stopped": stopped,
                    "sources": sources_json(stream),
                    "model": {"name": engine.model.name, "sha256": engine.model.sha256},
                    "seconds": round(time.monotonic() - started, 3),
                    "audit": stream.audit.to_dict(),
                }
            )


@one_line_errors
def chat(
    k: MemoryCount = 3,
    model: ModelName = "smollm2-135m",
    max_tokens: MaxTokens = 160,
    sentences: Sentences = None,
    best_of: BestOf = 1,
    steer: Steer = 0.0,
    private: Annotated[bool, typer.Option("--private", help="Keep nothing of this chat.")] = False,
    threads: Threads = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Talk; the chat is kept, encrypted, and "remember that ..." becomes a memory. /quit leaves, Ctrl-C stops an
    answer."""
    from edge_runtime.answering.pipeline import AnswerOptions
    from edge_runtime.commands.chat_loop import Chat

    options = AnswerOptions(k=k, max_tokens=max_tokens, sentences=sentences, best_of=best_of, steer=steer)
    with opened_device(home, create=True) as device, _opened_engine(model, threads, device) as engine:
        Chat(device, engine, options, as_json=as_json, private=private).read_lines()


@one_line_errors
def choose(
    question: Annotated[str, typer.Argument(help="What is to be decided.")],
    options: Annotated[list[str], typer.Argument(help="Two answers or more.")],
    k: MemoryCount = 3,
    model: ModelName = "smollm2-135m",
    threads: Threads = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Rank answers by what you said you like and dislike; nothing is sent or stored."""
    from edge_runtime.answering.choosing import choose as ranked_options
    from edge_runtime.answering.planner import recall_floor

    with opened_device(home, create=True) as device, _opened_engine(model, threads, device) as engine:
        # a dislike is often about an option and not about the question
        query = " ".join([question, *options])
        sources = device.memory.recall(query, k=k, floor=recall_floor(question)) if k else []
        ranked = ranked_options(engine, device.embedder, question, options, [one.item.text for one in sources])
    if as_json:
        print_json(
            {
                "question": question,
                "options": [asdict(one) for one in ranked],
                "sources": [recalled_json(one) for one in sources],
            }
        )
        return
    rows = [(place, one.option, f"{one.likelihood:.2f}", f"{one.leaning:+.2f}") for place, one in enumerate(ranked, 1)]
    print_table("What suits you", ("", "option", "likelihood", "leaning"), rows)
    for source in sources:
        typer.secho(f"  from {source_line(source)}", dim=True)


@one_line_errors
def model_list(as_json: AsJson = False) -> None:
    """Models at hand: the bundled one in each of its forms."""
    from edge_runtime.models.catalogue import BUNDLED_NAME, BUNDLED_SHA256, cache_folder

    found = []
    for form, digest in sorted(BUNDLED_SHA256.items(), reverse=True):
        ready = any(cache_folder().glob(f"*{digest[:12]}*.gguf"))
        found.append(
            {
                "name": BUNDLED_NAME,
                "quantisation": form,
                "sha256": digest,
                "state": "ready" if ready else "bundled" if form == "q4_1" else "made on first use",
            }
        )
    if as_json:
        print_json({"models": found})
    else:
        rows = [(row["name"], row["quantisation"], row["state"], row["sha256"][:12]) for row in found]
        print_table("Models", ("name", "form", "state", "sha256"), rows, caption="Any GGUF file works by its path.")


@one_line_errors
def model_info(
    name: Annotated[str, typer.Argument(help="The bundled model's name, or the path of a GGUF file.")] = "smollm2-135m",
    as_json: AsJson = False,
) -> None:
    """Check a model and describe it; its SHA-256 is what adapters name as their base."""
    from edge_runtime.models.catalogue import find_model, read_model_shape

    model = find_model(name)
    described = {key: str(value) for key, value in asdict(model).items()} | {
        "megabytes": round(model.path.stat().st_size / 1e6, 1)
    }
    shape = asdict(read_model_shape(model.path))
    described |= {key: value for key, value in shape.items() if key not in described}
    if as_json:
        print_json(described)
    else:
        print_table("Model", ("field", "value"), list(described.items()))


@one_line_errors
def draft(
    request: Annotated[str, typer.Argument(help="What to write, e.g. 'Tell Ines about the kiln'.")],
    k: MemoryCount = 2,
    model: ModelName = "smollm2-135m",
    max_tokens: MaxTokens = 120,
    threads: Threads = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a message in your own voice, from what you wrote before."""
    from edge_runtime.answering.drafting import DRAFT_SAMPLING, build_draft

    if not request.strip():
        raise PenchantError("The request is empty.")
    with (
        opened_device(home, create=True) as device,
        _opened_engine(model, threads, device, "drafts") as engine,
    ):
        sources = device.memory.recall(request, k=k) if k else []
        prompt = engine.tokenise(engine.chat_prompt(build_draft(request, sources)))
        text = "".join(engine.generate(prompt, max_tokens=max_tokens, sampling=DRAFT_SAMPLING)).strip()
    if as_json:
        print_json({"request": request, "draft": text, "sources": [recalled_json(one) for one in sources]})
        return
    typer.echo(printable(text))
    for source in sources:
        typer.secho(f"  after {source_line(source)}", dim=True)


@contextmanager
def _opened_engine(model: str, threads: int | None, device: Device, task: Task = "answers") -> Iterator[Engine]:
    """The model with the adapter that is live on the device for a task, if there is one."""
    from edge_runtime.adapters.log import AdapterLog
    from edge_runtime.engine.engine import Engine
    from edge_runtime.models.catalogue import find_model
    from edge_runtime.models.resources import suggest_resources

    fits = suggest_resources()
    with Console(stderr=True).status("Loading the model"):
        engine = Engine.open(find_model(model), context_tokens=fits.context_tokens, threads=threads or fits.threads)
    with engine:
        live = AdapterLog(device.vault).live(task)
        if live:
            version, data = live
            engine.use_adapters([(engine.load_adapter(data, sha256=version.sha256), 1.0)])
        yield engine
