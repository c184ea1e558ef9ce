"""The one thread behind the API: order, streams, cancelling, resting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge_runtime.api.errors import ApiError, BusyError
from edge_runtime.api.worker import Worker
from tests.edge_runtime.api.api_helpers import wait_until


class Bench:
    """A worker with everything it calls recorded."""

    def __init__(self, idle_after: float = 600.0, idle: Callable[[], None] | None = None) -> None:
        self.interrupts, self.rests = 0, 0
        self._then = idle
        self.worker = Worker(interrupt=self.interrupt, idle=self.idle, idle_after=idle_after, waiting=2)

    def interrupt(self) -> None:
        self.interrupts += 1

    def idle(self) -> None:
        self.rests += 1
        if self._then is not None:
            self._then()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.worker.stop()


def test_all_work_is_done_on_one_thread_and_errors_come_back(bench: Bench) -> None:
    idents = {bench.worker.call(threading.get_ident).result() for _ in range(5)}
    idents.add(bench.worker.call_in_turn(threading.get_ident).result())
    assert len(idents) == 1 and threading.get_ident() not in idents
    with pytest.raises(ZeroDivisionError):
        bench.worker.call(lambda: 1 // 0).result()
    assert bench.worker.call(lambda: 7).result() == 7


def test_short_work_runs_between_two_pieces_and_other_work_waits_its_turn(bench: Bench) -> None:
    order: list[str] = []
    waits = threading.Event()

    def pieces() -> Iterator[str]:
        yield "a"
        waits.wait()
        yield "b"
        order.append("end")

    async def scenario() -> None:
        stream = bench.worker.stream(pieces)
        assert await anext(stream) == "a"
        later = bench.worker.call_in_turn(lambda: order.append("in turn"))
        soon = bench.worker.call(lambda: order.append("between"))
        waits.set()
        assert [piece async for piece in stream] == ["b"]
        await asyncio.wrap_future(soon)
        await asyncio.wrap_future(later)

    asyncio.run(scenario())
    assert order == ["between", "end", "in turn"]


def test_an_error_in_a_stream_reaches_its_reader(bench: Bench) -> None:
    def pieces() -> Iterator[str]:
        yield "a"
        raise KeyError("x")

    async def scenario() -> None:
        stream = bench.worker.stream(pieces)
        assert await anext(stream) == "a"
        with pytest.raises(KeyError):
            await anext(stream)

    asyncio.run(scenario())


def test_a_cancelled_stream_is_interrupted_and_closed(bench: Bench) -> None:
    closed = threading.Event()
    go = threading.Event()

    def pieces() -> Iterator[str]:
        try:
            yield "a"
            go.wait()
            yield "b"
            yield "c"
        finally:
            closed.set()

    async def scenario() -> None:
        running = bench.worker.stream(pieces)
        waiting = bench.worker.stream(pieces)
        assert await anext(running) == "a"
        waiting.cancel()
        assert bench.interrupts == 0  # another's decode is left alone
        assert [piece async for piece in waiting] == []
        running.cancel()
        assert bench.interrupts == 1
        go.set()
        assert [piece async for piece in running] == []
        running.cancel()
        assert bench.interrupts == 1  # it has ended: nothing to interrupt

    asyncio.run(scenario())
    assert closed.is_set()


def test_too_much_waiting_is_refused(bench: Bench) -> None:
    go = threading.Event()

    def pieces() -> Iterator[str]:
        yield "a"
        go.wait()

    async def scenario() -> None:
        first = bench.worker.stream(pieces)
        await anext(first)
        bench.worker.stream(pieces)
        bench.worker.stream(pieces)
        with pytest.raises(BusyError):
            bench.worker.stream(pieces)
        bench.worker.cancel_streams(ApiError(423, "locked", "locked"))
        go.set()
        with pytest.raises(ApiError, match="locked"):
            await anext(first)

    asyncio.run(scenario())


def test_it_rests_once_per_quiet_time_and_work_interrupts_it() -> None:
    resting, go = threading.Event(), threading.Event()

    def rest() -> None:
        resting.set()
        go.wait()
        raise ValueError("interrupted")

    bench = Bench(idle_after=0.01, idle=rest)
    try:
        assert resting.wait(10)
        work = bench.worker.call(lambda: 1)
        assert bench.interrupts == 1 and bench.rests == 1
        go.set()
        assert work.result() == 1  # a failed rest ends nothing
        wait_until(lambda: bench.rests == 2)  # quiet again
    finally:
        go.set()
        bench.worker.stop()


def test_a_stopped_worker_takes_nothing(bench: Bench) -> None:
    bench.worker.stop()
    assert not bench.worker.running
    with pytest.raises(ApiError, match="stopping"):
        bench.worker.call(lambda: 1)


def test_a_reader_whose_loop_is_gone_stops_the_work(bench: Bench) -> None:
    go = threading.Event()
    seen: list[Any] = []

    def pieces() -> Iterator[int]:
        go.wait()
        for number in range(1000):
            seen.append(number)
            yield number

    async def scenario() -> None:
        bench.worker.stream(pieces)

    asyncio.run(scenario())
    go.set()
    bench.worker.call_in_turn(lambda: None).result()
    assert len(seen) <= 2
