"""A temporary adapter for one long document or session (Temp-LoRA: Wang, Ma and Cai 2024, arXiv 2401.11504).

While a text is read, chunk by chunk, an adapter is trained on what was read: after each chunk ``passes`` steps of Adam
on the negative log-likelihood of the chunk's tokens, each given what stands before it (the ``overlap`` tokens before it
are context, no targets). What follows is then read, or answered, with the adapter in place. Adam's moments go on
from chunk to chunk: it is one training on a stream.

Adapters are coordinates (d,) in the frame of the device's own ones (the paper's are ordinary LoRA), so a temporary
adapter can begin at the personal one (``start``) and stands in for it; otherwise it begins at nothing and is added to
whatever is in use.

It is thrown away: its coordinates and the file's bytes are in memory only, neither the device's file nor the log of
adapters nor the account of trainings hears of it, and when the block ends, however it ends, llama.cpp has unloaded it
and overwritten the texts that it had evaluated. The one thing that could keep a trace is a state on disk of a prefix
that the adapter has read: use no ``Engine.save_prefix`` inside the block.

Bounds: memory by one chunk (hidden states and a few rows of the vocabulary for ``overlap + chunk`` tokens), time by
``most_tokens``: of a longer text its last ones are read. ``wants_stop`` is asked before each chunk; what was read until
then counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise

import numpy as np

from client.training import Trainer
from client.training_run import RunPlan, TrainingState, advance, new_state
from client.training_work import TextSettings, TextWork
from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.engine.adapter_loading import Adapter
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import read_model_shape
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector


@dataclass(frozen=True)
class TemporarySettings:
    """``chunk`` tokens are learnt at a time, after ``overlap`` tokens of context, in ``passes`` steps; of a text at
    most the last ``most_tokens``. ``simulations.studies.temporary`` measures what they are worth."""

    chunk: int = 192
    overlap: int = 64
    passes: int = 2
    learning_rate: float = 0.02
    most_tokens: int = 8192

    def __post_init__(self) -> None:
        if min(self.chunk, self.passes, self.most_tokens) < 1 or self.overlap < 0:
            raise PenchantError("a temporary adapter needs chunks of at least one token and at least one pass")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise PenchantError("the learning rate of a temporary adapter must be a positive number")


class TemporaryAdapter:
    """What was read so far: the state of its training and the tokens that the next chunk needs as context.

    ``read_tokens``: how many were learnt; ``loaded``: the adapter as it stands, in the engine and in use (None before
    the first chunk).
    """

    def __init__(
        self,
        trainer: Trainer,
        engine: Engine,
        frame: Frame,
        *,
        start: Vector | None = None,
        settings: TemporarySettings | None = None,
    ) -> None:
        if not frame.base_sha256 == trainer.model.sha256:
            raise PenchantError("the frame belongs to another model than the one that is trained")
        self._trainer, self._engine, self._frame = trainer, engine, frame
        self._settings = settings or TemporarySettings()
        self._before = engine.active_adapters
        self._beside = self._before if start is None else ()
        self._start = np.zeros(frame.dimension) if start is None else np.array(start, dtype=np.float64)
        self._state: TrainingState | None = None
        self._tail: list[int] = []
        self.read_tokens = 0
        self.loaded: Adapter | None = None

    @property
    def theta(self) -> Vector:
        """The coordinates (d,) as they stand."""
        return self._start if self._state is None else self._state.theta

    def read(
        self,
        text: str,
        *,
        on_progress: Callable[[float], None] = lambda fraction: None,
        wants_stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Learn a text that follows on what was read before, and put the adapter in place; the tokens learnt.

        Raises PenchantError if memory does not suffice, or the numbers are no longer finite.
        """
        tokens = self._trainer.engine.tokenise(text, special=False)[-self._settings.most_tokens :]
        return self.read_chunks(chunks_of(tokens, self._settings.chunk), on_progress=on_progress, wants_stop=wants_stop)

    def read_chunks(
        self,
        chunks: Sequence[Sequence[int]],
        *,
        on_progress: Callable[[float], None] = lambda fraction: None,
        wants_stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """As ``read``, for tokens that were cut already."""
        learnt = 0
        for number, chunk in enumerate(chunks):
            if wants_stop():
                break
            learnt += self._learn(list(chunk))
            on_progress((number + 1) / len(chunks))
        self.read_tokens += learnt
        if learnt:
            self._put_in_place()
        return learnt

    def _learn(self, chunk: list[int]) -> int:
        settings, both = self._settings, [*self._tail, *chunk]
        targets = len(both) - max(len(self._tail), 1)  # a text's own first token has no probability
        if targets > 0:
            work = TextWork(
                self._trainer.torch_model,
                self._frame,
                [(both, len(self._tail))],
                [],
                TextSettings(settings.passes, batch_size=1, learning_rate=settings.learning_rate),
                max_tokens=len(both),
            )
            state = self._state or new_state(RunPlan(work, "", "", rows=1), self._start, run=0, seed=0)
            for _ in range(settings.passes):
                state = advance(state, work)
            self._state = state
        self._tail = both[max(0, len(both) - settings.overlap) :]
        return max(targets, 0)

    def _put_in_place(self) -> None:
        model, frame, engine = self._trainer.model, self._frame, self._engine
        shape = read_model_shape(model.path)
        data = write_adapter(
            frame.lora_factors(self.theta),
            alpha=float(frame.rank),
            metadata=AdapterMetadata(model.sha256, frame.digest),
            architecture=shape.architecture,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
        )
        old, self.loaded = self.loaded, engine.load_adapter(data, sha256=sha256(data).hexdigest())
        engine.use_adapters([*self._beside, (self.loaded, 1.0)])
        if old is not None and old is not self.loaded:
            engine.unload_adapter(old)

    def throw_away(self) -> None:
        """Put back what was in use before, unload the adapter, and overwrite what the engine evaluated meanwhile."""
        self._engine.use_adapters(self._before)
        if self.loaded is not None:
            self._engine.unload_adapter(self.loaded)
        self._engine.forget_texts()
        self._state, self._tail, self.loaded = None, [], None


@contextmanager
def temporary_adapter(
    trainer: Trainer,
    engine: Engine,
    text: str,
    *,
    frame: Frame,
    start: Vector | None = None,
    settings: TemporarySettings | None = None,
    on_progress: Callable[[float], None] = lambda fraction: None,
    wants_stop: Callable[[], bool] = lambda: False,
) -> Iterator[TemporaryAdapter]:
    """Read ``text`` (empty: what a session will say), answer inside the block, throw the adapter away at its end.

    ``trainer`` opened with the layers of ``frame``, ``engine`` the one that answers (both on one model file); the value
    of the block can ``read`` on. ``start`` (d,) as at the top of this file.
    """
    temporary = TemporaryAdapter(trainer, engine, frame, start=start, settings=settings)
    try:
        if text:
            temporary.read(text, on_progress=on_progress, wants_stop=wants_stop)
        yield temporary
    finally:
        temporary.throw_away()


def chunks_of(tokens: Sequence[int], size: int) -> list[Sequence[int]]:
    """Consecutive chunks of ``size`` tokens; a last one of less than a quarter joins the one before it."""
    cuts = list(range(0, len(tokens), size))
    if len(cuts) > 1 and len(tokens) - cuts[-1] < size / 4:
        cuts.pop()
    return [tokens[first:end] for first, end in pairwise([*cuts, len(tokens)])]
