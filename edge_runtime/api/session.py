"""A device that serves its owner: open or locked, with its model loaded when the first question needs it.

Device and engine live on the worker's thread and nowhere else (`worker.py`). Locking closes both: a locked server
holds no key, no text and no key-value cache, and forgets what it knew of the device but its tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from edge_runtime.api.errors import ApiError, BusyError, LockedError
from edge_runtime.api.limits import Attempts, Limits
from edge_runtime.api.owner_token import draw_token, is_accepted, owner_token, replace_token
from edge_runtime.api.serving_embedder import CountingEmbedder, ServingEmbedder
from edge_runtime.api.worker import Stream, Worker
from edge_runtime.device import Device
from edge_runtime.models.background import BackgroundPolicy
from edge_runtime.models.catalogue import BUNDLED_NAME
from edge_runtime.models.resources import probe, suggest_resources
from edge_runtime.reward.taste import Taste
from edge_runtime.store.keys import needs_passphrase
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Adapter, Engine

T = TypeVar("T")
IDLE_SECONDS: Final = 120.0  # without a request, before idle work begins
_STATUS_PATIENCE = 0.25  # seconds that a status waits for fresh counts behind other work
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelState:
    """What serves: its name, and where it is: "unloaded", "loading", "ready" or "failed". Digest and form are known
    when it is ready."""

    name: str
    state: str = "unloaded"
    sha256: str | None = None
    quantisation: str | None = None
    context_tokens: int | None = None


class Session:
    """One device behind the local API. Start with `await open(...)` or locked; end with `close()`."""

    def __init__(
        self,
        home: Path,
        *,
        model: str = BUNDLED_NAME,
        threads: int | None = None,
        open_engine: Callable[[], Engine] | None = None,
        embedder: CountingEmbedder | None = None,
        idle_after: float = IDLE_SECONDS,
        policy: BackgroundPolicy | None = None,
        limits: Limits | None = None,
        attempts: Attempts | None = None,
    ) -> None:
        self.home, self.limits = home, limits or Limits()
        self.embedder: CountingEmbedder = embedder or ServingEmbedder()
        self.model = ModelState(model if model == BUNDLED_NAME else Path(model).stem)
        self._open_engine = open_engine or _engine_opener(model, threads)
        self._policy, self._attempts = policy or BackgroundPolicy(), attempts or Attempts()
        self._device: Device | None = None
        self._engine: Engine | None = None
        self._adapter: Adapter | None = None
        # A server that starts locked cannot read the owner's token yet: this one holds for its lifetime.
        self._tokens = [draw_token()]
        self._counted: dict[str, Any] = {"memories": None, "settings": None}
        self._worker = Worker(
            interrupt=self._interrupt, idle=self.idle, idle_after=idle_after, waiting=self.limits.answers
        )

    # ---- opening and closing

    async def open(self, passphrase: str | None = None, *, new_token: bool = False) -> None:
        """Opens the device; PenchantError if the passphrase is wrong or there is none."""
        await asyncio.wrap_future(self.start_opening(passphrase, new_token=new_token))

    def start_opening(self, passphrase: str | None = None, *, new_token: bool = False) -> Future[None]:
        """The same without an event loop."""
        return self._worker.call(lambda: self._open(passphrase, new_token))

    def _open(self, passphrase: str | None, new_token: bool) -> None:
        if self._device is not None:
            return
        device = Device.open(self.home, passphrase=passphrase, embedder=self.embedder)
        try:
            token = replace_token(device.vault) if new_token else owner_token(device.vault)
        except BaseException:
            device.close()
            raise
        self._device = device
        if token not in self._tokens:
            self._tokens.append(token)

    async def unlock(self, passphrase: str) -> None:
        """Opens a locked device; wrong passphrases are followed by growing pauses (`BusyError`)."""
        if not self.locked:
            return
        if pause := self._attempts.pause():
            raise BusyError("Too many wrong passphrases; wait before the next attempt.", retry_after=pause)
        try:
            await self.open(passphrase or None)
        except PenchantError as error:
            self._attempts.failed()
            raise ApiError(403, "not_unlocked", str(error)) from None
        self._attempts.succeeded()

    async def lock(self) -> None:
        """Stops every answer and closes the device and the model."""
        self._worker.cancel_streams(LockedError())
        await asyncio.wrap_future(self._worker.call_in_turn(self._close))

    def close(self) -> None:
        """Stops every answer, closes everything and ends the worker. Harmless if called twice."""
        self._worker.cancel_streams(ApiError(503, "closing", "The server is stopping."))
        if self._worker.running:
            self._worker.call_in_turn(self._close_all).result()
            self._worker.stop()

    def _close(self) -> None:
        self._drop_engine()
        device, self._device = self._device, None
        self._counted = {"memories": None, "settings": None}
        if device is not None:
            device.close()

    def _drop_engine(self) -> None:
        engine = self._engine
        self._engine = self._adapter = None
        self.model = ModelState(self.model.name)
        if engine is not None:
            engine.close()

    def _close_all(self) -> None:
        self._close()
        if isinstance(self.embedder, ServingEmbedder):
            self.embedder.close()

    # ---- who may ask

    @property
    def token(self) -> str:
        """The token to hand to the owner: the device's own, or, if the server started locked, this run's."""
        return self._tokens[-1] if not self.locked else self._tokens[0]

    def accepts(self, token: str) -> bool:
        """Whether this token opens the API."""
        return is_accepted(token, self._tokens)

    # ---- what it does

    @property
    def locked(self) -> bool:
        """Whether the device is closed."""
        return self._device is None

    async def run(self, work: Callable[[Device], T]) -> T:
        """Does something short with the device, between two pieces of a running answer."""
        return await asyncio.wrap_future(self._worker.call(lambda: work(self._unlocked())))

    async def forget(self, work: Callable[[Device], T]) -> T:
        """Removes something from the device, when no answer is being made of it. The model goes with everything that
        its caches read, and is loaded again for the next question."""

        def forget() -> T:
            try:
                return work(self._unlocked())
            finally:
                self._drop_engine()

        return await asyncio.wrap_future(self._worker.call_in_turn(forget))

    def stream(self, work: Callable[[Device, Engine], Iterator[T]]) -> Stream[T]:
        """Runs an answer in its turn, with the model (loaded now if it was not)."""
        if self.locked:
            raise LockedError()

        def begin() -> Iterator[T]:
            return work(self._unlocked(), self._loaded_engine())

        return self._worker.stream(begin)

    def preload(self) -> Future[ModelState]:
        """Begins to load the model."""

        def load() -> ModelState:
            self._unlocked()
            self._loaded_engine()
            return self.model

        return self._worker.call_in_turn(load)

    async def status(self) -> dict[str, Any]:
        """What `GET /api/status` says. Counts may be a moment old while the worker is busy."""
        if not self.locked:
            try:
                await asyncio.wait_for(asyncio.shield(self.run(self._count)), _STATUS_PATIENCE)
            except (TimeoutError, LockedError):
                _log.debug("the counts of the status are those of before")
        return {
            "locked": self.locked,
            "has_passphrase": needs_passphrase(self.home),
            "model": asdict(self.model),
            **self._counted,
        }

    def _count(self, device: Device) -> None:
        self._counted = {"memories": len(device.memory), "settings": asdict(device.settings)}

    def use_live_adapter(self, device: Device, engine: Engine, *, personal: bool) -> None:
        """The adapter that is live for answers on the device, or none, for the next one. Another program may have
        changed it since the last. An adapter that does not fit the model raises: it is never left out in silence."""
        live = device.adapters.live("answers") if personal else None
        if live is None:
            engine.use_adapters([])
            return
        version, data = live
        if self._adapter is None or self._adapter.sha256 != version.sha256:
            previous = self._adapter
            self._adapter = engine.load_adapter(data, sha256=version.sha256)
            engine.use_adapters([(self._adapter, 1.0)])
            if previous is not None:
                engine.unload_adapter(previous)
        engine.use_adapters([(self._adapter, 1.0)])

    def idle(self) -> None:
        """What is done when nobody asks (on the worker): the chats of the day become memories, and the profile
        follows. With the model loaded, and where the policy for background work allows it, a summary that no longer
        fits is written again, and new choices are read for what they say of the owner's taste."""
        device = self._device
        if device is None:
            return
        from edge_runtime.memory.consolidation import consolidate

        consolidate(device.conversations, device.memory, device.profile)
        device.profile.rebuild(device.memory)
        device.profile.propose_rules(device.feedback.preferences())
        device.entities.observe(device.memory.items())
        summary = device.profile.summary()
        is_due = summary is None or summary.stale
        is_due = is_due and bool(device.profile.summary_lines())
        taste = Taste(device, self._engine)
        if self._engine is None or not (is_due or taste.due) or not self._policy.may_run(probe()).allowed:
            return
        self.use_live_adapter(device, self._engine, personal=False)
        if is_due:
            device.profile.write_summary(self._engine, device.memory)
        if taste.due:
            taste.learn()

    # ---- inside

    def _unlocked(self) -> Device:
        if self._device is None:
            raise LockedError()
        return self._device

    def _loaded_engine(self) -> Engine:
        if self._engine is None:
            self.model = ModelState(self.model.name, "loading")
            try:
                self._engine = self._open_engine()
            except BaseException:
                self.model = ModelState(self.model.name, "failed")
                raise
            found = self._engine.model
            self.model = ModelState(
                self.model.name, "ready", found.sha256, found.quantisation, self._engine.context_tokens
            )
        return self._engine

    def _interrupt(self) -> None:
        engine = self._engine
        if engine is not None:
            engine.abort()


def _engine_opener(model: str, threads: int | None) -> Callable[[], Engine]:
    def open_engine() -> Engine:
        from edge_runtime.engine.engine import Engine
        from edge_runtime.models.catalogue import find_model

        fits = suggest_resources()
        found = find_model(model, quantisation=fits.quantisation)
        return Engine.open(found, context_tokens=fits.context_tokens, threads=threads or fits.threads)

    return open_engine
