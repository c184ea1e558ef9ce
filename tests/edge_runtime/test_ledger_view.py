"""What left the device: the rows that `client` writes, and their cost in all."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from edge_runtime.ledger_view import LEDGER_COLUMNS, composed_epsilon, ledger_entries
from edge_runtime.store.vault import Vault
from protocol.accounting import PrivacyEvent


def test_a_device_that_never_took_part_has_no_entries(tmp_path: Path) -> None:
    with Vault.open(tmp_path, bytes(32)) as vault:
        assert ledger_entries(vault) == []
    assert composed_epsilon([], 1e-5) == 0


def test_entries_come_oldest_first_with_their_event(tmp_path: Path) -> None:
    with Vault.open(tmp_path, bytes(32)) as vault:
        vault.connection.execute(
            f"CREATE TABLE ledger (entry INTEGER PRIMARY KEY, {', '.join(LEDGER_COLUMNS)}, delta, event)"
        )
        for entry in (2, 1):
            row = [entry, *(f"{name} {entry}" for name in LEDGER_COLUMNS), 1e-5, "{}"]
            vault.connection.execute(f"INSERT INTO ledger VALUES ({', '.join('?' * len(row))})", row)
        found = ledger_entries(vault)
    assert [row["run_id"] for row in found] == ["run_id 1", "run_id 2"]
    assert set(found[0]) == {*LEDGER_COLUMNS, "delta", "event"}


def test_costs_add_up_and_no_noise_costs_everything() -> None:
    event = json.dumps(asdict(PrivacyEvent(noise_multiplier=1.0)))
    one, two = composed_epsilon([event], 1e-5), composed_epsilon([event, event], 1e-5)
    assert 0 < one < two < 2 * one + 1e-9
    assert math.isinf(composed_epsilon([json.dumps(asdict(PrivacyEvent(noise_multiplier=0.0)))], 1e-5))
    with pytest.raises(TypeError):
        composed_epsilon(['{"unknown": 1}'], 1e-5)
