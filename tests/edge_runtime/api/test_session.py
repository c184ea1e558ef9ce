"""One device behind the API: opening, locking, unlocking, its model, its adapter, its idle time."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.answering.attributes import ATTRIBUTES
from edge_runtime.api.errors import ApiError, BusyError, LockedError
from edge_runtime.api.limits import Attempts
from edge_runtime.api.session import Session
from edge_runtime.device import Device
from edge_runtime.models.background import BackgroundPolicy
from edge_runtime.models.resources import MIB
from edge_runtime.reward import taste
from protocol.errors import PenchantError
from tests.edge_runtime.api.api_helpers import ScriptedEngine, make_device, new_session, opened_session, wait_until


def test_device_and_engine_live_on_one_thread(session: Session, engine: ScriptedEngine) -> None:
    async def scenario() -> None:
        idents = {await session.run(lambda device: threading.get_ident()) for _ in range(3)}
        stream = session.stream(lambda device, engine: iter([str(threading.get_ident())]))
        idents |= {int(piece) async for piece in stream}
        assert len(idents) == 1 and threading.get_ident() not in idents
        assert await session.run(lambda device: len(device.memory)) == 0

    asyncio.run(scenario())


def test_the_model_is_loaded_for_the_first_question_and_the_status_says_so(tmp_path: Path) -> None:
    loading, go = threading.Event(), threading.Event()
    engine = ScriptedEngine()

    def open_engine() -> Any:
        loading.set()
        go.wait()
        return engine

    async def scenario(session: Session) -> None:
        assert (await session.status())["model"] == {
            "name": "smollm2-135m", "state": "unloaded", "sha256": None, "quantisation": None, "context_tokens": None,
        }  # fmt: skip
        loaded = session.preload()
        await asyncio.to_thread(loading.wait)
        status = await session.status()  # does not wait for the model
        assert status["model"]["state"] == "loading" and status["memories"] == 0
        go.set()
        assert (await asyncio.wrap_future(loaded)).state == "ready"
        status = await session.status()
        assert status["model"]["sha256"] == "ab" * 32 and status["model"]["context_tokens"] == 400
        assert status["locked"] is False and status["has_passphrase"] is False
        assert status["settings"]["share"] is False

    with opened_session(make_device(tmp_path / "home")) as session:
        session._open_engine = open_engine
        asyncio.run(scenario(session))
    assert engine.closed


def test_a_model_that_cannot_be_loaded_is_told_and_tried_again(session: Session) -> None:
    def fails() -> Any:
        raise PenchantError("the model file is truncated: download it again")

    session._open_engine, works = fails, session._open_engine
    with pytest.raises(PenchantError, match="truncated"):
        session.preload().result()
    assert session.model.state == "failed"
    session._open_engine = works
    assert session.preload().result().state == "ready"


def test_locking_closes_device_and_model_and_unlocking_opens_them(tmp_path: Path) -> None:
    home = make_device(tmp_path / "home", passphrase="open sesame")
    engine = ScriptedEngine()

    async def scenario(session: Session) -> None:
        await session.run(lambda device: device.memory.remember("my dog is called Bruno"))
        session.preload().result()
        token = session.token
        await session.lock()
        assert session.locked and engine.closed and session.model.state == "unloaded"
        assert session._device is None and session._engine is None
        status = await session.status()
        assert status["locked"] and status["has_passphrase"] and status["memories"] is status["settings"] is None
        for refused in (session.run(lambda device: 1), session.forget(lambda device: 1)):
            with pytest.raises(LockedError):
                await refused
        with pytest.raises(LockedError):
            session.stream(lambda device, engine: iter(()))
        with pytest.raises(ApiError, match=r"(?i)passphrase") as error:
            await session.unlock("wrong")
        assert error.value.status == 403 and session.locked
        await session.unlock("open sesame")
        assert not session.locked and session.token == token and session.accepts(token)
        assert (await session.status())["memories"] == 1
        await session.unlock("anything")  # it is open: nothing is tried
        await session.lock()
        await session.lock()

    with opened_session(home, engine, passphrase="open sesame") as session:
        asyncio.run(scenario(session))


def test_locking_ends_the_answers(session: Session, engine: ScriptedEngine) -> None:
    engine.hold = True

    async def scenario() -> None:
        def work(device: Device, engine: Any) -> Any:
            return engine.generate(["x"], max_tokens=9, sampling=None)

        running, waiting = session.stream(work), session.stream(work)
        assert await anext(running) == "Your dog"
        await asyncio.to_thread(engine.at_hold.wait)
        await session.lock()
        for stream in (running, waiting):
            with pytest.raises(LockedError):
                await anext(stream)

    asyncio.run(scenario())
    assert session.locked


def test_attempts_at_the_passphrase_are_limited(tmp_path: Path) -> None:
    home = make_device(tmp_path / "home", passphrase="open sesame")
    now = [0.0]
    session = new_session(home, attempts=Attempts(lambda: now[0]))

    async def scenario() -> None:
        for _ in range(4):
            with pytest.raises(ApiError, match=r"(?i)passphrase"):
                await session.unlock("wrong")
        with pytest.raises(BusyError) as refused:
            await session.unlock("open sesame")  # even the right one has to wait
        assert refused.value.retry_after == 1
        now[0] += 2
        await session.unlock("open sesame")
        assert not session.locked

    try:
        asyncio.run(scenario())
    finally:
        session.close()


def test_a_server_that_starts_locked_has_a_token_for_this_run(tmp_path: Path) -> None:
    home = make_device(tmp_path / "home", passphrase="open sesame")
    session = new_session(home)
    try:
        first = session.token
        assert session.locked and session.accepts(first)
        session.start_opening("open sesame").result()
        own = session.token
        assert own != first and session.accepts(own) and session.accepts(first)
    finally:
        session.close()
    with opened_session(home, passphrase="open sesame") as later:
        assert later.token == own and not later.accepts(first)
    with opened_session(home, passphrase="open sesame") as later:
        later.close()
        later.close()


def test_a_new_token_replaces_the_old_one(tmp_path: Path) -> None:
    home = make_device(tmp_path / "home")
    with opened_session(home) as session:
        old = session.token
    session = new_session(home)
    try:
        session.start_opening(new_token=True).result()
        assert session.token != old and not session.accepts(old)
    finally:
        session.close()


def test_forgetting_drops_the_model_with_its_caches(session: Session, engine: ScriptedEngine) -> None:
    session.preload().result()
    assert asyncio.run(session.forget(lambda device: 5)) == 5
    assert engine.closed and session.model.state == "unloaded"


class Adapters:
    """Stands for the log: what is live, and its bytes."""

    def __init__(self) -> None:
        self.now: tuple[Any, bytes] | None = None

    def live(self, task: str) -> tuple[Any, bytes] | None:
        return self.now if task == "answers" else pytest.fail("nothing here writes in the owner's voice")


def test_the_live_adapter_is_used_and_a_change_is_noticed(session: Session, engine: ScriptedEngine) -> None:
    log = Adapters()
    device: Any = SimpleNamespace(adapters=log)

    def active() -> list[str]:
        return [adapter.sha256 for adapter, _ in engine.active_adapters]

    session.use_live_adapter(device, engine, personal=True)  # type: ignore[arg-type]
    assert active() == []
    for digest in ("a", "a", "b"):
        log.now = (SimpleNamespace(sha256=digest), b"...")
        session.use_live_adapter(device, engine, personal=True)  # type: ignore[arg-type]
        assert active() == [digest]
    session.use_live_adapter(device, engine, personal=False)  # type: ignore[arg-type]
    assert active() == []
    session.use_live_adapter(device, engine, personal=True)  # type: ignore[arg-type]
    assert active() == ["b"]
    log.now = None
    session.use_live_adapter(device, engine, personal=True)  # type: ignore[arg-type]
    assert active() == []


def test_in_idle_time_chats_become_memories_and_a_profile(tmp_path: Path) -> None:
    engine = ScriptedEngine(["The user lives in Lisbon."])
    anywhere = BackgroundPolicy(only_on_mains=False, only_idle=False, memory_cap_bytes=64 * MIB)
    home = make_device(tmp_path / "home")
    with opened_session(home, engine, idle_after=0.05, policy=anywhere) as session:
        session.preload().result()

        async def scenario() -> None:
            def chat(device: Device) -> None:
                conversation = device.conversations.new()
                device.conversations.add(conversation, "user", "I moved to Lisbon last year.")
                device.conversations.add(conversation, "assistant", "I like Lisbon, my sister is called Vera.")

            await session.run(chat)
            await asyncio.to_thread(wait_until, lambda: bool(engine.prompts))  # the summary is the last thing done

            def learnt(device: Device) -> tuple[list[str], list[str], bool]:
                texts = [item.text for item in device.memory.items()]
                return texts, [one.value for one in device.profile.attributes()], device.profile.summary() is not None

            texts, values, summarised = await session.run(learnt)
            assert texts == ["I moved to Lisbon last year."] and "Lisbon" in values and summarised

        asyncio.run(scenario())


@pytest.mark.parametrize("allowed", [True, False])
def test_in_idle_time_new_choices_are_read_for_taste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    read: list[str] = []

    def log_ratios(engine: object, request: str, answers: list[str]) -> np.ndarray:
        read.append(request)
        return np.zeros((2, len(ATTRIBUTES)))

    monkeypatch.setattr(taste, "log_ratios", log_ratios)
    cap = (64 if allowed else 1 << 30) * MIB  # what must be free
    policy = BackgroundPolicy(only_on_mains=False, only_idle=False, memory_cap_bytes=cap)
    home = make_device(tmp_path / "home")
    with opened_session(home, idle_after=600.0, policy=policy) as session:
        session.preload().result()

        async def scenario() -> None:
            await session.run(lambda device: device.feedback.add_preference("A tea?", "Green.", "Black."))
            for _ in range(2):  # once is enough
                await session.run(lambda device: session.idle())

        asyncio.run(scenario())
    assert read == (["A tea?"] if allowed else [])


def test_idle_time_on_a_locked_device_does_nothing(session: Session) -> None:
    asyncio.run(session.lock())
    session.idle()
    assert session.locked
