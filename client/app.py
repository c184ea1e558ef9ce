"""The Flower ClientApp of a device: six messages, each answered from what lies in the device's vault.

A message may reach a fresh process, so nothing is kept in memory between messages; opened vaults are cached
only to save time. Training is imported by nobody but the collect stage. Whatever goes wrong, the server gets
a `Refusal` that names a reason and nothing else; what exactly was wrong stays in this device's log, because it may
tell the owner's budget or rules.

Run configuration: the home comes from the node configuration `device-home`, else from the run configuration
`devices` (a folder) and the node's `partition-id`: `<devices>/<0042>`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: no device reports home

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import stages
from client.work import LocalUpdate, LocalWork
from edge_runtime.device import Device
from protocol.errors import BudgetExceeded, PenchantError, ProtocolError
from protocol.messages import Refusal, RefusalReason, RoundTask

RECORD, FIELD = "m", "cbor"

log = logging.getLogger("penchant.client")
app = ClientApp()


class TaskWork:
    """``LocalWork`` that does what the task names: its space, and in it the work that its settings name."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def compute(self, task: RoundTask, artefacts: Mapping[str, bytes]) -> LocalUpdate:
        """Training on the device's own data."""
        return self._work(task).compute(task, artefacts)

    def _work(self, task: RoundTask) -> LocalWork:
        # Imported here: key exchange must not load a training library, nor choices one that trains adapters.
        if task.space == "reward":
            if task.settings.get("work") == "centroids":
                from client.centroid_work import CentroidWork

                return CentroidWork(self._device)
            from client.reward_training import RewardWork

            return RewardWork(self._device)
        if task.settings.get("work") == "user_vector":
            from client.user_vector import UserVectorWork

            return UserVectorWork(self._device)
        from client.training import DeviceWork

        return DeviceWork(self._device)


def default_work(device: Device) -> LocalWork:
    """Training on the device's own data."""
    return TaskWork(device)


work_factory: Callable[[Device], LocalWork] = default_work
"""How the collect stage gets its work; experiments and tests put their own factory here."""

_open_devices: dict[tuple[str, int, int], Device] = {}


def device_for(context: Context) -> Device:
    """The device that this node stands for, opened once per process and thread (SQLite's rule)."""
    home = home_of(context)
    key = (str(home), os.getpid(), threading.get_ident())
    if key not in _open_devices:
        device = Device.open(home, passphrase=os.environ.get("PENCHANT_PASSPHRASE"))
        if "partition-id" in context.node_config:
            # Flower's mark of a simulated node. Its writes need to outlive a killed process, not a power cut,
            # and a wait for the disk at every message would cost a simulated fleet more than all its
            # cryptography.
            device.vault.connection.execute("PRAGMA synchronous=NORMAL")
        _open_devices[key] = device
    return _open_devices[key]


def close_devices() -> None:
    """Close every device that this thread has opened, for a caller that wants the files to itself again."""
    mine = (os.getpid(), threading.get_ident())
    for key in [key for key in _open_devices if key[1:] == mine]:
        _open_devices.pop(key).close()


def home_of(context: Context) -> Path:
    """The device's home folder from the node's or the run's configuration."""
    home = context.node_config.get("device-home")
    if home:
        return Path(str(home))
    devices, partition = context.run_config.get("devices"), context.node_config.get("partition-id")
    if devices and partition is not None:
        return Path(str(devices)) / f"{int(partition):04d}"
    raise PenchantError("no device home: start the node with --node-config 'device-home=\"/path\"'")


def respond(message: Message, context: Context, stage: Callable[[Device, bytes], bytes]) -> Message:
    """Run one stage on the message's bytes and wrap its reply, or the refusal, for Flower."""
    try:
        data = stage(device_for(context), _payload(message))
    except BudgetExceeded as error:
        data = _refusal(RefusalReason.BUDGET, error)
    except stages.DeclinedError as error:
        data = _refusal(error.reason, error)
    except ProtocolError as error:
        data = _refusal(RefusalReason.STAGE, error)
    except PenchantError as error:
        data = _refusal(RefusalReason.INTERNAL, error)
    except Exception as error:
        log.warning("a round stage failed on this device: %s", type(error).__name__, exc_info=True)
        data = Refusal(reason=RefusalReason.INTERNAL).to_bytes()
    return Message(RecordDict({RECORD: ConfigRecord({FIELD: data})}), reply_to=message)


@app.query("setup")
def setup(message: Message, context: Context) -> Message:
    """Who the device is and which artefacts it holds; keeps those that the message carries."""
    return respond(message, context, stages.setup)


@app.query("advertise")
def advertise(message: Message, context: Context) -> Message:
    """Check the task against the owner's rules and offer fresh keys for it."""
    return respond(message, context, stages.advertise)


@app.query("share")
def share(message: Message, context: Context) -> Message:
    """Check the roster and send sealed shares to the neighbours."""
    return respond(message, context, stages.share)


@app.train("collect")
def collect(message: Message, context: Context) -> Message:
    """Train, clip, round, add noise, mask, write the ledger, answer."""
    return respond(message, context, lambda device, data: stages.collect(device, data, work_factory))


@app.query("confirm")
def confirm(message: Message, context: Context) -> Message:
    """Sign the list of survivors."""
    return respond(message, context, stages.confirm)


@app.query("unmask")
def unmask(message: Message, context: Context) -> Message:
    """Reveal one share per neighbour, and forget this round's secrets."""
    return respond(message, context, stages.unmask)


def _payload(message: Message) -> bytes:
    record = message.content.config_records.get(RECORD)
    data = None if record is None else record.get(FIELD)
    if not isinstance(data, bytes):
        raise stages.DeclinedError(
            RefusalReason.MALFORMED, "the message has no payload: both sides must run one version"
        )
    return data


def _refusal(reason: RefusalReason, error: PenchantError) -> bytes:
    log.info("this device takes no part (%s): %s", reason.value, error)
    return Refusal(reason=reason).to_bytes()
