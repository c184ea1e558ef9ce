"""The peer of the secure-aggregation benchmark: Flower's own SecAgg+ (its workflow and its client mod), over our grid.

Both belong to Flower's older interface; nothing of the product uses them (their mask seed has 32 bits).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: no fleet reports home

import flwr.compat.common.recorddict_compat as compat
import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_manager import ClientManager, SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow
from numpy.typing import NDArray

from protocol.errors import PenchantError
from simulations.experiments.local_grid import LocalGrid

Updates = NDArray[np.float64]


def flower_round(updates: Updates, *, shares: int) -> float:
    """One round over `LocalGrid` with updates (people, values); checks the mean and returns bytes up per person.

    `shares`: how many people hold a share of each secret, its owner included; two thirds of them recover it.
    """
    arrays = [update.astype(np.float32) for update in updates]
    empty = ndarrays_to_parameters([np.zeros_like(arrays[0])])

    def fit(message: Message, context: Context) -> Message:
        result = FitRes(
            status=Status(code=Code.OK, message=""),
            parameters=ndarrays_to_parameters([arrays[int(context.node_config["partition-id"])]]),
            num_examples=1,
            metrics={},
        )
        return Message(compat.fitres_to_recorddict(result, keep_input=True), reply_to=message)

    app = ClientApp(mods=[secaggplus_mod])
    app.train()(fit)
    grid = _CopyingGrid(app, [Path(str(person)) for person in range(len(arrays))])
    strategy = _EverybodysMean(grid)
    state = RecordDict(
        {
            MAIN_CONFIGS_RECORD: ConfigRecord({Key.CURRENT_ROUND: 1}),
            MAIN_PARAMS_RECORD: compat.parameters_to_arrayrecord(empty, keep_input=True),
        }
    )
    context = LegacyContext(
        Context(run_id=1, node_id=1, node_config={}, state=state, run_config={}),
        strategy=strategy,
        client_manager=SimpleClientManager(),
    )
    workflow = SecAggPlusWorkflow(shares, max(2, 2 * shares // 3), max_weight=1.0, clipping_range=1.0)
    workflow(grid, context)
    if strategy.mean is None or np.abs(strategy.mean - updates.mean(axis=0)).max() > 1e-3:
        raise PenchantError("Flower's secure sum of this benchmark did not finish, or gave another mean")
    return sum(grid.bytes_per_device("up").values()) / len(arrays)


class _CopyingGrid(LocalGrid):
    """Flower's mod takes its message apart while the workflow still holds it: each device gets its own copy."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        mine = []
        for message in messages:
            message.content = copy.deepcopy(message.content)
            mine.append(message)
        return super().push_messages(mine)


class _EverybodysMean(FedAvg):
    """Asks every node of the grid and keeps the mean that the workflow hands over."""

    def __init__(self, grid: LocalGrid) -> None:
        super().__init__()
        self._grid = grid
        self.mean: Updates | None = None

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: ClientManager) -> Any:
        return [(GridClientProxy(node, self._grid, 1), FitIns(parameters, {})) for node in self._grid.get_node_ids()]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        self.mean = parameters_to_ndarrays(results[0][1].parameters)[0].astype(np.float64) if results else None
        return None, {}
