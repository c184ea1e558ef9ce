"""A person's adapter from one stated preference: ordinary LoRA on a few layers, trained on saying it when asked.

The texts are three questions for what the person likes, each answered by the preference in their own words; a few
passes of the product's training (`client.lora_layout`). That is the least that an adapter could be made from, and
cheap (seconds); it says what the person said and not how to answer other questions by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from client.device_profile import KINDS
from client.lora_layout import LoraLayout
from client.personal_install import adapter_file
from client.torch_model import Text, TorchModel
from client.training_work import TextSettings, TextWork
from edge_runtime.answering.answering import lay_out
from edge_runtime.answering.guard import as_data
from edge_runtime.engine.engine import Engine
from simulations.studies.personal_fleet import run_work

QUESTIONS: Final = (
    "What should you remember about me?",
    "What do I like, and what do I avoid?",
    "Which of my preferences do you know?",
)
_MAX_TOKENS: Final = 128
_CREATED: Final = "1970-01-01"  # the same preference gives the same bytes


@dataclass(frozen=True)
class AdapterRecipe:
    """``passes`` of Adam over the three texts; ``layers`` from the top."""

    layers: int = 8
    rank: int = 4
    passes: int = 8
    learning_rate: float = 0.003
    seed: int = 0


def preference_texts(engine: Engine, preference: str) -> list[Text]:
    """(tokens, prompt length) of the questions with the preference as their answer."""
    texts: list[Text] = []
    for question in QUESTIONS:
        prompt = engine.tokenise(engine.chat_prompt(lay_out(question, [])))
        reply = [*engine.tokenise(as_data(engine, preference), special=False), engine.end_of_turn[0]]
        texts.append(([*prompt, *reply], len(prompt)))
    return texts


def train_adapter(model: TorchModel, engine: Engine, texts: Sequence[Text], recipe: AdapterRecipe) -> bytes:
    """The adapter's file for the engine's model. ``model`` is the same file, opened with ``recipe.layers`` layers."""
    layout = LoraLayout.of(model.module_shapes(KINDS), recipe.rank)
    settings = TextSettings(recipe.passes, len(texts), recipe.learning_rate)
    work = TextWork(model, layout, texts, [], settings, max_tokens=_MAX_TOKENS)
    theta = run_work(work, layout.start(recipe.seed), seed=recipe.seed)
    return adapter_file(
        engine.model,
        layout.lora_factors(theta),
        alpha=float(layout.rank),
        frame_sha256="",
        parent_sha256="",
        epsilon=None,
        created=_CREATED,
    )
