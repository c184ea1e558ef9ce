"""A fleet's folder: what lies where, and its configuration (`fleet.toml`).

fleet.toml            configuration; may hold the store's password                             0600
invitation.json       what devices get
members.json          who is enrolled: identity and connection key of each
credentials/          what lets the server speak for the fleet (`server.credentials`)          0700
keys/authority.key    signs members and server; wanted by enrol only, may lie elsewhere        0600
keys/ca.key, tls.key  TLS                                                                      0600
keys/ca.pem, tls.pem
keys/dashboard.token  opens the dashboard and the metrics                                      0600
out/                  the store (unless it is PostgreSQL), the releases, the live state        0700
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.store.private_files import read_private
from protocol.errors import PenchantError, ProtocolError
from protocol.fleet_trust import FleetAuthority
from protocol.keys import SigningKey
from server.credentials import ROSTER_FILE
from server.store import Store

CONFIG_NAME = "fleet.toml"
RunConfig = dict[str, bool | float | int | str]


@dataclass(frozen=True)
class FleetFolder:
    """Paths under one fleet's folder."""

    root: Path

    config: Path = field(init=False)
    invitation: Path = field(init=False)
    members: Path = field(init=False)
    credentials: Path = field(init=False)
    roster: Path = field(init=False)
    out: Path = field(init=False)
    live: Path = field(init=False)
    lock: Path = field(init=False)
    keys: Path = field(init=False)

    def __post_init__(self) -> None:
        places = {
            "config": CONFIG_NAME,
            "invitation": "invitation.json",
            "members": "members.json",
            "credentials": "credentials",
            "roster": f"credentials/{ROSTER_FILE}",
            "out": "out",
            "live": "out/live.json",
            "lock": "out/server.lock",
            "keys": "keys",
        }
        for name, place in places.items():
            object.__setattr__(self, name, self.root / place)

    def key(self, name: str) -> Path:
        """A file under `keys/`."""
        return self.keys / name

    def authority(self, fleet_id: str) -> FleetAuthority:
        """The fleet's authority, from `keys/authority.key` (hex). PenchantError if others may read it or it is gone."""
        path = self.key("authority.key")
        if not path.exists():
            raise PenchantError(f"{path} is missing: bring it back from where it is kept, for this command only")
        try:
            return FleetAuthority(fleet_id, SigningKey.from_private_bytes(bytes.fromhex(read_private(path).strip())))
        except (ValueError, ProtocolError):
            raise PenchantError(f"{path} holds no key: restore it from a copy") from None

    def read(self, path: Path) -> bytes:
        """A file of this folder. PenchantError if it is gone."""
        try:
            return path.read_bytes()
        except OSError as error:
            raise PenchantError(f"{path} cannot be read ({error.strerror}): restore it from a copy") from None


@dataclass(frozen=True)
class FleetConfig:
    """`fleet.toml`. `store` is "" (SQLite under `out/`) or a PostgreSQL URL; `wait_for` devices must be connected
    before rounds begin; `run` is the run configuration of `server.app`."""

    name: str
    address: str
    host: str
    port: int
    dashboard_port: int
    wait_for: int
    store: str
    run: RunConfig

    @property
    def epsilon_budget(self) -> float:
        """The epsilon above which no round starts (infinite if not set)."""
        return float(self.run.get("epsilon-budget") or math.inf)

    def open_store(self, path: Path) -> Store:
        """The fleet's store: SQLite at ``path``, or PostgreSQL at the configured URL."""
        if not self.store:
            return Store(path)
        from server.store_postgres import PostgresStore  # psycopg: for fleets that ask for it

        return PostgresStore(self.store)


def load(root: Path) -> tuple[FleetFolder, FleetConfig]:
    """The fleet in `root`. PenchantError if there is none or its configuration is wrong."""
    folder = FleetFolder(root)
    try:
        fields = tomllib.loads(folder.config.read_text("utf-8"))
    except FileNotFoundError:
        raise PenchantError(f"{root} is no fleet's folder: make one with penchant fleet init {root}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PenchantError(f"{folder.config} cannot be read: {error}") from None
    try:
        fleet, server, run = (_table(fields, name) for name in ("fleet", "server", "run"))
        config = FleetConfig(
            name=_text(fleet, "name"),
            address=_text(fleet, "address"),
            host=_text(server, "host"),
            port=_number(server, "port"),
            dashboard_port=_number(server, "dashboard-port"),
            wait_for=_number(server, "wait-for"),
            store=os.environ.get("PENCHANT_FLEET_STORE") or _text(server, "store"),
            run={key: value for key, value in run.items() if isinstance(value, (bool, float, int, str))},
        )
    except KeyError as error:
        raise PenchantError(f"{folder.config}: {error.args[0]} is missing or of the wrong kind") from None
    return folder, config


def _table(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(fields.get(name), dict):
        raise KeyError(f"[{name}]")
    table: Mapping[str, Any] = fields[name]
    return table


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        raise KeyError(name)
    return value


def _number(table: Mapping[str, Any], name: str) -> int:
    value = table.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise KeyError(name)
    return value
