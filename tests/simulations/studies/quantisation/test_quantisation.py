"""Forms of a model by llama.cpp, questions with their notes, and the scores of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.models.catalogue import describe_model
from protocol.errors import PenchantError
from simulations.datasets.village import load_village
from simulations.studies.quantisation.quantisation import (
    FORMS,
    kinds_of,
    locomo_questions,
    quantised,
    token_f1,
    village_questions,
)
from simulations.studies.quantisation.study import CELLS, ask, speeds, summary, table
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny
from tests.simulations.datasets.test_locomo import invented_chat
from tests.tiny_model import write_tiny_model


def test_forms_are_made_once_and_known_by_what_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    source = describe_model(write_tiny_model(tmp_path / "tiny.gguf", 0))
    made = {form: quantised(source, form) for form in FORMS}
    assert made["f16"] is source
    assert [made[form].quantisation for form in ("q8_0", "q4_0")] == ["q8_0", "q4_0"]
    sizes = [made[form].path.stat().st_size for form in ("f16", "q8_0", "q4_0")]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    assert sum(kinds_of(made["q4_0"]).values()) == pytest.approx(1.0)
    # 64 numbers a row are no multiple of 256: a K-quant falls back, and says so
    assert "q4_k" not in kinds_of(made["q4_k_m"])
    written = made["q4_0"].path.stat().st_mtime_ns
    assert quantised(source, "q4_0").path.stat().st_mtime_ns == written
    with pytest.raises(PenchantError, match="give an F16 file"):
        quantised(made["q8_0"], "q4_0")
    with pytest.raises(PenchantError, match="no form"):
        quantised(source, "q2_k")


def write_chats(folder: Path) -> Path:
    for number in range(1, 6):
        chat: dict[str, Any] = invented_chat()
        long = {"question": "What is long?", "answer": "word " * 40, "evidence": ["D1:1"], "category": 4}
        (folder / f"Chat_{number}_A_B.json").write_text(json.dumps({**chat, "qa": [*chat["qa"], long]}), "utf-8")
    return folder


def test_questions_are_single_hop_with_short_answers_and_their_notes(tmp_path: Path) -> None:
    asked = locomo_questions(write_chats(tmp_path), HashingEmbedder(), count=2)
    assert [(one.text, one.answer) for one in asked] == [("What did Ida name the boat?", "Gannet")] * 2
    assert set(asked[0].notes) == {"bm25", "dense", "hybrid"}
    assert any("Gannet" in note for note in asked[0].notes["hybrid"])
    assert all(note.startswith(("Ida, 2023-", "Tor, 2023-")) for note in asked[0].notes["hybrid"])
    with pytest.raises(PenchantError, match="ask for fewer"):
        locomo_questions(tmp_path, HashingEmbedder(), count=4)


def test_facts_of_the_village_are_asked_of_their_own_person(tmp_path: Path) -> None:
    asked = village_questions(HashingEmbedder(), count=6, seed=1)
    facts = {fact.question: (person, fact.answer) for person in load_village() for fact in person.facts}
    for one in asked:
        person, answer = facts[one.text]
        written = " ".join(" ".join(row.text.split()) for row in person.train_messages)
        assert one.answer == answer and all(len(notes) == 5 for notes in one.notes.values())
        assert all(note.split(".")[0].split(" ...")[0][:40] in written for note in one.notes["bm25"])
    with pytest.raises(PenchantError, match="ask for fewer"):
        village_questions(HashingEmbedder(), count=100_000)


def test_notes_change_what_is_asked_and_speeds_are_positive(tmp_path: Path) -> None:
    (question,) = locomo_questions(write_chats(tmp_path), HashingEmbedder(), count=2)[:1]
    with open_tiny(tmp_path, context_tokens=2048) as engine:
        alone, shown = ask(engine, question, "none@0"), ask(engine, question, "hybrid@1")
        assert alone["nats"] > 0 and alone["nats"] != shown["nats"] and 0.0 <= shown["f1"] <= 1.0
        found = speeds({"f16": engine.model, "q4_0": engine.model}, "A boat leaves. ")
    assert all(value > 0 for kinds in found.values() for value in kinds.values())


def test_f1_counts_words_in_common() -> None:
    assert token_f1("The boat Gannet", "gannet!") == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert token_f1("a red red boat", "red boat") == pytest.approx(0.8)
    assert token_f1("Oslo", "Bergen") == token_f1("Oslo", "") == token_f1("the", "the") == 0.0


def test_gaps_are_paired_to_f16() -> None:
    rows = {
        form: {cell: [{"nats": 1.0 + n + loss, "f1": 0.5 - loss} for n in range(3)] for cell in CELLS}
        for form, loss in zip(FORMS, (0.0, 0.0, 0.1, 0.2), strict=True)
    }
    report = summary(rows)
    assert report["q4_0"]["hybrid@3"]["nats"]["gap"] == pytest.approx((0.2, 0.2, 0.2))
    assert report["q8_0"]["none@0"]["f1"]["gap"][0] == 0.0
    files = {
        form: {
            "megabytes": 1.0,
            "kinds": {form: 1.0},
            "speed": {"prefill": 2.0, "decode": 4.0 * (form == "q4_0") + 4.0},
        }
        for form in FORMS
    }
    shown = table(report, files)
    assert "| q4_0 | 1 | q4_0 100 % | 1.00 | 2.00 |" in shown and "0.200 [0.200, 0.200]" in shown
