"""Where an activated adapter begins to act (aLoRA, Greenewald et al. 2025, arXiv 2504.12397).

The prompt up to the last assistant header is read by the base model alone, so its keys and values serve every
adapter; the adapter shapes the answer only. Training and serving both call `activation_start`: the first token
under the adapter is the *first token of the last header* (PEFT and llama-server each begin about one token
elsewhere, which is why the boundary has a function of its own).
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.errors import PenchantError


def activation_start(tokens: Sequence[int], header: Sequence[int]) -> int:
    """Index of the first token that is evaluated under the adapter: where the last `header` in `tokens` begins.

    Raises PenchantError if there is none: an adapter that silently does nothing would look like one that does.
    """
    start = last_header(tokens, header)
    if start is None:
        raise PenchantError(
            "an adapter for answers needs a prompt that ends in the assistant's header: make it with chat_prompt"
        )
    return start


def last_header(tokens: Sequence[int], header: Sequence[int]) -> int | None:
    """Index of the last occurrence of `header` in `tokens`, or None."""
    wanted, size = list(header), len(header)
    for start in range(len(tokens) - size, -1, -1) if size else ():
        if tokens[start] == wanted[0] and list(tokens[start : start + size]) == wanted:
            return start
    return None
