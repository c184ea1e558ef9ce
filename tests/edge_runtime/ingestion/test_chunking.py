"""Cutting: nothing lost, the budget kept, blocks whole where they fit, overlap only inside a paragraph."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.ingestion.chunking import BUDGET_PIECES, count_pieces, passages, spans
from edge_runtime.ingestion.sections import Section

SENTENCE = "The kiln reached nine hundred degrees before noon and nobody noticed."
LINES = st.sampled_from(
    [
        "",
        "",
        "- a list item",
        "1. first",
        "```",
        "    indented",
        SENTENCE,
        "x" * 300,
        "Ünïcödé 漢字。次の文。",
        "| a | b |",
    ]
)
TEXTS = st.one_of(st.text(max_size=600), st.lists(LINES, max_size=40).map("\n".join))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(8, 80))
def test_no_text_is_lost_and_the_budget_is_kept(text: str, budget: int) -> None:
    covered: set[int] = set()
    last = (0, 0)
    for start, end in spans(text, budget):
        assert count_pieces(text[start:end]) <= budget and text[start:end].strip()
        assert last[0] < end and (start, end) != last and start >= last[0]
        covered.update(range(start, end))
        last = (start, end)
    assert all(at in covered for at, character in enumerate(text) if not character.isspace())


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.text(max_size=40))
def test_pieces_add_up_over_white_space(left: str, right: str) -> None:
    assert count_pieces(f"{left} {right}") == count_pieces(left) + count_pieces(right)
    assert count_pieces(right) <= len(right)


def cut(text: str, budget: int) -> list[str]:
    return [text[start:end] for start, end in spans(text, budget)]


def test_short_paragraphs_share_a_passage_and_are_not_split() -> None:
    paragraphs = [f"Paragraph number {number}. {SENTENCE}" for number in range(12)]
    found = cut("\n\n".join(paragraphs), 60)
    assert 1 < len(found) < 12
    assert [line for passage in found for line in passage.split("\n\n")] == paragraphs


def test_a_long_paragraph_overlaps_by_one_sentence_and_nothing_else_overlaps() -> None:
    sentences = [f"Sentence {number} is about pots and clay." for number in range(20)]
    found = cut(" ".join(sentences), 60)
    assert len(found) > 2
    for before, after in pairwise(found):
        shared = before.rpartition(". ")[2]
        assert after.startswith(shared) and shared in sentences
    lines = "\n".join(f"- item {number} of the shopping list" for number in range(30))
    assert "\n".join(cut(lines, 60)) == lines


def test_code_and_lists_stay_whole_where_they_fit() -> None:
    code = "```python\ndef fire(kiln):\n\n    return kiln.heat(900)\n```"
    items = "- clay\n\n- glaze\n  for the inside\n\n- wax"
    found = cut(f"{SENTENCE} {SENTENCE}\n\n{code}\n\n{SENTENCE} {SENTENCE}\n\n{items}", 44)
    assert code in found and items in found


def test_a_single_endless_line_is_cut_in_linear_time() -> None:
    text = "a" * 2_000_000
    found = spans(text)
    assert found[-1][1] == len(text)
    assert all(count_pieces(text[start:end]) <= BUDGET_PIECES for start, end in found)


def test_passages_keep_what_is_known_and_count_within_each_part() -> None:
    long = " ".join([SENTENCE] * 60)
    first = Section(long, "2025-03-14", "Ana", "Kiln", "mail", part="a")
    found = list(
        passages([first, Section("short\x00 \ud800", "2025-03-15", part="b"), Section("x", "2025-03-15", part="b")])
    )
    assert len(found) > 4 and {section.cue for section in found[:-2]} == {"Kiln"}
    assert [section.position for section in found[:-2]] == list(range(len(found) - 2))
    assert [(section.text, section.position) for section in found[-2:]] == [("short ?", 0), ("x", 1)]
    assert {(section.said_at, section.speaker, section.source) for section in found[:-2]} == {
        ("2025-03-14", "Ana", "mail")
    }


@pytest.mark.parametrize("text", ["", " \n\n ", "\x0b"])
def test_white_space_gives_nothing(text: str) -> None:
    assert spans(text) == []


def test_a_long_cue_leaves_less_room() -> None:
    text = " ".join([SENTENCE] * 60)
    assert len(list(passages([Section(text, "2025-01-01", cue="kiln " * 100)]))) > len(spans(text))
