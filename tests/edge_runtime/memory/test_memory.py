"""Memory: no plaintext, nothing lost, nothing twice, found by words, meaning and date, gone if forgotten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.feedback.feedback import Feedback
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.ranking import RECENCY
from edge_runtime.memory.statements import MAXIMUM_CHARACTERS, Statement
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder, decrypted_pages

KEY = bytes(range(32))
ROOT = Path(__file__).parents[3]


def no_trace(text: str) -> bool:
    """Nothing but the memories themselves is to go."""
    return False


@pytest.fixture
def vault(tmp_path: Path):
    with Vault.open(tmp_path, KEY) as opened:
        yield opened


@pytest.fixture
def memory(vault: Vault) -> Memory:
    return Memory(vault, HashingEmbedder())


def raw_bytes(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.glob("penchant.db*"))


def index_words(vault: Vault) -> set[str]:
    vault.connection.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', 'memory_index', 'row')")
    try:
        return {row[0] for row in vault.connection.execute("SELECT term FROM temp.words")}
    finally:
        vault.connection.execute("DROP TABLE temp.words")


def test_remembered_words_are_not_on_disk_in_plaintext(tmp_path: Path) -> None:
    vault = Vault.open(tmp_path, KEY)
    memory = Memory(vault, HashingEmbedder())
    memory.remember("Zebedee hates the vacuum cleaner", cue="Tell Quillon about the dog")
    Feedback(vault).add_preference("Suggest Marzipan", "Pistachio", "Nougat")
    images = [raw_bytes(tmp_path)]
    vault.close()
    images.append(raw_bytes(tmp_path))
    for image in images:
        for word in (
            b"Zebedee",
            b"zebede",
            b"vacuum",
            b"Quillon",
            b"quillon",
            b"Marzipan",
            b"Pistachio",
            b"Nougat",
        ):
            assert word not in image
    assert b"Zebedee" in decrypted_pages(tmp_path, KEY)  # the search above can find what is there


def test_what_is_remembered_is_there_after_reopening(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        item = Memory(vault, HashingEmbedder()).remember("I play the cello", cue="hobbies?", said_at="2025-03-14")
    with Vault.open(tmp_path, KEY) as vault:
        memory = Memory(vault, HashingEmbedder())
        assert memory.items() == [item] and len(memory) == 1
        assert (item.text, item.cue, item.said_at, item.source) == (
            "I play the cello",
            "hobbies?",
            "2025-03-14",
            "me",
        )
        assert memory.recall("cello")[0].item == item


def test_duplicates_are_one_memory(memory: Memory) -> None:
    first = memory.remember("My dog is called Bruno", said_at="2025-01-01")
    assert memory.remember("  my dog  is called BRUNO ", said_at="2025-02-02") == first
    assert memory.remember("My dog is called Bruno", cue="pets") != first
    batch = memory.remember_many([Statement("a b"), Statement("A  b"), Statement("c")])
    assert batch[0] == batch[1] != batch[2] and len(memory) == 4
    assert len(memory.recall("Bruno", rankers=("bm25",))) == 2


def test_many_are_embedded_in_one_batch_and_duplicates_not_at_all(vault: Vault) -> None:
    embedder = HashingEmbedder()
    memory = Memory(vault, embedder)
    memory.remember_many([Statement(f"number {i}") for i in range(30)])
    assert embedder.batches == [30]
    memory.remember_many([Statement(f"number {i}") for i in range(31)])
    assert embedder.batches == [30, 1]


def test_a_batch_is_all_or_nothing(memory: Memory) -> None:
    with pytest.raises(PenchantError):
        memory.remember_many([Statement("good"), Statement("bad date", said_at="yesterday")])
    assert len(memory) == 0


@pytest.mark.parametrize("text", ["", "  \n", "x" * (MAXIMUM_CHARACTERS + 1), "\ud800"])
def test_bad_text_is_refused_in_one_line(memory: Memory, text: str) -> None:
    with pytest.raises(PenchantError) as caught:
        memory.remember(text)
    assert "\n" not in str(caught.value) and len(memory) == 0


def test_what_a_model_said_is_refused(memory: Memory) -> None:
    with pytest.raises(PenchantError, match="not what a model said"):
        memory.remember("The capital of France is Paris", source="assistant")


def test_dates(memory: Memory) -> None:
    assert memory.remember("a", said_at="2025-03-14T09:30:00+01:00").said_at == "2025-03-14"
    assert memory.remember("b").said_at == time.strftime("%Y-%m-%d")
    with pytest.raises(PenchantError, match="YYYY-MM-DD"):
        memory.remember("c", said_at="14.3.2025")


def test_bm25_alone_ranks_the_rarer_word_and_reads_the_cue(memory: Memory) -> None:
    memory.remember_many([Statement(f"a walk in the park number {i}") for i in range(9)])
    rare = memory.remember("a walk with Bruno")
    cued = memory.remember("Fine, thanks", cue="How was the orchestra?")
    assert memory.recall("walk Bruno", rankers=("bm25",))[0].item == rare
    assert [found.item for found in memory.recall("orchestras", rankers=("bm25",))] == [cued]  # stemmed
    assert memory.recall("what is it", rankers=("bm25",)) == []  # no telling word
    assert memory.recall('"; DROP TABLE memories; -- NEAR( * )', rankers=("bm25",)) == []


def test_a_word_in_the_statement_outranks_one_in_the_cue(memory: Memory) -> None:
    in_cue = memory.remember("yes indeed it was", cue="the cello")
    in_text = memory.remember("the cello", cue="yes indeed it was")
    assert [found.item for found in memory.recall("cello", rankers=("bm25",))] == [in_text, in_cue]


def test_dense_alone_finds_without_a_shared_word(memory: Memory) -> None:
    memory.remember("the automobile needs petrol")
    dog = memory.remember("the hound barked")
    found = memory.recall("the pup barked", rankers=("dense",), floor=0.6)
    assert [entry.item for entry in found] == [dog]
    assert found[0].ranks == {"dense": 1} and found[0].similarity == pytest.approx(1.0, abs=1e-5)
    assert memory.recall("granite quarry", rankers=("bm25", "dense"), floor=0.6) == []  # below the relevance floor


def test_recency_alone_orders_all_by_date(memory: Memory) -> None:
    for day in ("2025-01-02", "2025-03-02", "2025-02-02"):
        memory.remember(f"said on {day}", said_at=day)
    found = memory.recall("anything", rankers=("recency",), now="2025-04-01")
    assert [entry.item.said_at for entry in found] == ["2025-03-02", "2025-02-02", "2025-01-02"]
    assert [entry.ranks["recency"] for entry in found] == [1, 2, 3]


def test_fusion_prefers_what_two_rankings_agree_on_and_recency_breaks_ties(memory: Memory) -> None:
    both = memory.remember("the dog barked", said_at="2024-01-01")
    memory.remember("the hound barked on the residence automobile quarry", said_at="2025-01-01")
    assert memory.recall("dog barked")[0].item == both
    old = memory.remember("tea with Ines", cue="x", said_at="2023-01-01")
    new = memory.remember("tea with Ines", cue="y", said_at="2025-01-01")
    found = memory.recall("Ines", rankers=("bm25", "recency"), now="2025-02-01")
    assert [entry.item for entry in found] == [new, old]
    assert found[0].score - found[1].score == pytest.approx(RECENCY / 2) and found[0].ranks["recency"] == 1


def test_as_of_hides_what_was_said_later(memory: Memory) -> None:
    memory.remember("I live in Ghent", said_at="2025-01-10")
    later = memory.remember("I live in Porto", said_at="2025-06-10")
    assert memory.recall("live", now="2025-07-01")[0].item == later
    for rankers in (("bm25",), ("dense",), ("recency",), ("bm25", "dense", "recency")):
        found = memory.recall("I live in Porto", as_of="2025-06-09", rankers=rankers)
        assert [entry.item.text for entry in found] == ["I live in Ghent"]
    assert [entry.item for entry in memory.recall("I live in", as_of="2025-06-10")] == [later]  # Ghent ended that day


def test_k_and_unknown_rankers(memory: Memory) -> None:
    memory.remember_many([Statement(f"cello lesson {i}") for i in range(9)])
    assert len(memory.recall("cello", k=4)) == 4
    for bad in ({"k": 0}, {"rankers": ("magic",)}, {"rankers": ()}):
        with pytest.raises(PenchantError):
            memory.recall("cello", **bad)
    assert memory.recall("", rankers=("bm25", "dense")) == []


def test_recall_follows_other_processes(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as one, Vault.open(tmp_path, KEY) as two:
        mine, theirs = Memory(one, HashingEmbedder()), Memory(two, HashingEmbedder())
        mine.remember("the hound barked")
        assert len(mine.recall("pup", rankers=("dense",))) == 1
        item = theirs.remember("another pup")
        assert len(mine.recall("pup", rankers=("dense",))) == 2
        theirs.forget_traces([item.id], no_trace)
        assert len(mine.recall("pup", rankers=("dense",))) == 1


def test_interleaved_writes_and_dense_reads_agree_with_a_fresh_cache(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        memory = Memory(vault, HashingEmbedder())
        items = []
        for number in range(6):
            items.append(memory.remember(f"dog number {number}"))
            if number == 3:
                memory.forget_traces([items.pop(0).id], no_trace)
            similarities = {f.item.id: f.similarity for f in memory.recall("dog", k=9, rankers=("dense",))}
            fresh = Memory(vault, HashingEmbedder()).recall("dog", k=9, rankers=("dense",))
            assert similarities == {f.item.id: f.similarity for f in fresh} and len(fresh) == len(items)


def test_a_new_embedder_re_embeds(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        Memory(vault, HashingEmbedder(64)).remember("the hound barked")
        found = Memory(vault, HashingEmbedder(32)).recall("the pup barked", rankers=("dense",))
        assert found[0].similarity == pytest.approx(1.0, abs=1e-5)


def test_an_embedder_that_returns_nonsense_stores_nothing(vault: Vault) -> None:
    class Broken(HashingEmbedder):
        def embed(self, texts):
            return np.full((len(texts), self.dimension), np.nan, np.float32)

    memory = Memory(vault, Broken())
    with pytest.raises(PenchantError, match="no usable vectors"):
        memory.remember("hello")
    assert len(memory) == 0


def test_forget_one_leaves_no_trace(tmp_path: Path, vault: Vault, memory: Memory) -> None:
    keep = memory.remember("my sister lives in Lisbon")
    memory.remember_many([Statement(f"filler sentence number {i} about nothing") for i in range(60)])
    gone = memory.remember("Zebedee hates the vacuum cleaner", cue="Quillon asked")
    memory.recall("vacuum")
    vector = vault.connection.execute("SELECT vector FROM memory_vectors WHERE memory_id = ?", (gone.id,)).fetchone()[0]
    vault.put_blob("artefact/frame", b"public")
    before = decrypted_pages(tmp_path, KEY)
    assert b"Zebedee hates" in before and vector in before and {"zebede", "quillon"} <= index_words(vault)

    assert memory.forget_traces([gone.id], no_trace) == 1
    assert vault.sweep_log()

    after = decrypted_pages(tmp_path, KEY)
    for trace in (b"Zebedee", b"zebede", b"Quillon", b"quillon", b"vacuum cleaner", vector):
        assert trace not in after
    assert not {"zebede", "quillon"} & index_words(vault) and "lisbon" in index_words(vault)
    assert vault.blob_names() == ["artefact/frame"]
    assert memory.recall("Zebedee vacuum", rankers=("bm25", "dense"), floor=0.6) == []
    assert memory.recall("Lisbon")[0].item == keep
    assert memory.forget_traces([gone.id], no_trace) == 0
    assert memory.remember("something new").id > gone.id  # an old receipt never names a new memory


def test_forget_everything_leaves_no_trace(tmp_path: Path, vault: Vault, memory: Memory) -> None:
    memory.remember_many([Statement(f"Zebedee likes thing{i}", cue=f"Quillon{i}") for i in range(300)])
    assert memory.recall("Zebedee")
    vectors = [row[0] for row in vault.connection.execute("SELECT vector FROM memory_vectors")]
    assert memory.forget_all() == 300
    vault.sweep_log()
    after = decrypted_pages(tmp_path, KEY).lower()
    for trace in (b"zebede", b"thing", b"quillon"):
        assert trace not in after
    plain = decrypted_pages(tmp_path, KEY)
    assert not any(vector in plain for vector in vectors)
    dump = "\n".join(
        str(vault.connection.execute(f'SELECT * FROM "{name}"').fetchall())
        for (name,) in vault.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    )
    assert "zebede" not in dump.lower()
    assert index_words(vault) == set() and len(memory) == 0 and memory.recall("Zebedee") == []
    vault.connection.execute("INSERT INTO memory_index (memory_index) VALUES ('integrity-check')")
    assert memory.forget_all() == 0
    assert memory.remember("afterwards it works").id == 301 and len(memory.recall("afterwards works")) == 1


def test_forget_traces_removes_these_memories_only_and_joins_a_transaction(vault: Vault, memory: Memory) -> None:
    items = memory.remember_many([Statement(f"Zebedee number {i}", document="d", position=i) for i in range(4)])
    assert memory.recall("Zebedee")
    with pytest.raises(ZeroDivisionError), vault.transaction():
        assert memory.forget_traces({items[0].id}, lambda text: True) == 1
        raise ZeroDivisionError
    assert len(memory) == 4
    assert memory.forget_traces({items[1].id, items[2].id, 99}, lambda text: True) == 2
    assert {found.item.id for found in memory.recall("Zebedee")} == {items[0].id, items[3].id}
    assert vault.connection.execute("SELECT count(*) FROM memory_vectors").fetchone() == (2,)


def test_passages_keep_their_place_and_repeat_without_being_duplicates(memory: Memory) -> None:
    thanks = [Statement("Thanks!", kind="passage", speaker="  Ana ", document="chat", position=i) for i in (0, 5)]
    first, second = memory.remember_many(thanks)
    assert first.id != second.id and memory.remember_many(thanks) == [first, second]
    assert (first.kind, first.speaker, first.document, second.position) == ("passage", "Ana", "chat", 5)
    mine = memory.remember("Thanks!")
    assert mine.kind == "statement" and len(memory) == 3
    assert memory.items(kinds=("statement",)) == [mine] and len(memory.items(kinds=("passage",))) == 2
    assert [found.item for found in memory.recall("thanks", kinds=("statement",))] == [mine]
    with pytest.raises(PenchantError, match="statement, passage"):
        memory.remember_many([Statement("x", kind="rumour")])  # type: ignore[arg-type]
    with pytest.raises(PenchantError, match="kinds"):
        memory.recall("x", kinds=("rumour",))


def test_an_edit_replaces_text_index_and_vector_and_keeps_the_date(tmp_path: Path, memory: Memory) -> None:
    other = memory.remember("the car needs petrol")
    item = memory.remember("Zebedee is my dog", cue="pets?", said_at="2025-01-01")
    assert memory.recall("Zebedee")
    edited = memory.edit(item.id, "Bruno is my dog")
    assert edited == replace(item, text="Bruno is my dog") and len(memory) == 2
    assert memory.recall("Zebedee", rankers=("bm25",)) == []
    found = memory.recall("Bruno is my hound")
    assert [entry.item for entry in found] == [edited]
    assert found[0].similarity == pytest.approx(float(_cosine("pets?\nBruno is my dog", "Bruno is my dog")), abs=1e-5)
    memory._vault.sweep_log()
    assert b"Zebedee" not in decrypted_pages(tmp_path, KEY) and "zebede" not in index_words(memory._vault)
    assert memory.remember("Bruno is my dog", cue="pets?") == edited
    with pytest.raises(PenchantError, match=f"Memory {other.id} says that"):
        memory.edit(memory.remember("x").id, "The car needs petrol")
    with pytest.raises(PenchantError, match="no memory"):
        memory.edit(99, "y")
    memory._vault.connection.execute("INSERT INTO memory_index (memory_index) VALUES ('integrity-check')")


def _cosine(one: str, other: str) -> float:
    first, second = HashingEmbedder().embed([one, other])
    return float(first @ second)


def test_superseded_memories_are_shown_to_questions_about_the_past_only(memory: Memory) -> None:
    item = memory.remember("the dentist is Doctor Quillon", said_at="2024-01-01")
    closed = memory.supersede(item.id, "2025-01-01")
    assert closed == replace(item, valid_until="2025-01-01")
    assert memory.recall("who is the dentist") == []
    assert memory.recall("who is the dentist", now="2024-06-01")[0].item == closed
    assert memory.recall("who was the dentist")[0].item == closed
    assert memory.recall("who is the dentist", as_of="2024-12-31")[0].item == closed
    assert memory.recall("who was the dentist", as_of="2025-01-01") == []
    with pytest.raises(PenchantError, match="before it was said"):
        memory.supersede(item.id, "2023-01-01")


def test_what_ended_and_is_said_again_is_a_new_memory(memory: Memory) -> None:
    item = memory.remember("the shop is open", said_at="2024-01-01")
    memory.supersede(item.id, "2024-03-01")
    assert memory.remember("the shop is open", said_at="2024-02-01").id == item.id  # said while it held
    again = memory.remember("the shop is open", said_at="2024-05-01")
    assert again.id != item.id and again.valid_until is None
    assert memory.remember("The shop is  open", said_at="2025-05-01") == again


_CHILD = """
import sys
from pathlib import Path
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.ranking import RECENCY
from edge_runtime.store.vault import Vault
from tests.edge_runtime.memory_helpers import HashingEmbedder
memory = Memory(Vault.open(Path(sys.argv[1]), bytes(range(32))), HashingEmbedder())
number = 0
while True:
    item = memory.remember(f"statement number {number}")
    print(item.id, number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("acknowledged_before_kill", [1, 23])
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, acknowledged_before_kill: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(acknowledged_before_kill)]
    os.kill(child.pid, signal.SIGKILL)
    lines += child.stdout.read().splitlines()  # acknowledged between our last read and the kill
    child.wait()
    child.stdout.close()
    acknowledged = [tuple(map(int, line.split())) for line in lines if len(line.split()) == 2]
    assert child.returncode == -signal.SIGKILL and len(acknowledged) >= acknowledged_before_kill
    with Vault.open(tmp_path, KEY) as vault:
        memory = Memory(vault, HashingEmbedder())
        stored = {item.id: item.text for item in memory.items()}
        for item_id, number in acknowledged:
            assert stored[item_id] == f"statement number {number}"
        assert len(stored) <= len(acknowledged) + 1  # at most one was written and not yet acknowledged
        vault.connection.execute("INSERT INTO memory_index (memory_index) VALUES ('integrity-check')")
        vectors = vault.connection.execute("SELECT count(*) FROM memory_vectors").fetchone()[0]
        assert vectors == len(stored) and vault.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
