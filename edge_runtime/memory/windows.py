"""A passage read with its neighbours: what the passages around it say also counts for it, less with distance.

In a chat the answer to a question stands often in a turn that shares no word with it ("Sweden!"), beside the turn
that does ("Where did you move from?"). Each value (a word's presence, a cosine) therefore spreads to the passages of
the same document within `REACH`, times `DECAY` per step, and a passage keeps the largest that reaches it: repeating a
word in every turn adds nothing. Both constants were chosen on the tuning chats of simulations/bench/recall.py; reach 2
to 4 and decay 0.8 to 0.95 differ by less than one point there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

REACH: Final = 2
DECAY: Final = 0.9


def neighbours(documents: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the passage 1, 2, ... REACH places after each row in its document, then as many before: (2 * REACH, n),
    -1 where there is none.

    `documents` (n,) are codes, 0 for what belongs to no document; `positions` (n,) give the order inside one. A gap
    (a forgotten passage) does not separate its neighbours.
    """
    n = len(documents)
    order = np.lexsort((positions, documents))
    sorted_documents = documents[order]
    found = np.full((2 * REACH, n), -1, np.int64)
    for step in range(1, min(REACH, n - 1) + 1):
        together = (sorted_documents[step:] == sorted_documents[:-step]) & (sorted_documents[step:] > 0)
        earlier, later = order[:-step][together], order[step:][together]
        found[step - 1, earlier] = later
        found[REACH + step - 1, later] = earlier
    return found


def spread(values: NDArray[np.float32], around: NDArray[np.int64]) -> NDArray[np.float32]:
    """The largest of every row's own value and its neighbours' decayed ones: (n,) from non-negative (n,)."""
    largest = values.copy()
    rows = np.flatnonzero(values > 0)
    for index, row_of in enumerate(around):
        target = row_of[rows]
        reached = target >= 0
        target = target[reached]  # each row has one neighbour per direction and step: no target comes twice
        decayed = values[rows[reached]] * np.float32(DECAY ** (index % REACH + 1))
        largest[target] = np.maximum(largest[target], decayed)
    return largest
