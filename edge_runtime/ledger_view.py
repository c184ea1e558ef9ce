"""What left this device, as its owner is told: the rows that `client` writes, and the privacy they cost in all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from edge_runtime.store.vault import Vault

LEDGER_COLUMNS: Final = (
    "written",
    "run_id",
    "round",
    "attempt",
    "kind",
    "size_bytes",
    "roster_size",
    "noise_multiplier",
)


def ledger_entries(vault: Vault) -> list[dict[str, Any]]:
    """Rows, oldest first, each with its `delta` and its privacy `event` (JSON); none if this device never took part
    in a round."""
    if not vault.has_table("ledger"):
        return []
    cursor = vault.connection.execute(f"SELECT {', '.join(LEDGER_COLUMNS)}, delta, event FROM ledger ORDER BY entry")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def composed_epsilon(events: Iterable[str], delta: float) -> float:
    """The epsilon of all events together at `delta`; infinite if one of them was without noise."""
    from protocol.accounting import Accountant, PrivacyEvent

    return Accountant(PrivacyEvent(**json.loads(event)) for event in events).epsilon(delta)
