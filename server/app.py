"""The Flower ServerApp: run configuration in, `run_fleet` out. Nothing of the protocol is decided here.

Keys of the run configuration (`[tool.flwr.app.config]` of pyproject.toml, overridden by `--run-config`): `out`
(folder for the store and releases), `run-id`, `rounds`, `noise-multiplier`, `delta`, `credentials` (folder: the
server's key and what the authority signed, `server.credentials`), and optionally `cohort-size`, `minimum-survivors`,
`dropout-fraction`, `ring-bits`, `epsilon-budget`, `stage-seconds`, `attempts-per-round`, `seed`. Further keys are the
algorithm's. Flower refuses a key that the table lacks, so all of them stand in it; the empty string means "not set".
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: no fleet reports home

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from protocol.errors import PenchantError
from server.credentials import ServerCredentials
from server.fleet import FleetAlgorithm, FleetSettings, run_fleet
from server.round import Progress

RunConfig = Mapping[str, bool | float | int | str]
TRAINING_PREFIX = "train."
CONVERTERS: dict[str, Callable[[str], str | int | float]] = {"str": str, "int": int, "float": float, "Mechanism": str}

log = logging.getLogger("penchant.server")
app = ServerApp()


def default_algorithm(config: RunConfig, out: Path) -> FleetAlgorithm:
    """A shared adapter, then adapter bases (`server.algorithms`), in the frame stored in the file `frame`; or, where
    the file `feature-map` is given instead, the fleet's taste in choices (`server.reward_bases`).

    The fields of `PreferencePlan` and `RewardPlan` have their own keys (`shared-rounds`, `basis-count`,
    `maximum-count`, ...); the devices' training settings are the keys below `train.`, e.g. `train.learning-rate`.
    """
    from protocol.frames import Frame
    from server.algorithms import PreferenceBases, PreferencePlan

    path, features = Path(str(config.get("frame", ""))), Path(str(config.get("feature-map", "")))
    if path.is_file() == features.is_file():  # Path("") is a folder
        raise PenchantError(
            "run configuration: 'frame' is missing: give the file of the fleet's frame, or its 'feature-map'"
        )
    if features.is_file():
        from protocol.feature_map import FeatureMap
        from server.reward_bases import RewardBases, RewardPlan

        return RewardBases(FeatureMap.from_bytes(features.read_bytes()), RewardPlan(**fields_from(config, RewardPlan)))
    training = {
        key.removeprefix(TRAINING_PREFIX).replace("-", "_"): value
        for key, value in config.items()
        if key.startswith(TRAINING_PREFIX) and value != ""
    }
    plan = fields_from(config, PreferencePlan)
    return PreferenceBases(Frame.from_bytes(path.read_bytes()), PreferencePlan(**plan, training=training))


algorithm_factory: Callable[[RunConfig, Path], FleetAlgorithm] = default_algorithm
"""How the app gets its algorithm; experiments and tests put their own factory here."""


def settings_from(config: RunConfig) -> FleetSettings:
    """FleetSettings from a run configuration: `noise-multiplier` is the field `noise_multiplier`, etc."""
    return FleetSettings(**fields_from(config, FleetSettings))


def fields_from(config: RunConfig, kind: type) -> dict[str, Any]:
    """The plain fields of the dataclass `kind` that the configuration sets, converted to their types."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        key, convert = field.name.replace("_", "-"), CONVERTERS.get(str(field.type))
        if convert is not None and config.get(key, "") != "":
            try:
                values[field.name] = convert(str(config[key]))
            except ValueError as error:
                raise PenchantError(f"run configuration: {key} = {config[key]!r} is not a {field.type}") from error
        elif field.default is MISSING and field.default_factory is MISSING:
            raise PenchantError(f"run configuration: {key!r} is missing: add it to --run-config")
    return values


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume the fleet that the run configuration describes."""
    config = context.run_config
    if not config.get("out"):
        raise PenchantError("run configuration: 'out' is missing: give the folder for the store and the releases")
    if not config.get("credentials"):
        raise PenchantError("run configuration: 'credentials' is missing: give the folder with the server's key")
    out, credentials = Path(str(config["out"])), ServerCredentials.load(Path(str(config["credentials"])))
    algorithm = algorithm_factory(config, out)
    result = run_fleet(grid, settings_from(config), out, algorithm, log_progress, credentials=credentials)
    log.info(
        "run %s: %d rounds, epsilon %.3f at delta %g %s",
        result.run_id,
        len(result.outcomes),
        result.epsilon,
        result.delta,
        result.stopped,
    )


def log_progress(progress: Progress) -> None:
    """One log line per batch of replies."""
    log.info(
        "round %d.%d %s: %d of %d %s",
        progress.round,
        progress.attempt,
        progress.stage,
        progress.answered,
        progress.asked,
        progress.note,
    )
