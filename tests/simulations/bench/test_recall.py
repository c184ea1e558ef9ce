"""The recall benchmark counts what it says, on invented chats, and reaches its marks on the real ones."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import PenchantError
from simulations.bench.recall import evidence_recall, plain_bm25, run
from simulations.datasets.locomo import load_chats
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.simulations.datasets.test_locomo import invented_chat


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(1, 6):
        chat = invented_chat(f"Ida{number}", "Tor")
        (tmp_path / f"Chat_{number}.json").write_text(json.dumps(chat), encoding="utf-8")
    return tmp_path


def test_evidence_recall_is_the_share_of_the_evidence_among_the_first(folder: Path) -> None:
    chat = load_chats(folder)[0]  # evidence: turn 2; turns 0 and 5
    assert evidence_recall(chat, lambda question: [2, 0, 1, 3, 4, 5]).tolist() == [[1, 1], [0.5, 1]]
    assert evidence_recall(chat, lambda question: []).tolist() == [[0, 0], [0, 0]]


def test_plain_bm25_is_okapi_s() -> None:
    texts = ["The cat sat", "a dog sat and sat on the cat", "the bird", "fish", "rain", "a b c"]
    search = plain_bm25(texts)
    documents = [Counter(text.lower().split()) for text in texts]
    average = np.mean([document.total() for document in documents])

    def score(word: str, document: Counter[str]) -> float:
        holding = sum(word in other for other in documents)
        weight = math.log((len(texts) - holding + 0.5) / (holding + 0.5))
        assert weight >= 0
        length = 1 - 0.75 + 0.75 * document.total() / average
        return weight * document[word] * 2.5 / (document[word] + 1.5 * length)

    expected = sorted(range(len(texts)), key=lambda n: -score("cat", documents[n]) - score("sat", documents[n]))
    assert search("Cat sat?") == expected and search("zebra") == list(range(len(texts)))


def test_ours_and_the_peer_over_the_same_questions_of_the_part_asked_for(folder: Path) -> None:
    stages: list[tuple[str, float]] = []
    embedder = HashingEmbedder()
    cases = run(folder, chats="report", embedder=embedder, on_progress=lambda *stage: stages.append(stage))
    assert set(cases) == {"recall_at_5", "recall_at_10"}
    five, ten = cases["recall_at_5"], cases["recall_at_10"]
    assert ten.peer == 100.0 and five.unit == "%"  # each chat has seven turns
    assert five.more["chats"] == 2 and five.more["questions"] == 4 and five.more["turns"] == 14
    assert five.more["difference"] == pytest.approx(five.ours - five.peer)
    assert five.more["difference_low"] <= five.more["difference"] <= five.more["difference_high"]
    assert set(five.more["ablations"]) == {
        "without windows", "without dense", "without words", "without speakers", "FTS5 BM25"
    }  # fmt: skip
    assert stages[0] == ("searching Chat_4", 0.0) and stages[-1][1] == 1.0
    json.dumps(five.to_dict())
    assert run(folder, embedder=embedder) == cases  # the same again


def test_missing_data_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENCHANT_DATA", raising=False)
    with pytest.raises(PenchantError, match="PENCHANT_DATA"):
        run()


@pytest.mark.real_model
@pytest.mark.skipif(
    not (Path(os.environ.get("PENCHANT_DATA", "/nowhere")) / "locomo").is_dir(),
    reason="PENCHANT_DATA does not hold locomo/",
)
def test_real_chats_are_searched_far_better_than_by_words_alone(tmp_path: Path) -> None:
    source = Path(os.environ["PENCHANT_DATA"]) / "locomo"
    shortest = min(source.glob("Chat_*.json"), key=lambda path: path.stat().st_size)
    chat = json.loads(shortest.read_text(encoding="utf-8"))
    for session in range(6, 100):
        chat["conversation"].pop(f"session_{session}", None)
    for number in range(4):  # the first three are for tuning
        (tmp_path / f"Chat_{number}.json").write_text(json.dumps(chat), encoding="utf-8")
    five = run(tmp_path)["recall_at_5"]
    assert five.more["difference"] > 15 and five.more["ablations"]["without windows"] < five.ours
