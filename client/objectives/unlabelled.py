"""An unlabelled pass over the owner's documents (Jargon Detection via Personalized Parameter-Efficient Fine-tuning):
plain next-token loss on files that the owner brought in, which answer no request.

    L = - sum_i sum_{t > 1} log p_theta(y_it | y_i<t) / number of target tokens

without a chat prompt, from the second token on. Few labelled examples (`next_token`) are trained beside it. A file may
be anybody's writing: this adapts to what the owner reads and keeps, not to their voice.

One passage makes one example, so private training takes it as it is; its unit is then a passage, not a file.
"""

from __future__ import annotations

from collections.abc import Sequence

from client.examples import Example
from client.objectives.objective import Objective
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.statements import MemoryItem


def unlabelled(engine: Engine, passages: Sequence[str], *, weight: float = 1.0) -> Objective:
    """The passages as plain text; those of fewer than two tokens are left out."""
    tokens = [tuple(engine.tokenise(text, special=False, add_bos=True)) for text in passages]
    return Objective("unlabelled", tuple(Example(ids, 1) for ids in tokens if len(ids) > 1), weight=weight)


def documents_of(items: Sequence[MemoryItem]) -> list[str]:
    """The texts of the files among ``items``, in the order of their places."""
    files = [item for item in items if item.kind == "passage" and item.source == "file" and not item.speaker]
    return [item.text for item in sorted(files, key=lambda item: (item.document, item.position, item.id))]
