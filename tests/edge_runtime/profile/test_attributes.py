from __future__ import annotations

from pathlib import Path

from edge_runtime.profile.attributes import Attributes
from edge_runtime.profile.evidence import Evidence, Observation
from edge_runtime.profile.profile import Profile
from edge_runtime.store.vault import Vault


def test_settling_again_from_the_rows_alone_changes_nothing(tmp_path: Path) -> None:
    """An owner's entry settles the stored rows without the memories; what they say must be enough."""
    with Vault.open(tmp_path, b"k" * 32) as vault:
        Profile(vault)  # owns the tables
        attributes = Attributes(vault)
        seen = [
            Observation("lives_in", "Kiel", Evidence("2020-01-01", 1)),
            Observation("lives_in", "Bonn", Evidence("2021-01-01", 2)),
            Observation("lives_in", "Kiel", Evidence("2022-01-01", 3)),
            Observation("smokes", "yes", Evidence("2022-01-01", 4), past=True),
            Observation("likes", "tea", Evidence("2020-01-01", 5, ends="2023-01-01")),
        ]
        attributes.settle(seen, set())
        attributes.enter("likes", "rain", [6])
        attributes.settle(attributes.observations(), set())
        before = attributes.listing(None)
        assert len(before) == 6
        attributes.settle(attributes.observations(), set())
        assert attributes.listing(None) == before


def test_removed_values_are_left_out_unless_entered(tmp_path: Path) -> None:
    with Vault.open(tmp_path, b"k" * 32) as vault:
        Profile(vault)
        attributes = Attributes(vault)
        seen = [Observation("likes", "Tea", Evidence("2020-01-01", 1))]
        assert attributes.settle(seen, {("likes", "tea")}) == 0
        attributes.enter("likes", "tea", [])
        assert attributes.settle([*seen, *attributes.entries()], {("likes", "tea")}) == 1
