"""One thread that does everything that touches the device or the model.

A SQLCipher connection belongs to the thread that made it, and an engine serves one thread at a time: so requests
hand their work over and wait in the event loop. Two kinds of work:

- in turn: answers (a stream of pieces) and whatever must not run in the middle of one, first come, first served;
- between pieces: short reads and writes. They run before anything that waits for its turn, and while an answer is
  generated, between two of its pieces, so that a long answer holds nobody up.

After `idle_after` seconds without work the worker does `idle` once. New work interrupts it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from edge_runtime.api.errors import ApiError, BusyError

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Stream(Generic[T]):
    """What the worker yields for one reader in an event loop: an asynchronous iterator that raises what the work
    raised. The worker never waits for a slow reader."""

    def __init__(self, worker: Worker, begin: Callable[[], Iterator[T]]) -> None:
        self._worker, self.begin = worker, begin
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[tuple[T | None, BaseException | None, bool]] = asyncio.Queue()
        self.cancelled = False

    def cancel(self) -> None:
        """The reader has gone: the work stops at once. Harmless when it has ended."""
        self._worker.cancel(self)

    def put(self, piece: T | None = None, *, error: BaseException | None = None, last: bool = False) -> None:
        """Hands a piece, an error or the end to the reader (called by the worker)."""
        try:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (piece, error, last))
        except RuntimeError:  # the loop is closed: nobody reads
            self.cancelled = True

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        piece, error, last = await self._pieces.get()
        if error is not None:
            raise error
        if last:
            raise StopAsyncIteration
        return piece  # type: ignore[return-value]  # None only with an error or at the end


class Worker:
    """The thread. `interrupt` makes a running decode stop (`Engine.abort`); `waiting` bounds what waits its turn."""

    def __init__(
        self,
        *,
        interrupt: Callable[[], None],
        idle: Callable[[], None],
        idle_after: float,
        waiting: int,
    ) -> None:
        self._interrupt, self._idle, self._idle_after, self._waiting = interrupt, idle, idle_after, waiting
        self._changed = threading.Condition()
        self._between: deque[Callable[[], None]] = deque()
        self._in_turn: deque[Callable[[], None] | Stream[Any]] = deque()
        self._current: Stream[Any] | None = None
        self._idling = self._stopping = False
        self._thread = threading.Thread(target=self._work, name="penchant-worker", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Does something short, between two pieces of an answer if one is being generated."""
        return self._add(work, self._between)

    def call_in_turn(self, work: Callable[[], T]) -> Future[T]:
        """Does something when all answers before it are complete."""
        return self._add(work, self._in_turn)

    def stream(self, begin: Callable[[], Iterator[T]]) -> Stream[T]:
        """Runs an iterator in its turn; `BusyError` if too much waits already. Called in an event loop."""
        stream = Stream(self, begin)
        with self._changed:
            self._check_open()
            if len(self._in_turn) >= self._waiting:
                raise BusyError("Too many answers are waiting for the model; try again when one is complete.")
            self._in_turn.append(stream)
            self._wake()
        return stream

    def cancel(self, stream: Stream[Any]) -> None:
        """Stops a stream, whether it waits, runs, or has ended."""
        with self._changed:
            stream.cancelled = True
            if stream in self._in_turn:
                self._in_turn.remove(stream)
                stream.put(last=True)
            elif self._current is stream:
                self._interrupt()

    def cancel_streams(self, error: BaseException) -> None:
        """Stops every stream; their readers get `error`."""
        with self._changed:
            streams = [job for job in (*self._in_turn, self._current) if isinstance(job, Stream)]
        for stream in streams:
            stream.put(error=error)
            self.cancel(stream)

    @property
    def running(self) -> bool:
        """Whether work is taken."""
        return not self._stopping

    def stop(self) -> None:
        """Ends the thread; what is queued is not done."""
        with self._changed:
            self._stopping = True
        self.cancel_streams(_closing())
        with self._changed:
            self._wake()
        self._thread.join()

    # ---- inside

    def _add(self, work: Callable[[], T], queue: deque[Any]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)

        with self._changed:
            self._check_open()
            queue.append(run)
            self._wake()
        return future

    def _check_open(self) -> None:
        if self._stopping:
            raise _closing()

    def _wake(self) -> None:
        if self._idling:
            self._interrupt()
        self._changed.notify()

    def _work(self) -> None:
        rested = False
        while True:
            with self._changed:
                has_work = self._changed.wait_for(self._has_work, None if rested else self._idle_after)
                if self._stopping:
                    return
                self._idling = not has_work
                job = self._next() if has_work else None
            rested = job is None
            if job is None:
                self._rest()
            elif isinstance(job, Stream):
                self._run(job)
            else:
                job()

    def _has_work(self) -> bool:
        return bool(self._stopping or self._between or self._in_turn)

    def _next(self) -> Callable[[], None] | Stream[Any]:
        if self._between:
            return self._between.popleft()
        job = self._in_turn.popleft()
        self._current = job if isinstance(job, Stream) else None
        return job

    def _run(self, stream: Stream[Any]) -> None:
        failure: BaseException | None = None
        try:
            pieces = stream.begin()
            try:
                for piece in pieces:
                    if stream.cancelled:
                        break
                    stream.put(piece)
                    self._run_between()
            finally:
                if isinstance(pieces, Generator):
                    pieces.close()
        except BaseException as error:
            failure = error
        with self._changed:  # first: whoever cancels a stream whose end it knows must not interrupt the next
            self._current = None
        stream.put(error=failure, last=True)

    def _run_between(self) -> None:
        while True:
            with self._changed:
                if not self._between:
                    return
                job = self._between.popleft()
            job()

    def _rest(self) -> None:
        try:
            self._idle()
        except Exception as error:  # interrupted, or it will fail again: the next pause tries once more
            _log.info("idle work stopped: %s", type(error).__name__)
        finally:
            with self._changed:
                self._idling = False


def _closing() -> ApiError:
    return ApiError(503, "closing", "The server is stopping.")
