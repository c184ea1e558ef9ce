"""What is on by default: the same objectives as the table of `client/objectives/defaults.py`, fewer in private runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.objectives.defaults import WEIGHTS, default_objectives
from client.objectives.objective import check_private
from edge_runtime.device import Device
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        opened.memory.remember("kiln one", cue="Tell Ines about the kiln", said_at="2025-01-01")
        opened.feedback.add_preference("Tea?", "green", "black", said_at="2025-01-02")
        yield opened


def test_every_objective_that_is_on_takes_part_with_its_weight(tmp_path: Path, device: Device) -> None:
    messages, choices = device.memory.items(), device.feedback.preferences()
    with open_tiny(tmp_path) as engine:
        made = default_objectives(engine, device.memory, messages, choices, private=False)
        assert {one.name: one.weight for one in made} == WEIGHTS
        assert all(len(one) for one in made)
        assert default_objectives(engine, device.memory, [], [], private=False) == []


def test_private_runs_get_only_what_is_private_per_text(tmp_path: Path, device: Device) -> None:
    """Every text is one item: what a unit of the promise is follows from the order of the texts alone."""
    messages, choices = device.memory.items(), device.feedback.preferences()
    with open_tiny(tmp_path) as engine:
        made = default_objectives(engine, device.memory, messages, choices, private=True)
    check_private(made)
    assert sum(map(len, made)) == len(messages) + len(choices)
