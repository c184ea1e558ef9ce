"""Lifelong training: an adapter that learns in increments and keeps what the first of them taught.

An increment goes on from the coordinates theta_old (d,) of the adapter that is live. Its texts are

    the new ones, which no training has seen,
    the recent window: the newest ``recent`` of those that were trained on, and
    the long window: ``replayed`` of all older ones, one drawn from each of as many spans of equal count, others at
    every increment

(replay as in Rolnick et al. 2019, arXiv 1811.11682; two horizons as in RecLoRA, arXiv 2408.03533), and it descends

    loss(theta) + (strength / 2) |theta - theta_old|^2

(L2-SP, Li et al. 2018, arXiv 1802.01483). The columns of U and the rows of V of a frame are orthonormal, so there
``scale * |theta - theta_old|`` is the distance of the changed weights themselves; in ordinary LoRA it is that of the
factors.

What is kept between increments is a ``LifelongRecord`` per version of the adapter, in the encrypted file under
``LEARNT_PREFIX``: coordinates and the SHA-256 of each text that was learnt, never a text. Replay draws from the texts
that are on the device now. So a forget takes the record with the adapter, the next training starts from nothing with
what stays, and nothing that was forgotten can come back through a window.

Under DP-SGD an increment takes new texts only: then each text is in the noise of one increment, and what it loses to
all of them is what it loses to that one (parallel composition; which text falls into which increment follows from dates
and is public; a conversation whose texts fall into several loses their sum). theta_old was itself released with noise,
so the anchor costs nothing. A private increment never goes on from an adapter that was trained without privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Final, Generic, TypeVar

import cbor2
import numpy as np

from client.lora_layout import AdapterSpace
from client.training_run import Work, generator_of
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.errors import PenchantError
from protocol.frames import Vector

Item = TypeVar("Item")

_VERSION = 3
_DRAW_SEED: Final = 5  # of the long window


@dataclass(frozen=True)
class LifelongSettings:
    """``recent`` and ``replayed``: texts of the two windows; ``strength`` of the anchor (0: none).

    `simulations.studies.lifelong.study --tune` compares some. Ordinary LoRA learns texts that come back by heart and
    gets worse at all others, so the anchor alone is on.
    """

    recent: int = 0
    replayed: int = 0
    strength: float = 0.3

    def __post_init__(self) -> None:
        if self.recent < 0 or self.replayed < 0 or not (math.isfinite(self.strength) and self.strength >= 0):
            raise PenchantError("the windows and the anchor of an increment are numbers of at least 0")


@dataclass(frozen=True)
class LifelongRecord:
    """What the next increment must know of an adapter: its coordinates ``theta`` (d,) in the space ``frame_sha256``,
    the ``increments`` that made it, the names (``name_of``) of the items it ``learnt``, and the most ``epsilon`` that
    one ``unit`` lost (None: trained without privacy)."""

    frame_sha256: str
    theta: Vector
    increments: int
    learnt: frozenset[str]
    epsilon: float | None = None
    unit: str = ""

    def to_bytes(self) -> bytes:
        """Canonical CBOR: coordinates in their number format, little-endian."""
        body = {
            "version": _VERSION,
            "frame": self.frame_sha256,
            "format": self.theta.dtype.str,
            "theta": self.theta.tobytes(),
            "increments": self.increments,
            "learnt": sorted(self.learnt),
            "epsilon": self.epsilon,
            "unit": self.unit,
        }
        return cbor2.dumps(body, canonical=True)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of ``to_bytes``: a training that goes on from this record is bound to it."""
        return sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes) -> LifelongRecord:
        """The inverse of ``to_bytes``. Raises PenchantError on anything else."""
        try:
            body = cbor2.loads(data)
            if body["version"] != _VERSION or body["format"] not in ("<f4", "<f8"):
                raise ValueError
            theta = np.frombuffer(body["theta"], body["format"]).copy()
            epsilon = None if body["epsilon"] is None else float(body["epsilon"])
            learnt = frozenset(str(name) for name in body["learnt"])
            increments, unit = int(body["increments"]), str(body["unit"])
            return LifelongRecord(str(body["frame"]), theta, increments, learnt, epsilon, unit)
        except (cbor2.CBORDecodeError, ValueError, TypeError, KeyError) as error:
            raise PenchantError("what the adapter learnt so far cannot be read: train anew with --fresh") from error


@dataclass(frozen=True)
class Increment(Generic[Item]):
    """The items of one increment, each part in the order of time: ``new`` ones, and the ``old`` ones of both windows.
    ``names`` are those of all of them."""

    number: int
    new: tuple[Item, ...]
    old: tuple[Item, ...]
    names: frozenset[str]

    @property
    def items(self) -> tuple[Item, ...]:
        """All that the increment trains on."""
        return self.old + self.new


def name_of(*texts: str) -> str:
    """The SHA-256 (hex) of an item's words: a message's text, or a choice's question and answer."""
    return sha256(cbor2.dumps(texts)).hexdigest()


def next_increment(
    items: Sequence[Item],
    name: Callable[[Item], str],
    record: LifelongRecord | None,
    settings: LifelongSettings,
    *,
    private: bool = False,
) -> Increment[Item]:
    """What to train on next, given all items of one kind in the order of time. Without a record: all of them.

    Items are texts in any form; ``name`` gives what tells one from another whenever it is asked. What has no name in
    ``record.learnt`` is new, also to the held-out check: an item that was learnt must not judge.
    """
    known = frozenset[str]() if record is None else record.learnt
    names = [name(item) for item in items]
    number = 1 if record is None else record.increments + 1
    new = [place for place, one in enumerate(names) if one not in known]
    old = [] if private else [place for place, one in enumerate(names) if one in known]
    cut = max(0, len(old) - settings.recent)
    old = long_window(old[:cut], settings.replayed, number) + old[cut:]
    return Increment(
        number,
        tuple(items[place] for place in new),
        tuple(items[place] for place in old),
        frozenset(names[place] for place in old + new),
    )


def long_window(older: Sequence[Item], count: int, number: int) -> list[Item]:
    """``count`` of the ``older`` items, one from each of ``count`` spans of equal count in the order of time (all, if
    there are no more). The draw is that of increment ``number``, and the same whenever it is made again."""
    if len(older) <= count or count == 0:
        return list(older) if count else []
    random = generator_of(_DRAW_SEED, number)
    edges = [span * len(older) // count for span in range(count + 1)]
    return [older[int(random.integers(first, end))] for first, end in pairwise(edges)]


class Anchored:
    """A ``Work`` with the anchor's gradient ``strength (theta - theta_old)`` added to its own. As pure as the work:
    a run that was killed goes on to the same bits. The loss of the texts that are kept out stays as it is."""

    def __init__(self, work: Work, anchor: Vector, strength: float) -> None:
        self._work, self._anchor, self._strength = work, anchor, strength
        self.steps, self.learning_rate, self.patience = work.steps, work.learning_rate, work.patience

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``."""
        return self._work.gradient(theta, seed, step, rows) + self._strength * (theta - self._anchor)

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``."""
        return self._work.check(theta, step)


def anchored(work: Work, record: LifelongRecord | None, settings: LifelongSettings) -> Work:
    """The work of an increment that goes on from ``record`` (None: nothing to hold on to)."""
    if record is None or settings.strength == 0:
        return work
    return Anchored(work, record.theta, settings.strength)


def record_after(
    record: LifelongRecord | None,
    number: int,
    names: Collection[str],
    frame: AdapterSpace,
    theta: Vector,
    *,
    epsilon: float | None = None,
    unit: str = "",
) -> LifelongRecord:
    """The record of the adapter ``theta`` (d,) that increment ``number`` made of the items ``names``, on top of
    ``record``. ``epsilon`` is what all increments together cost one ``unit`` (None: without privacy)."""
    learnt = frozenset(names)
    if record is None:
        return LifelongRecord(frame.digest, theta, number, learnt, epsilon, unit)
    most = None if epsilon is None or record.epsilon is None else max(record.epsilon, epsilon)
    return LifelongRecord(frame.digest, theta, number, record.learnt | learnt, most, unit)


def keep_record(vault: Vault, adapter_sha256: str, record: LifelongRecord) -> None:
    """Put the record of an adapter beside it, in the transaction that installs the adapter."""
    vault.put_blob(_blob(adapter_sha256), record.to_bytes())


def record_of(
    vault: Vault, adapter_sha256: str | None, frame: AdapterSpace, *, unit: str = ""
) -> LifelongRecord | None:
    """What the next increment may go on from: the record of the adapter that is live, also after a roll back.

    None (so the increment is the first) if no adapter is live, it was not made in increments, it was forgotten, it lies
    in another frame, or a training that is private for each ``unit`` would build on one that was not private for the
    same. PenchantError if it cannot be read.
    """
    stored = vault.get_blob(_blob(adapter_sha256)) if adapter_sha256 else None
    if stored is None:
        return None
    record = LifelongRecord.from_bytes(stored)
    if record.frame_sha256 != frame.digest or record.theta.shape != (frame.dimension,):
        return None
    return None if unit and (record.epsilon is None or record.unit != unit) else record


def _blob(adapter_sha256: str) -> str:
    return f"{LEARNT_PREFIX}lifelong/{adapter_sha256}"
