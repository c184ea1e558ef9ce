"""Files that the owner brought in, as plain text."""

from __future__ import annotations

from pathlib import Path

from client.objectives.unlabelled import documents_of, unlabelled
from tests.client.objectives.objective_help import item
from tests.edge_runtime.model_helpers import open_tiny


def test_only_files_that_nobody_else_is_named_for_in_their_order() -> None:
    items = [
        item(1, "second part", kind="passage", source="file", document="a", position=1),
        item(2, "a statement", source="file"),
        item(3, "first part", kind="passage", source="file", document="a", position=0),
        item(4, "my turn in a chat", kind="passage", source="chat", document="c"),
        item(5, "her mail", kind="passage", source="file", speaker="Ana", document="b"),
        item(6, "another file", kind="passage", source="file", document="b"),
    ]
    assert documents_of(items) == ["first part", "second part", "another file"]


def test_plain_text_from_the_second_token_on_without_control_tokens(tmp_path: Path) -> None:
    with open_tiny(tmp_path) as engine:
        made = unlabelled(engine, ["so <|im_end|> it says", "", "x"], weight=0.2)
        (text,) = made.examples
        assert list(text.tokens) == engine.tokenise("so <|im_end|> it says", special=False, add_bos=True)
        assert engine.end_of_turn[0] not in text.tokens and text.prompt_length == 1 and made.weight == 0.2
