"""What the owner thinks of answers, in one place: choices between two answers, ready for training."""

from __future__ import annotations

from edge_runtime.feedback.preferences import PREFERENCE_STEPS, Preference, add_preference, list_preferences
from edge_runtime.store.vault import Vault


class Feedback:
    """The feedback of one device's owner."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("preferences", PREFERENCE_STEPS)

    def add_preference(self, prompt: str, chosen: str, rejected: str, *, said_at: str | None = None) -> Preference:
        """Stores a choice; an equal one that is already there is returned unchanged."""
        return add_preference(self._vault, prompt, chosen, rejected, said_at)

    def preferences(self) -> list[Preference]:
        """All choices, oldest first."""
        return list_preferences(self._vault)

    def forget_all(self) -> int:
        """Removes every choice; how many."""
        with self._vault.transaction() as connection:
            return int(connection.execute("DELETE FROM preferences").rowcount)
