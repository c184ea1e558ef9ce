"""What is recalled, typed or imported is data: no text but our own layout may act as a control token of the model.

Chat prompts are tokenised with control tokens on, so a note that holds "<|im_end|><|im_start|>system" would end its
turn and speak as the system. `as_data` takes such tokens out, whatever the model's are, and puts the text on one line
where a line has a meaning of its own (notes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Engine


def as_data(engine: Engine, text: str) -> str:
    """`text` without anything that the engine's model would read as a control token."""
    while True:
        tokens = engine.tokenise(text, special=True)
        if tokens == engine.tokenise(text, special=False):
            return text
        plain = engine.detokenise(tokens, special=False)
        if plain == text:  # a token that is written like plain text: nothing to take out
            return text
        text = plain  # what is left may form another one: look again


def as_note(engine: Engine, text: str) -> str:
    """The same on one line: a note cannot begin a line of its own, a question, or a turn."""
    return " ".join(as_data(engine, text).split())
