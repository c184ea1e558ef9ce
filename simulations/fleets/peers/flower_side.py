"""Flower's simulation engine on the benchmark's people: FedAvg with its central privacy, clients as Ray actors.

``python -E flower_side.py SPEC.json`` in an environment of its own (see ``simulations.bench.fleet``). Clipping is done
by the clients (``fixedclipping_mod``), so that all processors take part in it. Cohorts are Flower's own draws of the
size asked for.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg
from flwr.simulation import run_simulation
from turns import Turns


def network(widths: list[int]) -> torch.nn.Sequential:
    """Linear maps and ReLUs, whose weights are yet to come: making random ones would cost a client milliseconds."""
    layers: list[torch.nn.Module] = []
    with torch.device("meta"):
        for ins, outs in pairwise(widths):
            layers += [torch.nn.Linear(ins, outs), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])


def client_app(spec: dict[str, Any]) -> ClientApp:
    """One SGD step on all examples of the partition."""
    app = ClientApp(mods=[fixedclipping_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        person, folder = int(context.node_config["partition-id"]), Path(spec["folder"])
        x = torch.from_numpy(np.array(np.load(folder / "features.npy", mmap_mode="r")[person]))
        y = torch.from_numpy(np.array(np.load(folder / "labels.npy", mmap_mode="r")[person]))
        model = network(spec["widths"])
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict(), assign=True)
        model.requires_grad_(True)
        optimiser = torch.optim.SGD(model.parameters(), lr=spec["rate"])
        for _ in range(spec["epochs"]):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        content = RecordDict()
        content["arrays"] = ArrayRecord(model.state_dict())
        content["metrics"] = MetricRecord({"num-examples": len(y)})
        return Message(content, reply_to=message)

    return app


def server_app(spec: dict[str, Any], turns: Turns) -> ServerApp:
    """FedAvg under central privacy; every round waits for its turn."""
    app, rounds, cohort = ServerApp(), len(spec["cohorts"]), len(spec["cohorts"][0])

    def in_turns(round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if round == 0:
            turns.say(ready=True)
        else:
            turns.end()
        if round < rounds:
            turns.begin()
        return None

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        start = torch.from_numpy(np.load(spec["start"])).float()
        model = network(spec["widths"]).to_empty(device="cpu")
        torch.nn.utils.vector_to_parameters(start, model.parameters())
        fed_avg = FedAvg(
            fraction_train=cohort / spec["population"],
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=spec["population"],
        )
        strategy = DifferentialPrivacyClientSideFixedClipping(
            fed_avg, spec["noise_multiplier"], spec["clip_norm"], cohort
        )
        result = strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=rounds, evaluate_fn=in_turns)
        parts = [part.ravel() for part in result.arrays.to_numpy_ndarrays()]
        np.save(spec["result"], np.concatenate(parts))
        turns.say(done=True)

    return app


def main(spec: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    run_simulation(
        server_app(spec, Turns()),
        client_app(spec),
        spec["population"],
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": spec["workers"], "include_dashboard": False, "_node_ip_address": "127.0.0.1"},
        },
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text("utf-8")))
