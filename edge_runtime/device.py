"""One person's device: a home folder with a key and an encrypted file, and in it memory, identity and
settings.

A device can be locked: its key is overwritten and its file closed, and everything it handed out (`memory`, `vault`
...) stops working, until it is unlocked; take the parts from the device each time you need them.

Opening costs milliseconds (no model is loaded before it is needed), since a fleet opens every device many
times a round. A device is one person's: the identity that signs its part in secure sums lives in the
encrypted file and nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.adapters.log import AdapterLog
from edge_runtime.answering.conversations import Conversations
from edge_runtime.feedback.feedback import Feedback
from edge_runtime.memory.memory import Memory, TextEmbedder
from edge_runtime.store.keys import KeyMethod, create_key, key_exists, needs_passphrase
from edge_runtime.store.open_home import OpenHome
from edge_runtime.store.vault import VAULT_FILE, Vault
from protocol.errors import PenchantError
from protocol.keys import SigningKey

if TYPE_CHECKING:
    from edge_runtime.engine.state_store import StateStore
    from edge_runtime.ingestion.documents import Documents
    from edge_runtime.memory.entities import Entities
    from edge_runtime.profile.profile import Profile

IDENTITY_BLOB: Final = "device/identity"
SETTINGS_BLOB: Final = "device/settings"
STATES_BYTES: Final = 512 * 2**20  # some twenty prefixes of 1,000 tokens on the default model
# Present on a device that must not contribute: it is a copy of one that does, or was moved to another.
CONTRIBUTES_ELSEWHERE_BLOB: Final = "device/contributes-elsewhere"


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

    def __init__(self, store: OpenHome, embedder: TextEmbedder | None = None) -> None:
        self.home = store.home
        self._store: OpenHome | None = store
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
        device = cls(OpenHome.open(home, passphrase=passphrase), embedder)
        try:
            device.identity  # noqa: B018 - drawn now, so that a device has one before it does anything
        except BaseException:
            device.close()
            raise
        return device

    @property
    def vault(self) -> Vault:
        """The encrypted file; PenchantError while the device is locked."""
        return self._opened.vault

    @cached_property
    def identity(self) -> SigningKey:
        """Signs this device's part in secure sums and its bundles."""
        return _identity(self.vault)

    @cached_property
    def memory(self) -> Memory:
        """The owner's memories; the embedding model is loaded when a text is first embedded."""
        return Memory(self.vault, self._embedder)

    @property
    def embedder(self) -> TextEmbedder:
        """The embedding model of memory and everything beside it."""
        return self._embedder

    @cached_property
    def feedback(self) -> Feedback:
        """What the owner thinks of answers."""
        return Feedback(self.vault)

    @cached_property
    def profile(self) -> Profile:
        """What the device takes its owner to be."""
        from edge_runtime.profile.profile import Profile  # its word lists: not for those who only exchange keys

        return Profile(self.vault)

    @cached_property
    def conversations(self) -> Conversations:
        """What was said in chats."""
        return Conversations(self.vault)

    @cached_property
    def entities(self) -> Entities:
        """Which people, places and things the owner speaks of, and how often."""
        from edge_runtime.memory.entities import Entities

        return Entities(self.vault)

    @cached_property
    def documents(self) -> Documents:
        """What the owner brought in."""
        from edge_runtime.ingestion.documents import Documents

        return Documents(self.vault)

    @cached_property
    def states(self) -> StateStore:
        """Prefixes that the model has read, on disk."""
        from edge_runtime.engine.state_store import StateStore

        return StateStore(self.vault, self.home / "states", STATES_BYTES)

    @cached_property
    def adapters(self) -> AdapterLog:
        """The versions of the device's own adapter."""
        return AdapterLog(self.vault)

    @property
    def settings(self) -> DeviceSettings:
        """What the owner allows; the defaults if nothing was set."""
        stored = self.vault.get_blob(SETTINGS_BLOB)
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
            if changed.share and not self.may_contribute:
                raise PenchantError(
                    "Another device of yours contributes, and one privacy budget must not be spent twice: "
                    "`penchant export FILE --move` there and `penchant import FILE` here make this one contribute."
                )
            self.vault.put_blob(SETTINGS_BLOB, json.dumps(asdict(changed)).encode())
        return changed

    @property
    def locked(self) -> bool:
        """Whether the key has been dropped."""
        return self._store is None

    @property
    def has_passphrase(self) -> bool:
        """Whether unlocking takes a passphrase."""
        return needs_passphrase(self.home)

    def lock(self) -> None:
        """Closes the file and overwrites the key; harmless if called twice.

        What the parts held in RAM (vectors, identity) is released with them. Prompts that an engine has cached are
        the engine's: who serves drops them at the same time.
        """
        if self._store is not None:
            self._store.close()
        self._store = None
        self.drop_parts()

    def unlock(self, passphrase: str | None = None) -> None:
        """Opens the file again; PenchantError if the passphrase is wrong. Nothing happens if it is open."""
        if self._store is None:
            self._store = OpenHome.open(self.home, passphrase=passphrase)

    def rotate_key(self) -> bool:
        """Encrypts everything under a fresh key; False if that has to wait (another program has the device open,
        or the disk is full): the next program that opens the device alone does it."""
        return self._opened.rotate()

    def protect(self, method: KeyMethod, passphrase: str | None = None) -> None:
        """Keeps the key by `method` from now on: sets, changes or removes the passphrase.

        Only the 32 bytes of the key are wrapped anew. Who may have seen the old passphrase and an old `key.json`,
        or the key in its file, is locked out by `rotate_key`.
        """
        self._opened.protect(method, passphrase)

    def drop_parts(self) -> None:
        """Lets go of what the parts hold in RAM; they are made anew when they are next asked for."""
        for name in [name for name in self.__dict__ if isinstance(getattr(type(self), name, None), cached_property)]:
            del self.__dict__[name]

    def alone(self) -> AbstractContextManager[bool]:
        """Whether no other program has the device open; if so, none can open it until the block ends."""
        return self._opened.lock.alone()

    def beside(self, vault: Vault) -> Device:
        """The same parts over another file, such as a copy that is being imported: to read and to adapt, while this
        device is open. It is closed by closing `vault`."""
        return Device(replace(self._opened, home=vault.path.parent, vault=vault), self._embedder)

    @property
    def may_contribute(self) -> bool:
        """Whether this is the device of its owner that may contribute (``transfer``), if they allow it."""
        return self.vault.get_blob(CONTRIBUTES_ELSEWHERE_BLOB) is None

    def close(self) -> None:
        """Closes the file; harmless if called twice."""
        self.lock()

    @property
    def _opened(self) -> OpenHome:
        if self._store is None:
            raise PenchantError("This device is locked; unlock it first.")
        return self._store

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
    stored = vault.get_blob(IDENTITY_BLOB)
    if stored is None:
        with vault.transaction():  # two processes may open a new device at once: the first to write decides
            stored = vault.get_blob(IDENTITY_BLOB)
            if stored is None:
                stored = SigningKey.generate().private_bytes
                vault.put_blob(IDENTITY_BLOB, stored)
    return SigningKey.from_private_bytes(stored)
