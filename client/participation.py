"""One participation over several rounds: what a device trained in the first is kept to be sent again in the next.

With correlated noise (`protocol.matrix_factorisation`) a person trains once and uploads the same vector, times a
smaller factor each round. It waits in the vault, below `LEARNT_PREFIX`: whatever makes the owner's device forget drops
it too, and the rounds that are left then get a zero vector (the ledger counts them all the same). It is gone after the
last upload.
"""

from __future__ import annotations

from collections.abc import Callable

import cbor2
import numpy as np

from client.work import LocalUpdate
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.messages import RoundTask


def update_at(vault: Vault, task: RoundTask, age: int, train: Callable[[], LocalUpdate]) -> LocalUpdate:
    """The vector for this round: trained if the participation starts here (age 0), else the one kept from its start."""
    if age == 0:
        return train()
    data = vault.get_blob(_name(task))
    if data is None:
        return LocalUpdate(np.zeros(task.update_dimension), 0.0, 0)
    kept = cbor2.loads(data)
    update = np.frombuffer(kept["update"], dtype="<f8").astype(np.float64)
    return LocalUpdate(update, float(kept["loss_sum"]), int(kept["example_count"]))


def keep_or_drop(vault: Vault, task: RoundTask, age: int, update: LocalUpdate) -> None:
    """After the upload at `age`, in the transaction that records it: kept while uploads are to come, then deleted."""
    if age + 1 >= len(task.strategy):
        vault.delete_blob(_name(task))
    elif age == 0:
        fields = {
            "update": update.update.astype("<f8").tobytes(),
            "loss_sum": update.loss_sum,
            "example_count": update.example_count,
        }
        vault.put_blob(_name(task), cbor2.dumps(fields))


def _name(task: RoundTask) -> str:
    return f"{LEARNT_PREFIX}participation/{task.run_id}"
