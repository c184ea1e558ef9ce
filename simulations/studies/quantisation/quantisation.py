"""Forms of one model file by llama.cpp's own quantiser, and questions with known answers to ask them.

Paper: Yazan, Verberne, Situmeang, "The Impact of Quantization on Retrieval-Augmented Generation: An Analysis of Small
LLMs" (2024), which found of 7B models that INT4 loses little where FP16 does the task well.

All forms come from one F16 file. The bundled model has no true one: its weights were published in Q4_1, and its F16 is
that file de-quantised, so here "F16" means "nothing lost since Q4_1". Rows of a K-quant are multiples of 256 numbers;
what is not (most maps of a model 576 wide) llama.cpp stores in another kind, so the kinds of a form are reported with
their shares of its bytes.

Questions are the village's facts, which the product's prompt was made for, or LoCoMo's single-hop ones, where a note is
a turn of a long chat of two people with its speaker and day.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import re
import string
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import llama_cpp
import llama_cpp.llama_cpp as llama

from edge_runtime.answering.gist import gist
from edge_runtime.engine import llama_bindings
from edge_runtime.memory.memory import Memory, TextEmbedder
from edge_runtime.memory.ranking import RANKERS
from edge_runtime.memory.statements import Recalled, Statement
from edge_runtime.models.catalogue import ModelFile, cache_folder, describe_model, read_model_header
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from simulations.datasets.locomo import load_chats
from simulations.datasets.village import load_village

FORMS: Final = ("f16", "q8_0", "q4_k_m", "q4_0")
RETRIEVERS: Final = {"bm25": ("bm25",), "dense": ("dense",), "hybrid": RANKERS}
DEPTHS: Final = (1, 3, 5)
_FILE_TYPES: Final = {
    "q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_k_m": llama.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
}
_FLOAT_FORMS: Final = frozenset({"f16", "bf16", "f32"})
_SINGLE_HOP: Final = 4
_MOST_ANSWER_WORDS: Final = 12
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")


# ---- files


def quantised(source: ModelFile, form: str) -> ModelFile:
    """``source`` (F16) in another form, made once and kept under the cache folder by the digest of what made it."""
    if source.quantisation not in _FLOAT_FORMS:
        raise PenchantError(f"{source.path.name} is {source.quantisation}: give an F16 file to quantise")
    if form == "f16":
        return source
    if form not in _FILE_TYPES:
        raise PenchantError(f"there is no form {form!r}: take one of {', '.join(FORMS)}")
    made_by = hashlib.sha256(f"{source.sha256} {form} {llama_cpp.__version__}".encode()).hexdigest()[:12]
    path = cache_folder() / f"{source.name}-llama-{form}-{made_by}.gguf"
    if not path.exists():
        llama_bindings.start_backend()
        settings = llama.llama_model_quantize_default_params()
        settings.ftype, settings.nthread = _FILE_TYPES[form], 1
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            if llama.llama_model_quantize(str(source.path).encode(), str(made).encode(), ctypes.byref(settings)):
                raise PenchantError(f"llama.cpp could not store {source.path.name} as {form}: check the free space")
            os.replace(made, path)
    return describe_model(path)


def kinds_of(model: ModelFile) -> dict[str, float]:
    """Kind of numbers -> share of the weights' bytes, the largest first."""
    sizes: Counter[str] = Counter()
    for entry in read_model_header(model.path).tensors:
        sizes[entry.kind.name.lower()] += entry.byte_count
    return {kind: size / sizes.total() for kind, size in sizes.most_common()}


# ---- questions


@dataclass(frozen=True)
class AnswerQuestion:
    """A question, its known answer, and the notes that each retriever finds, best first (all of ``DEPTHS``)."""

    text: str
    answer: str
    notes: dict[str, tuple[str, ...]]


def village_questions(embedder: TextEmbedder, *, count: int, seed: int = 0) -> list[AnswerQuestion]:
    """``count`` facts of the village, each asked of what its person wrote before."""
    facts = [(person, fact) for person in load_village() for fact in person.facts]
    if len(facts) < count:
        raise PenchantError(f"the village has {len(facts)} facts, not {count}: ask for fewer")
    drawn = random.Random(f"facts {seed}").sample(facts, count)
    questions: list[AnswerQuestion] = []
    for person in dict.fromkeys(person for person, _ in drawn):
        statements = [Statement(row.text, row.cue, row.date) for row in person.train_messages]
        asked = {fact.question: fact.answer for one, fact in drawn if one is person}
        questions += _answered(statements, asked, embedder)
    return questions


def locomo_questions(folder: Path, embedder: TextEmbedder, *, count: int, seed: int = 0) -> list[AnswerQuestion]:
    """``count`` single-hop questions with short answers, drawn evenly from the first two report chats."""
    chats = load_chats(folder, "report")[:2]
    questions: list[AnswerQuestion] = []
    for number, chat in enumerate(chats):
        answers = _answers(folder / f"{chat.name}.json")
        asked = [one for one in chat.questions if one.category == _SINGLE_HOP and one.text in answers]
        share = count // len(chats) + (number < count % len(chats))
        if len(asked) < share:
            raise PenchantError(f"{chat.name} has {len(asked)} such questions, not {share}: ask for fewer")
        drawn = random.Random(f"{chat.name} {seed}").sample(asked, share)
        questions += _answered(chat.statements(), {one.text: answers[one.text] for one in drawn}, embedder)
    return questions


def _answered(
    statements: Sequence[Statement], asked: Mapping[str, str], embedder: TextEmbedder
) -> Iterator[AnswerQuestion]:
    """Questions with their answers, and what each retriever finds for them among the statements."""
    with tempfile.TemporaryDirectory() as home, Vault.open(Path(home), bytes(32)) as vault:
        memory = Memory(vault, embedder)
        memory.remember_many(statements)
        for question, answer in asked.items():
            notes = {
                name: tuple(
                    _note(one, question) for one in memory.recall(question, k=max(DEPTHS), rankers=rankers, floor=0.0)
                )
                for name, rankers in RETRIEVERS.items()
            }
            yield AnswerQuestion(question, answer, notes)


def _answers(path: Path) -> dict[str, str]:
    """Question -> its answer, where that is short."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["qa"]
        found = {str(entry["question"]): str(entry["answer"]) for entry in entries if "answer" in entry}
    except (OSError, ValueError, KeyError, TypeError):
        raise PenchantError(f"{path} is not a LoCoMo chat: it needs qa in its original form.") from None
    return {question: answer for question, answer in found.items() if 0 < len(answer.split()) <= _MOST_ANSWER_WORDS}


def _note(found: Recalled, question: str) -> str:
    told = gist(found.item.text, question)
    return f"{found.item.speaker}, {found.item.said_at}: {told}" if found.item.speaker else told


# ---- the score of an answer


def token_f1(answer: str, given: str) -> float:
    """F1 of the words in common, articles and punctuation left out (Rajpurkar et al. 2016); 0 if either is empty."""
    wanted, found = Counter(_words(answer)), Counter(_words(given))
    common = (wanted & found).total()
    if not common:
        return 0.0
    precision, recall = common / found.total(), common / wanted.total()
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> Sequence[str]:
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return _ARTICLES.sub(" ", plain).split()
