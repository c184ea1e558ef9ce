"""Drafting in the owner's voice: from a request ("Tell Ines about the kiln") to the message they would write.

The notes of a draft are the owner's own earlier messages with the requests that they answered, told as turns of
the same chat, the best one last. Measured on the village with the bundled 135M model and two own messages, nats per
token without any adapter: no notes 4.83, notes as a list 3.68, notes under their requests 3.64, as turns 3.56.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_runtime.chat_template import ChatMessage
from edge_runtime.sampling import Sampling
from edge_runtime.statements import Recalled

DEFAULT_CUE: Final = "Write a short message."
# Without a penalty a model this small repeats its own sentence.
DRAFT_SAMPLING: Final = Sampling(temperature=0.0, repeat_penalty=1.1)
_SYSTEM = "You write messages for the user, in the user's own voice."


def build_draft(request: str, earlier: Sequence[Recalled] = ()) -> list[ChatMessage]:
    """The chat that drafts the answer to ``request``; ``earlier`` messages come best first."""
    turns = [ChatMessage("system", _SYSTEM)]
    for recalled in reversed(earlier):
        turns.append(ChatMessage("user", recalled.item.cue or DEFAULT_CUE))
        turns.append(ChatMessage("assistant", recalled.item.text))
    return [*turns, ChatMessage("user", request)]
