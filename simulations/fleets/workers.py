"""Blocks of people on several processors: processes with one thread each, results in the order of the blocks.

Every process gets the learner once; the tensors in it (a model's weights) are shared memory, not copies. At most two
blocks per process are under way, so results that wait for an earlier one do not pile up. One worker is this process,
held to one thread too: sums of floating-point numbers depend on the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

import torch
import torch.multiprocessing

from protocol.errors import PenchantError
from protocol.frames import Vector
from simulations.fleets.blocks import BlockSum, Learner, People

_BLOCKS_PER_WORKER = 2


class Workers:
    """``count`` processes for one learner; a context manager."""

    def __init__(self, learner: Learner, count: int) -> None:
        if count < 1:
            raise PenchantError("a fleet needs at least one worker")
        self._learner, self._count = learner, count
        self._pool: ProcessPoolExecutor | None = None
        self._threads = 0

    def __enter__(self) -> Workers:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        if self._count > 1:
            self._pool = ProcessPoolExecutor(
                self._count, torch.multiprocessing.get_context("spawn"), _begin, (self._learner,)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._threads)
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def sums(self, blocks: Sequence[People], theta: Vector, clip_norm: float) -> Iterator[BlockSum]:
        """Of each block, in their order."""
        if self._pool is None:
            for block in blocks:
                yield self._learner.clipped_sum(block, theta, clip_norm)
            return
        waiting: deque[Future[BlockSum]] = deque()
        try:
            for block in blocks:
                waiting.append(self._pool.submit(_work, block, theta, clip_norm))
                if len(waiting) >= _BLOCKS_PER_WORKER * self._count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise PenchantError(
                "a worker process ended early, out of memory perhaps: use fewer workers; the run goes on where it was"
            ) from None


_learner: Learner | None = None


def _begin(learner: Learner) -> None:
    global _learner
    torch.set_num_threads(1)
    _learner = learner


def _work(people: People, theta: Vector, clip_norm: float) -> BlockSum:
    if _learner is None:
        raise PenchantError("a worker has no learner")
    return _learner.clipped_sum(people, theta, clip_norm)
