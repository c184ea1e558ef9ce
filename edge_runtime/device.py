"""One person's device: a home folder with a key and an encrypted file, and in it memory, identity and
settings.

Opening costs milliseconds (no model is loaded before it is needed), since a fleet opens every device many
times a round. A device is one person's: the identity that signs its part in secure sums lives in the
encrypted file and nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.adapters.log import AdapterLog
from edge_runtime.feedback.feedback import Feedback
from edge_runtime.memory.memory import Memory, TextEmbedder
from edge_runtime.store.keys import KeyMethod, create_key, key_exists, open_key
from edge_runtime.store.vault import VAULT_FILE, Vault
from protocol.errors import PenchantError
from protocol.keys import SigningKey

_IDENTITY_BLOB: Final = "device/identity"
_SETTINGS_BLOB: Final = "device/settings"


@dataclass(frozen=True)
class DeviceSettings:
    """What the owner allows. Nothing leaves a device until `share` is True.

    `epsilon_budget` (at `delta`) bounds the cumulative user-level privacy loss over all contributions; a
    round with fewer than `minimum_roster` people is refused.
    """

    share: bool = False
    epsilon_budget: float = 8.0
    delta: float = 1e-5
    minimum_roster: int = 8

    def __post_init__(self) -> None:
        number = (int, float)
        if not isinstance(self.share, bool):
            raise PenchantError("The setting share is true or false.")
        if not isinstance(self.epsilon_budget, number) or not self.epsilon_budget >= 0:
            raise PenchantError("The setting epsilon_budget is a number, 0 or more.")
        if not isinstance(self.delta, number) or not 0 < self.delta < 1:
            raise PenchantError("The setting delta lies between 0 and 1.")
        if not isinstance(self.minimum_roster, int) or self.minimum_roster < 2:
            raise PenchantError("The setting minimum_roster is a whole number, 2 or more.")


class Device:
    """An open device. `vault` is its file, `memory` what it remembers, `identity` its Ed25519 signing key."""

    def __init__(self, home: Path, vault: Vault, identity: SigningKey, embedder: TextEmbedder | None = None) -> None:
        self.home, self.vault, self.identity = home, vault, identity
        self._embedder = embedder or SharedEmbedder()

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        passphrase: str | None = None,
        create: bool = False,
        key_method: KeyMethod = "auto",
        embedder: TextEmbedder | None = None,
    ) -> Device:
        """Opens the device in `home`; with `create`, sets it up if there is none (`key_method`: where a new
        key is kept).

        PenchantError if there is no device, the key or passphrase is wrong, or the file is damaged.
        """
        home = Path(home).expanduser()
        if create and not key_exists(home):
            vault_file = home / VAULT_FILE
            if vault_file.exists() and vault_file.stat().st_size:
                raise PenchantError(f"{home} holds a memory but not its key.json; restore key.json from a backup.")
            try:
                create_key(home, method=key_method, passphrase=passphrase)
            except PenchantError:
                # else another process set it up in this moment, and its key is the one
                if not key_exists(home):
                    raise
        vault = Vault.open(home, open_key(home, passphrase=passphrase), create=True)
        try:
            return cls(home, vault, _identity(vault), embedder)
        except BaseException:
            vault.close()
            raise

    @cached_property
    def memory(self) -> Memory:
        """The owner's memories; the embedding model is loaded when a text is first embedded."""
        return Memory(self.vault, self._embedder)

    @cached_property
    def feedback(self) -> Feedback:
        """What the owner thinks of answers."""
        return Feedback(self.vault)

    @cached_property
    def adapters(self) -> AdapterLog:
        """The versions of the device's own adapter."""
        return AdapterLog(self.vault)

    @property
    def settings(self) -> DeviceSettings:
        """What the owner allows; the defaults if nothing was set."""
        stored = self.vault.get_blob(_SETTINGS_BLOB)
        known = {field.name for field in fields(DeviceSettings)}
        values = json.loads(stored) if stored else {}
        return DeviceSettings(**{name: value for name, value in values.items() if name in known})

    def change_settings(self, **changes: bool | int | float) -> DeviceSettings:
        """Sets some of the fields of `DeviceSettings` and returns all of them; PenchantError for a wrong name
        or value."""
        with self.vault.transaction():
            try:
                # checked by __post_init__
                changed = replace(self.settings, **changes)  # type: ignore[arg-type]
            except TypeError:
                names = ", ".join(field.name for field in fields(DeviceSettings))
                raise PenchantError(f"There is no such setting; the settings are {names}.") from None
            self.vault.put_blob(_SETTINGS_BLOB, json.dumps(asdict(changed)).encode())
        return changed

    def close(self) -> None:
        """Closes the file; harmless if called twice."""
        self.vault.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SharedEmbedder:
    """The default embedding model, opened once per process and only when a text is embedded."""

    @property
    def dimension(self) -> int:
        return _default_embedder().dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return _default_embedder().embed(texts)


def default_home() -> Path:
    """`PENCHANT_HOME` if it is set, else the user's data folder."""
    chosen = os.environ.get("PENCHANT_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("penchant", appauthor=False)


@lru_cache(maxsize=1)
def _default_embedder() -> TextEmbedder:
    from edge_runtime.engine.embedder import Embedder  # llama.cpp: not for those who only exchange keys

    embedder: TextEmbedder = Embedder.open()
    return embedder


def _identity(vault: Vault) -> SigningKey:
    stored = vault.get_blob(_IDENTITY_BLOB)
    if stored is None:
        with vault.transaction():  # two processes may open a new device at once: the first to write decides
            stored = vault.get_blob(_IDENTITY_BLOB)
            if stored is None:
                stored = SigningKey.generate().private_bytes
                vault.put_blob(_IDENTITY_BLOB, stored)
    return SigningKey.from_private_bytes(stored)
