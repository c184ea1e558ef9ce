"""The same request answered for several people in several ways, by llama.cpp, for a reader to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import DRAFT_SAMPLING, build_draft
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile
from simulations.experiments.arms import DRAFT_MEMORIES, FACT_MEMORIES, PersonAdapters
from simulations.people import Person

REQUESTS = (
    "Tell a friend that you will be late tomorrow, and why",
    "What did I have trouble with this year?",
)
MAX_TOKENS = 72


def sample_answers(
    model: ModelFile,
    people: Sequence[Person],
    homes: Sequence[Path],
    adapters: Sequence[PersonAdapters],
    count: int,
    on_progress: Callable[[float], None],
) -> list[dict[str, Any]]:
    """``count`` people spread over the village, each request, arms none, rag and rag+bases."""
    chosen = [round(i * (len(people) - 1) / max(count - 1, 1)) for i in range(min(count, len(people)))]
    samples: list[dict[str, Any]] = [{"question": request, "people": []} for request in REQUESTS]
    with Engine.open(model) as engine:
        for done, index in enumerate(chosen):
            person, gguf = people[index], adapters[index].bases
            adapter = engine.load_adapter(gguf, sha256=sha256(gguf).hexdigest())
            with Device.open(homes[index]) as device:
                for sample in samples:
                    request = str(sample["question"])
                    answers = {}
                    for arm in ("none", "rag", "rag+bases"):
                        engine.use_adapters([(adapter, 1.0)] if arm == "rag+bases" else [])
                        prompt = _prompt(engine, request, device if arm != "none" else None)
                        pieces = engine.generate(prompt, max_tokens=MAX_TOKENS, sampling=DRAFT_SAMPLING)
                        answers[arm] = "".join(pieces).strip()
                    sample["people"].append({"name": person.name, "about": person.about, "answers": answers})
            engine.use_adapters([])
            engine.unload_adapter(adapter)
            on_progress((done + 1) / len(chosen))
    return samples


def _prompt(engine: Engine, request: str, device: Device | None) -> list[int]:
    if request.endswith("?"):
        notes = device.memory.recall(request, k=FACT_MEMORIES) if device else []
        messages = build_messages(request, notes)
    else:
        notes = device.memory.recall(request, k=DRAFT_MEMORIES) if device else []
        messages = build_draft(request, notes)
    return engine.tokenise(engine.chat_prompt(messages))
