"""Finding: passages with their neighbours, speakers, dates, validity, a floor, and no repetitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from edge_runtime.store.vault import Vault
from simulations.datasets.village import load_village
from tests.edge_runtime.memory_helpers import HashingEmbedder

KEY = bytes(range(32))
WORDS = ("bm25",)  # words alone: HashingEmbedder's cosines of short texts are noisy


@pytest.fixture
def memory(tmp_path: Path):
    with Vault.open(tmp_path, KEY) as vault:
        yield Memory(vault, HashingEmbedder(512))


def chat(*turns: tuple[str, str], document: str = "chat", said_at: str = "2025-01-01") -> list[Statement]:
    return [
        Statement(text, said_at=said_at, kind="passage", speaker=speaker, document=document, position=position)
        for position, (speaker, text) in enumerate(turns)
    ]


FILLER = [("Ana", f"Small talk number {n} about weather.") for n in range(8)]


def test_the_answer_beside_the_question_is_found(memory: Memory) -> None:
    memory.remember_many(chat(*FILLER, ("Bruno", "Which country did you move from?"), ("Ana", "Sweden!"), *FILLER))
    for rankers in (("bm25",), ("dense",), ("bm25", "dense", "recency")):
        found = [entry.item.text for entry in memory.recall("country she did move from", k=3, rankers=rankers)]
        assert "Sweden!" in found
        assert found[0] == "Sweden!" or rankers != WORDS  # the turn that asks comes second


def test_a_passage_without_its_document_has_no_neighbours(memory: Memory) -> None:
    turns = chat(*FILLER, ("Bruno", "Which country did you move from?"), ("Ana", "Sweden!"), document="")
    memory.remember_many(turns)
    assert "Sweden!" not in [entry.item.text for entry in memory.recall("country she did move from", rankers=WORDS)]


def test_hidden_neighbours_say_nothing(memory: Memory) -> None:
    question, answer = memory.remember_many(chat(("Bruno", "Which country did you move from."), ("Ana", "Sweden!")))
    assert len(memory.recall("which country", rankers=WORDS)) == 2
    memory.supersede(question.id, "2025-02-01")
    assert memory.recall("which country", rankers=WORDS) == []
    assert answer.valid_until is None


def test_a_named_speaker_is_asked_for_their_own_turns(memory: Memory) -> None:
    memory.remember_many(
        chat(*FILLER, ("Bruno", "Ana, Ana, Ana, I like tea."), *FILLER[:3], ("Ana", "I like coffee."), *FILLER)
    )
    assert memory.recall("What does Ana like?", k=1, rankers=WORDS)[0].item.text == "I like coffee."
    assert memory.recall("What does Bruno like?", k=1, rankers=WORDS)[0].item.text == "Ana, Ana, Ana, I like tea."


def test_a_speaker_s_name_is_a_word_like_others_in_what_the_owner_says(memory: Memory) -> None:
    memory.remember_many(chat(*FILLER))
    exam = memory.remember("Ana has an exam on Friday")
    assert memory.recall("Ana", k=1)[0].item == exam


def test_my_own_words_come_before_somebody_else_s(memory: Memory) -> None:
    theirs, mine = memory.remember_many(
        [Statement("allergic to walnuts", speaker="Ana"), Statement("allergic to  almonds")]
    )
    assert [entry.item for entry in memory.recall("Which nuts am I allergic to?", rankers=WORDS)] == [mine, theirs]


def test_a_question_in_a_chat_is_no_answer(memory: Memory) -> None:
    asked, told = memory.remember_many(
        [*chat(("Ana", "walnut cake?"), document="a"), *chat(("Ana", "walnut cake."), document="b")]
    )
    assert [entry.item for entry in memory.recall("walnut cake", rankers=WORDS)] == [told, asked]


def test_a_date_in_the_question_prefers_its_days(memory: Memory) -> None:
    march = memory.remember("went to a concert with Ana", said_at="2025-03-16")
    memory.remember("went to a concert with Ben", said_at="2025-05-16")
    may = memory.remember("went to a concert with Cem", said_at="2025-05-17")
    assert memory.recall("the concert in March", k=1, rankers=WORDS)[0].item == march
    assert memory.recall("the concert on 17 May 2025", k=1, rankers=WORDS)[0].item == may


def test_nothing_relevant_nothing_returned_and_no_fixed_number(memory: Memory) -> None:
    memory.remember_many([Statement(f"filler number {n} of a long list") for n in range(30)])
    dog = memory.remember("my dog Bruno is afraid of thunder")
    assert memory.recall("capital of France", rankers=WORDS) == []
    assert [entry.item for entry in memory.recall("Is Bruno afraid of thunder?", k=9, rankers=WORDS)] == [dog]
    assert memory.recall("Bruno capital France Hamlet", rankers=WORDS) == []  # one word of four is not enough
    assert memory.recall("  ") == []


def test_near_duplicates_do_not_fill_k(memory: Memory) -> None:
    repeated = "the train to the quiet harbour town leaves from platform nine at seven in the morning"
    same = memory.remember_many([Statement(repeated + "." * n, cue="") for n in range(6)])
    other = memory.remember("a harbour train")
    found = [entry.item for entry in memory.recall("harbour train", k=2)]
    assert other in found and len(set(found) & set(same)) == 1
    assert len(memory.recall("harbour train", k=7)) == 7  # they come after, they are not lost


def test_recency_orders_equals_and_lifts_nothing_else(memory: Memory) -> None:
    best = memory.remember("cello lesson with Ines", said_at="2020-01-01")
    memory.remember("cello concert", said_at="2025-01-01")
    assert memory.recall("cello lesson", k=1, now="2025-01-02")[0].item == best


def test_what_is_found_is_deterministic_and_explained(memory: Memory) -> None:
    memory.remember_many([Statement(f"cello lesson number {n}") for n in range(20)])
    first, second = memory.recall("cello lesson", k=5), memory.recall("cello lesson", k=5)
    assert first == second and [entry.score for entry in first] == sorted((e.score for e in first), reverse=True)
    assert set(first[0].ranks) == {"bm25", "dense", "recency"} and min(first[0].ranks.values()) >= 1


def test_words_alone_embed_nothing(tmp_path: Path) -> None:
    with Vault.open(tmp_path / "other", KEY) as vault:
        embedder = HashingEmbedder()
        Memory(vault, embedder).remember("the hound barked")
        embedder.batches.clear()
        assert Memory(vault, embedder).recall("barked", rankers=WORDS) and not embedder.batches
        assert Memory(vault, embedder).recall("barked") and embedder.batches == [1]


@pytest.mark.real_model
def test_real_questions_find_their_evidence_and_general_knowledge_finds_nothing(tmp_path: Path) -> None:
    from edge_runtime.engine.embedder import Embedder

    general = ["Who painted the Mona Lisa?", "What is a prime number?", "How far away is the sun?", "Define entropy."]
    first, five, questions, nothing = 0, 0, 0, 0
    people = load_village()[::11]
    with Embedder.open() as embedder:
        for person in people:
            with Vault.open(tmp_path / person.id, KEY) as vault:
                memory = Memory(vault, embedder)
                rows = person.train_messages
                items = memory.remember_many([Statement(row.text, row.cue, row.date) for row in rows])
                for fact in person.facts:
                    evidence = {items[row].id for row in fact.evidence}
                    found = [entry.item.id for entry in memory.recall(fact.question)]
                    first += bool(evidence & set(found[:1]))
                    five += bool(evidence & set(found))
                    questions += 1
                nothing += sum(not memory.recall(question) for question in general)
    assert questions >= 20 and first / questions >= 0.7 and five / questions >= 0.9
    assert nothing / (len(general) * len(people)) >= 0.7
