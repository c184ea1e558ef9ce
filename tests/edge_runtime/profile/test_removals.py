from __future__ import annotations

from pathlib import Path

from edge_runtime.profile.profile import Profile
from edge_runtime.profile.removals import Removals
from edge_runtime.store.vault import Vault


def test_removals_are_kept_per_kind_undone_and_forgotten(tmp_path: Path) -> None:
    with Vault.open(tmp_path, b"k" * 32) as vault:
        Profile(vault)  # owns the tables
        removals = Removals(vault)
        removals.note("attribute", "likes", "Jazz", [1])
        removals.note("rule", "", "No emoji.", [])
        assert removals.keys("attribute") == {("likes", "jazz")} and removals.keys("rule") == {("", "no emoji.")}
        assert removals.forget_traces([2], lambda _: False) == 0
        assert removals.forget_traces([1], lambda _: False) == 1
        assert removals.forget_traces([], lambda text: "emoji" in text) == 1
        removals.note("attribute", "likes", "Jazz", [1])
        removals.undo("attribute", "Likes", "JAZZ")
        assert removals.keys("attribute") == set()
