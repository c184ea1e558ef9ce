"""How an answer's sources are shown."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from edge_runtime.answering.audit import Audit
from edge_runtime.answering.pipeline import AnswerStream, Source
from edge_runtime.commands.answers import print_answer, print_sources, source_line, sources_json


def stream(*pieces: str) -> AnswerStream:
    def said() -> Generator[str, None, None]:
        yield from pieces

    sources = (
        Source("memory:2", "The key\nis under the pot", "2025-02-01", 0.5, "statement"),
        Source("memory:1", "My dog is called \x1b[2JBruno " + "x" * 100, "2025-01-01", 0.4, "statement"),
        Source("attribute:7", "You live in Ghent.", "", 0.0, "profile"),
    )
    return AnswerStream(sources, said(), Audit(cited=("memory:1",)))


def test_what_the_answer_rests_on_comes_first_and_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    print_sources(stream())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["from", "[1]"], ["shown", "[2]"], ["shown", "[attribute:7]"]]
    assert [row["cited"] for row in sources_json(stream())] == [False, True, False]


def test_a_source_is_one_short_line_that_no_terminal_obeys() -> None:
    two, one, profile = stream().sources
    assert source_line(two) == "[2] 2025-02-01  The key is under the pot"
    assert source_line(one).endswith("xxx...") and "\x1b" not in source_line(one) and len(source_line(one)) < 110
    assert source_line(profile) == "[attribute:7]   You live in Ghent."


def test_an_answer_is_printed_as_it_comes_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_answer(stream("One", " \x1b[2Jtwo. "), quiet=False) == ("One \x1b[2Jtwo.", False)
    assert capsys.readouterr().out == "One [2Jtwo. \n"
    assert print_answer(stream("One"), quiet=True) == ("One", False) and capsys.readouterr().out == ""
