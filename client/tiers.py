"""The tiers of a person's adapter: what the fleet shares, the person's mix of its bases, and their own training on top.

    delta W = delta W_shared + sum_k w_k delta W_k  (the fleet's frame, 'lower tier')  +  delta W_personal

(two tiers that never mix on the wire, as in Zhu et al. 2024, "Lifelong personalized low-rank adaptation of large
language models for recommendation": only the shared tier's changes ever leave a device). The lower tier is frozen
while the personal one trains, in one of two ways:

- *one frame*: the personal frame contains the fleet's (same public gradient, more layers or a higher rank), and the
  lower tier is the start of the personal coordinate (``protocol.frames.carry``): nothing is added, at training or at
  answering;
- *stacked*: another frame, or ordinary LoRA. The lower tier's factors act beside the personal ones
  (``on_lower_tier``), and the adapter that serves holds both, A's rows and B's columns one after the other.

Both equal the sum of the three up to rounding; the first is taken where hardly anything of the lower tier is lost.

For private training the start must be public (``client/dp_sgd.py``). The shared adapter and the bases are: releases of
the fleet, noised. The weights ``w`` are not: they were fitted to the very texts that the promise is about, without
noise. So a private run starts from the shared adapter alone, ``lower_tier(bank, None)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from client.artefacts import Artefacts
from client.lora_layout import AdapterSpace, LoraLayout
from client.personal_lora import as_tensors, installed
from client.torch_model import TorchModel
from client.training_run import Work
from edge_runtime.adapters.adapter_file import Factors, mix_adapters
from edge_runtime.store.vault import Vault
from protocol.bank import Bank
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.fleet_trust import ReleaseStatement
from protocol.frames import Frame, Vector, carry

# Kept fraction of the lower tier's norm above which it moves into the personal frame: sqrt(1 - 0.999^2), 4 % of it, is
# then lost at most, and trained on from there.
NESTED: Final = 0.999


@dataclass(frozen=True)
class Footing:
    """What a personal training stands on: ``start`` (d,) in the personal space, and the factors ``beside`` it (none
    where the lower tier is part of ``start``). ``kept`` is the fraction of the lower tier's norm that the personal
    frame can hold."""

    start: Vector
    beside: Factors
    kept: float


def lower_tier(bank: Bank, weights: Vector | None) -> Vector:
    """shared + w @ directions (d,) in the fleet's frame; weights None: the shared adapter alone, which is public."""
    if bank.space != "adapter":
        raise PenchantError("these bases are of rewards, not of adapters; fetch the fleet's adapter bases")
    if weights is not None and weights.shape != (bank.count,):
        raise PenchantError(f"a bank of {bank.count} bases takes as many weights, got {weights.shape}")
    return bank.shared.copy() if weights is None else bank.shared + weights @ bank.directions


def fleet_tier(vault: Vault, base_sha256: str) -> tuple[Frame, Vector] | None:
    """The fleet's frame and the shared adapter (d,) in it that this device was sent last for a model, both public; None
    if it was sent none. Raises PenchantError if one was altered since."""
    Artefacts(vault)  # makes their table where there is none yet
    rows = vault.connection.execute(
        "SELECT sha256, statement, data FROM fleet_artefacts WHERE name = 'shared' ORDER BY rowid DESC"
    )
    for sha256, stated, data in rows:
        statement = ReleaseStatement.from_bytes(bytes(stated))
        found = vault.connection.execute(
            "SELECT data FROM fleet_artefacts WHERE sha256 = ?", (statement.frame_sha256,)
        ).fetchone()
        if statement.base_sha256 != base_sha256 or found is None:
            continue
        held = {sha256: bytes(data), statement.frame_sha256: bytes(found[0])}
        if any(hashlib.sha256(content).hexdigest() != name for name, content in held.items()):
            raise PenchantError("the fleet's shared adapter was altered on this device: join the fleet anew")
        frame = Frame.from_bytes(bytes(found[0]))
        shared = Coordinates.from_bytes(bytes(data), frame_sha256=frame.digest, dimension=frame.dimension)
        return frame, shared.rows[0]
    return None


def bare_footing(personal: AdapterSpace, *, seed: int = 0) -> Footing:
    """Where personal training starts with nothing below it. ``seed`` draws the start of ordinary LoRA."""
    start = personal.start(seed) if isinstance(personal, LoraLayout) else np.zeros(personal.dimension)
    return Footing(start, {}, 1.0)


def footing(fleet: Frame, lower: Vector, personal: AdapterSpace, *, seed: int = 0) -> Footing:
    """Where personal training in ``personal`` starts on a lower tier (d_fleet,) of the frame ``fleet``. ``seed`` draws
    the start of ordinary LoRA."""
    beside = fleet.lora_factors(lower) if lower.any() else {}
    if isinstance(personal, LoraLayout):
        return replace(bare_footing(personal, seed=seed), beside=beside, kept=0.0 if beside else 1.0)
    start, kept = carry(lower, fleet, personal)
    if kept >= NESTED:
        return Footing(start, {}, kept)
    return Footing(np.zeros(personal.dimension), beside, kept)


def combined(personal: AdapterSpace, theta: Vector, beside: Factors) -> tuple[Factors, float]:
    """All tiers as one adapter: its factors and the alpha to write it with."""
    own = personal.lora_factors(theta)
    if not beside:
        return own, float(personal.rank)
    return mix_adapters([(beside, 1.0), (own, 1.0)]), 0.0


@contextmanager
def on_lower_tier(model: TorchModel, beside: Factors) -> Iterator[None]:
    """The factors of the lower tier, frozen, in place while the context lasts."""
    with installed(model, as_tensors(beside)):
        yield


class TieredWork:
    """Any ``training_run.Work`` of a model whose lower tier is stacked: the same, with that tier in place."""

    def __init__(self, model: TorchModel, beside: Factors, work: Work) -> None:
        self._model, self._beside, self._work = model, beside, work
        self.steps, self.learning_rate, self.patience = work.steps, work.learning_rate, work.patience

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``."""
        with on_lower_tier(self._model, self._beside):
            return self._work.gradient(theta, seed, step, rows)

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``."""
        with on_lower_tier(self._model, self._beside):
            return self._work.check(theta, step)
