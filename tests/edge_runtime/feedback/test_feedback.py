"""Choices of the owner: stored once, in order, apart from memories, and gone when forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.feedback.feedback import Feedback
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError


def test_choices_are_idempotent_ordered_and_forgotten(tmp_path: Path) -> None:
    with Vault.open(tmp_path, bytes(32)) as vault:
        feedback = Feedback(vault)
        later = feedback.add_preference("Name a cake", "walnut-free", "walnut", said_at="2025-02-01")
        earlier = feedback.add_preference("Name a tea", "green", "black", said_at="2025-01-01")
        assert feedback.add_preference("name a  TEA", "green", "black", said_at="2025-05-01") == earlier
        assert feedback.preferences() == [earlier, later]
        with pytest.raises(PenchantError, match="two different"):
            feedback.add_preference("a", "b", "b")
        assert feedback.forget_all() == 2 and feedback.preferences() == []
