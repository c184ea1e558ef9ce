"""What a later statement contradicts ends, and comes back when the later one goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.memory import validity
from edge_runtime.memory.claims import Claim
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from edge_runtime.store.vault import Vault
from tests.edge_runtime.memory_helpers import HashingEmbedder


def ends(memory: Memory) -> dict[str, str | None]:
    return {item.text: item.valid_until for item in memory.items()}


@pytest.fixture
def memory(tmp_path: Path):
    with Vault.open(tmp_path, bytes(range(32))) as vault:
        yield Memory(vault, HashingEmbedder())


@pytest.fixture
def invented_claims(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Claims written as "home=Ghent; likes+tea; likes-tea" (single, affirmed, denied)."""

    def claims_of(text: str, *, speaker: str = "") -> tuple[Claim, ...]:
        found = []
        for part in [] if speaker else text.split("; "):
            for mark, polarity, single in (("=", True, True), ("+", True, False), ("-", False, False)):
                attribute, _, value = part.partition(mark)
                if value:
                    found.append(Claim("", attribute, value, polarity, single))
        return tuple(found)

    monkeypatch.setattr(validity, "claims_of", claims_of)
    return claims_of


def test_a_real_contradiction_ends_the_older_statement(memory: Memory) -> None:
    memory.remember("I live in Ghent.", said_at="2024-01-01")
    memory.remember("I moved to Porto.", said_at="2025-01-01")
    memory.remember("I like olives.", said_at="2024-01-01")
    memory.remember("I don't like olives any more.", said_at="2024-06-01")
    assert ends(memory) == {
        "I live in Ghent.": "2025-01-01",
        "I moved to Porto.": None,
        "I like olives.": "2024-06-01",
        "I don't like olives any more.": None,
    }
    assert [entry.item.text for entry in memory.recall("Where do I live now, in Ghent?", rankers=("bm25",))] == []
    assert memory.recall("Where did I live, in Ghent?", rankers=("bm25",))[0].item.text == "I live in Ghent."


@pytest.mark.parametrize("backwards", [False, True])
def test_the_order_of_arrival_does_not_matter(memory: Memory, invented_claims, backwards: bool) -> None:
    said = [("home=Ghent", "2023-01-01"), ("home=Porto", "2024-01-01"), ("home=Oslo", "2025-01-01")]
    for text, day in reversed(said) if backwards else said:
        memory.remember(text, said_at=day)
    assert ends(memory) == {"home=Ghent": "2024-01-01", "home=Porto": "2025-01-01", "home=Oslo": None}


def test_forgetting_or_editing_what_ended_a_statement_lets_it_hold_again(memory: Memory, invented_claims) -> None:
    memory.remember("home=Ghent", said_at="2023-01-01")
    porto = memory.remember("home=Porto", said_at="2024-01-01")
    oslo = memory.remember("home=Oslo", said_at="2025-01-01")
    memory.forget_traces([porto.id], lambda text: True)
    assert ends(memory) == {"home=Ghent": "2025-01-01", "home=Oslo": None}
    memory.edit(oslo.id, "likes+tea")
    assert ends(memory) == {"home=Ghent": None, "likes+tea": None}
    memory.edit(oslo.id, "home=Rome")
    assert ends(memory) == {"home=Ghent": "2025-01-01", "home=Rome": None}


def test_a_statement_holds_while_one_of_its_claims_does(memory: Memory, invented_claims) -> None:
    memory.remember("home=Ghent; job=nurse", said_at="2023-01-01")
    memory.remember("home=Porto", said_at="2024-01-01")
    assert ends(memory)["home=Ghent; job=nurse"] is None
    memory.remember("job=pilot", said_at="2025-01-01")
    assert ends(memory)["home=Ghent; job=nurse"] == "2025-01-01"


def test_several_values_only_end_by_denial(memory: Memory, invented_claims) -> None:
    for day, text in enumerate(("likes+tea", "likes+milk", "likes-tea"), 1):
        memory.remember(text, said_at=f"2024-01-0{day}")
    assert ends(memory) == {"likes+tea": "2024-01-03", "likes+milk": None, "likes-tea": None}


def test_passages_and_other_speakers_end_nothing(memory: Memory, invented_claims) -> None:
    memory.remember("home=Ghent", said_at="2023-01-01")
    memory.remember_many(
        [
            Statement("home=Rome", said_at="2024-01-01", kind="passage", document="d"),
            Statement("home=Oslo", said_at="2024-01-01", speaker="Ana"),
        ]
    )
    assert set(ends(memory).values()) == {None}


def test_what_the_owner_ended_stays_so(memory: Memory, invented_claims) -> None:
    item = memory.remember("home=Ghent", said_at="2023-01-01")
    memory.supersede(item.id, "2023-06-01")
    memory.remember("home=Porto", said_at="2024-01-01")
    assert ends(memory)["home=Ghent"] == "2023-06-01"


def test_a_search_made_before_sees_the_end(memory: Memory, invented_claims) -> None:
    memory.remember("home=Ghent", said_at="2023-01-01")
    assert len(memory.recall("home Ghent", rankers=("bm25",))) == 1
    memory.remember("home=Porto", said_at="2024-01-01")
    assert memory.recall("home Ghent", rankers=("bm25",), floor=0.9) == []


def test_no_claim_outlives_its_memory(memory: Memory, invented_claims) -> None:
    item = memory.remember("home=Ghent")
    memory.forget_traces([item.id], lambda text: True)
    assert memory._vault.connection.execute("SELECT count(*) FROM memory_claims").fetchone() == (0,)
