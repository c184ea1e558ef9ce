"""The owner's own words and preferred answers, each once, in the prompts that serve without notes."""

from __future__ import annotations

from pathlib import Path

from client.examples import make_example
from client.objectives.next_token import next_token
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import DEFAULT_CUE, plain_draft
from tests.client.objectives.objective_help import choice, item
from tests.edge_runtime.model_helpers import open_tiny


def test_every_text_makes_one_example(tmp_path: Path) -> None:
    messages = [item(1, "first"), item(2, "second", cue="Write to Ines")]
    with open_tiny(tmp_path) as engine:
        made = next_token(engine, messages, [choice()], weight=2.0)
        assert made.examples == (
            make_example(engine, plain_draft(DEFAULT_CUE), "first"),
            make_example(engine, plain_draft("Write to Ines"), "second"),
            make_example(engine, build_messages("Tea?", []), "green"),
        )
        assert (made.name, made.weight, made.pairs) == ("next_token", 2.0, ())
        alone = next_token(engine, messages[1:], [])
        assert alone.examples == made.examples[1:2]  # no number of an example depends on another text
