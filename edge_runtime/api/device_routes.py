"""`/api`: the device itself: what it remembers, and how it is locked, adapted and allowed to share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query

from edge_runtime.api.device_schemas import (
    LARGEST_ID,
    AdapterList,
    LedgerOut,
    MemoryList,
    MemoryOut,
    NewMemory,
    NewText,
    ReceiptOut,
    SettingsChange,
    SettingsOut,
    Status,
    Unlock,
)
from edge_runtime.api.errors import ApiError, NotFoundError
from edge_runtime.api.openai_schemas import Day
from edge_runtime.api.session import Session
from edge_runtime.device import Device
from edge_runtime.ledger_view import composed_epsilon, ledger_entries
from protocol.errors import PenchantError

T = TypeVar("T")
RecordId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="The id of the record.", examples=[1])]


def existing(find: Callable[[], T]) -> T:
    """What `find` finds; `NotFoundError` with its message if it finds nothing."""
    try:
        return find()
    except PenchantError as error:
        raise NotFoundError(str(error)) from None


def device_router(session: Session) -> APIRouter:
    """The routes, for the device of `session`."""
    router = APIRouter(prefix="/api")

    @router.get("/status", tags=["device"], response_model=Status)
    async def status() -> Any:
        """Whether the device is locked, which model serves, what is allowed."""
        return await session.status() | {"version": version("penchant")}

    @router.post("/unlock", tags=["device"], response_model=Status)
    async def unlock(body: Unlock) -> Any:
        """Opens a locked device. Wrong passphrases are followed by growing pauses."""
        await session.unlock(body.passphrase)
        return await status()

    @router.post("/lock", tags=["device"], response_model=Status)
    async def lock() -> Any:
        """Stops every answer, closes the device and the model; nothing personal stays in memory."""
        await session.lock()
        return await status()

    @router.patch("/settings", tags=["device"], response_model=SettingsOut)
    async def settings(body: SettingsChange) -> Any:
        """Changes what the owner allows; all settings."""
        changes = body.model_dump(exclude_none=True)
        return asdict(await session.run(lambda device: device.change_settings(**changes)))

    @router.get("/memories", tags=["memories"], response_model=MemoryList, response_model_exclude_unset=True)
    async def memories(
        query: Annotated[str, Query(max_length=20_000, description="What to look for; everything if empty.")] = "",
        k: Annotated[int, Query(ge=1, le=1000, description="At most so many for a query.")] = 5,
        as_of: Annotated[Day | None, Query(description="What was known on that day.")] = None,
    ) -> Any:
        """Finds memories by words, meaning and date; without a query, lists them all."""

        def find(device: Device) -> list[dict[str, Any]]:
            if query.strip():
                found = device.memory.recall(query, k=k, as_of=as_of)
                return [
                    asdict(one.item) | {"score": one.score, "ranks": one.ranks, "similarity": one.similarity}
                    for one in found
                ]
            items = device.memory.items()
            if as_of is not None:
                items = [one for one in items if one.said_at <= as_of and as_of < (one.valid_until or "9999-12-31")]
            return [asdict(one) for one in items]

        return {"memories": await session.run(find)}

    @router.post("/memories", tags=["memories"], response_model=MemoryOut, response_model_exclude_unset=True)
    async def remember(body: NewMemory) -> Any:
        """Stores something the owner said; it is on disk when the answer comes. The same twice is one memory."""
        return asdict(
            await session.run(lambda device: device.memory.remember(body.text, cue=body.cue, said_at=body.said_at))
        )

    @router.patch(
        "/memories/{memory_id}", tags=["memories"], response_model=MemoryOut, response_model_exclude_unset=True
    )
    async def edit(memory_id: RecordId, body: NewText) -> Any:
        """Another wording for a memory; its date stays."""

        def change(device: Device) -> Any:
            existing(lambda: device.memory.item(memory_id))
            return asdict(device.memory.edit(memory_id, body.text))

        return await session.run(change)

    @router.delete("/memories/{memory_id}", tags=["memories"], response_model=ReceiptOut)
    async def forget_one(memory_id: RecordId) -> Any:
        """Forgets a memory and everything derived from it, for good."""
        from edge_runtime.forgetting import forget

        def remove(device: Device) -> Any:
            existing(lambda: device.memory.item(memory_id))
            return forget(device, [memory_id])[0].to_dict()

        return await session.forget(remove)

    @router.delete("/memories", tags=["memories"], response_model=ReceiptOut)
    async def forget_all(
        everything: Annotated[bool, Query(description="true: all memories and all that was learnt from them.")],
    ) -> Any:
        """Forgets everything, for good. Keys, settings and the ledger stay."""
        from edge_runtime.forgetting import forget_everything

        if not everything:
            raise ApiError(400, "invalid_request", "Say everything=true, or name a memory in the path.")
        return await session.forget(lambda device: forget_everything(device).to_dict())

    @router.get("/ledger", tags=["ledger"], response_model=LedgerOut)
    async def ledger() -> Any:
        """Everything that ever left this device, and the privacy it cost in all."""

        def read(device: Device) -> dict[str, Any]:
            entries, allowed = ledger_entries(device.vault), device.settings
            epsilon = composed_epsilon([str(entry.pop("event")) for entry in entries], allowed.delta)
            return {
                "entries": entries,
                "epsilon": epsilon if math.isfinite(epsilon) else None,
                "settings": asdict(allowed),
            }

        return await session.run(read)

    def versions(device: Device) -> dict[str, Any]:
        return {"adapters": [asdict(one) for one in device.adapters.versions()]}

    @router.get("/adapters", tags=["adapters"], response_model=AdapterList)
    async def adapters() -> Any:
        """The versions of the device's own adapter, and which one is live."""
        return await session.run(versions)

    @router.post("/adapters/{adapter_id}/use", tags=["adapters"], response_model=AdapterList)
    async def use(adapter_id: RecordId) -> Any:
        """Makes a version live (again); the next answer uses it."""

        def change(device: Device) -> dict[str, Any]:
            existing(lambda: device.adapters.use(adapter_id))
            return versions(device)

        return await session.run(change)

    @router.post("/adapters/off", tags=["adapters"], response_model=AdapterList)
    async def off() -> Any:
        """Answers without any adapter from now on."""

        def change(device: Device) -> dict[str, Any]:
            device.adapters.use(None)
            return versions(device)

        return await session.run(change)

    return router
