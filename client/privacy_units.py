"""What private training protects as one: a text, or all that came of one conversation or document.

A promise for single texts says little to somebody whose conversation of fifty messages was trained on: all fifty
tell of the same afternoon. With *units* a whole conversation is sampled, summed and clipped as one example would be
(``client/dp_sgd.py``), so that the stated epsilon is that of the conversation. Every text belongs to one unit.

Which memories belong together (``conversation_of``): the passages of one document or imported chat; else what was said
in the same place on the same day, as a memory that stands alone does not say to which conversation it belonged. Two
conversations of one day so become one unit: larger units promise more, not less. A choice between answers is the unit
of its day as well, apart from memories.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.statements import MemoryItem


@dataclass(frozen=True)
class Units:
    """What is protected as one: ``members[u]`` are the indices of the examples of unit u. Every example belongs to one
    unit."""

    members: tuple[NDArray[np.int64], ...]

    @property
    def count(self) -> int:
        """The number n of units."""
        return len(self.members)


def units_of(labels: Sequence[Hashable]) -> Units:
    """The units of examples with these labels: equal labels belong together, in the order in which they appear."""
    members: dict[Hashable, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    return Units(tuple(np.array(indices, dtype=np.int64) for indices in members.values()))


def unit_gradients(
    gradients_of: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    units: Units,
    sampled: NDArray[np.int64],
    dimension: int,
    rows: int,
) -> NDArray[np.float64]:
    """The summed gradient of each unit of ``sampled``: (len(sampled), d).

    ``gradients_of`` gives the gradients (b, d) of the examples whose indices it gets, ``rows`` of them at a time.
    """
    total = np.zeros((len(sampled), dimension))
    if len(sampled) == 0:
        return total
    members = np.concatenate([units.members[unit] for unit in sampled])
    owners = np.repeat(np.arange(len(sampled)), [len(units.members[unit]) for unit in sampled])
    for first in range(0, len(members), rows):
        piece = slice(first, first + rows)
        np.add.at(total, owners[piece], gradients_of(members[piece]))
    return total


def conversation_of(item: MemoryItem | Preference) -> str:
    """The label of the conversation, document or day that something on the device belongs to."""
    if isinstance(item, Preference):
        return f"choices of {item.said_at}"
    return f"document {item.document}" if item.document else f"{item.source} on {item.said_at}"
