"""Moving a person's adapter to an evolved base model, without their having to train again (PortLLM, arXiv 2410.10870).

The base goes from W to W'; the adapter's change `B A` stays as it is and its file names the new base. Whether that is
good enough is not believed but judged, on the files that serve and with what memory adds to the prompt, by the same
test as a training's (``personal_gate.decide``, one-sided at 90 %). It must hold that

    loss(new + adapter)  <  loss(new)                          surely: it helps the new model
    loss(new + adapter)  <= loss(old + adapter) + margin       surely: nothing much was lost on the way

with ``margin`` the tolerance, or ``LOST_SHARE`` of what the adapter surely spares the new model if that is more: of an
adapter worth half a nat 0.02 nats are noise.

The first is asked of the newest texts, which the adapter never saw. So is the second of an adapter that was trained on;
of an adapter that moved as it is, the second is asked of the texts that it learnt as well: the same adapter saw them on
both sides, and on the old base it fits them best, so they err against the move. With them there are four times as many,
without which few moves could be shown to lose nothing.

If it does not hold, the adapter is trained on for a few steps (``warm_start``) and judged again; if that does not help,
it is dropped: the old adapter stays live on the old base, and the new base answers alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from client.device_profile import MINIMUM_TEXTS
from client.examples import Example
from client.personal_gate import SCORING_CONTEXT, TokenLosses, decide, held_out_texts, token_losses
from client.personal_plan import HELD_OUT_TEXTS, objective_of, own_texts, units_for
from client.training_ledger import TrainingLedger
from client.warm_start import rebased, warm_retrained
from edge_runtime.adapters.adapter_file import read_adapter
from edge_runtime.adapters.lineage import Lineage, check_lineage
from edge_runtime.adapters.log import AdapterVersion
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile
from protocol.errors import PenchantError

TOLERANCE: Final = 0.02  # nats per token that a move may always cost
LOST_SHARE: Final = 0.1  # of a sure gain that it may cost
LEARNT_TEXTS: Final = 20  # of each kind, the newest: of what the adapter learnt, to judge what was lost

# Losses of some texts, token by token, under a model and an adapter (None: the model alone).
Losses = Callable[[ModelFile, bytes | None], TokenLosses]
# Trains an adapter of the new base on, from where it stands; the bytes of the result.
Retrain = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Judgement:
    """A candidate on the new base against the new base alone and against the adapter on the old one.

    Losses are nats per token, weighted means over the ``texts``. ``gain`` is what the candidate spares the new base,
    ``kept`` what it spares the old adapter (below zero: it is worse, by ``margin`` at most) on ``kept_texts``, each
    with the lower end of its interval.
    """

    texts: int
    kept_texts: int
    new_base: float
    old_adapter: float
    candidate: float
    gain: float
    gain_low: float
    kept: float
    kept_low: float
    margin: float

    @property
    def passed(self) -> bool:
        """Whether both conditions surely hold."""
        return self.gain_low > 0 and self.kept_low >= -self.margin

    @property
    def reason(self) -> str:
        """Why it passed or not, in one line."""
        if self.gain_low <= 0:
            return f"it does not surely help the new model (gain {self.gain:.3f}, at least {self.gain_low:.3f})"
        if self.kept_low < -self.margin:
            return (
                f"your texts may be predicted worse than before by more than {self.margin:.3f} (change "
                f"{self.kept:+.3f}, at least {self.kept_low:+.3f})"
            )
        return f"it helps the new model (gain {self.gain:.3f}, at least {self.gain_low:.3f}) and loses little"


@dataclass(frozen=True)
class Move:
    """What became of an adapter: ``data`` is its file for the new base, None if it was dropped. ``judgements``: of the
    adapter as it was, then (if that failed) of the retrained one. Seconds of each part, retraining 0 if there was none.
    """

    outcome: Literal["moved", "retrained", "dropped"]
    data: bytes | None
    lineage: Lineage
    judgements: tuple[Judgement, ...]
    lineage_seconds: float
    judging_seconds: float
    retraining_seconds: float


def move_adapter(
    data: bytes,
    old: ModelFile,
    new: ModelFile,
    *,
    losses: Losses,
    learnt: Losses = lambda model, adapter: (),
    retrain: Retrain | None,
    created: str,
    tolerance: float = TOLERANCE,
) -> Move:
    """Move an adapter (its file's bytes) from ``old`` to ``new``; ``retrain`` None: it passes as it is or is dropped.

    ``losses`` are of texts that the adapter never saw, ``learnt`` of some that it was trained on.

    Raises PenchantError if ``new`` does not descend from ``old``.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise PenchantError("the tolerance of a move must be a number of nats per token, 0 or more")
    started = time.perf_counter()
    lineage = check_lineage(old, new, read_adapter(data))
    moved = rebased(data, new, created=created)
    checked = time.perf_counter()
    alone, before = losses(new, None), losses(old, data)
    judgements = [judge(alone, before, losses(new, moved), tolerance, (learnt(old, data), learnt(new, moved)))]
    judging, retraining = time.perf_counter() - checked, 0.0
    outcome: Literal["moved", "retrained", "dropped"] = "moved" if judgements[0].passed else "dropped"
    if outcome == "dropped" and retrain is not None:
        begun = time.perf_counter()
        moved = retrain(moved)
        trained = time.perf_counter()
        judgements.append(judge(alone, before, losses(new, moved), tolerance))
        retraining, judging = trained - begun, judging + time.perf_counter() - trained
        if judgements[1].passed:
            outcome = "retrained"
    return Move(
        outcome,
        None if outcome == "dropped" else moved,
        lineage,
        tuple(judgements),
        checked - started,
        judging,
        retraining,
    )


def move_on_device(
    device: Device, old: ModelFile, new: ModelFile, *, created: str, tolerance: float = TOLERANCE, retrain: bool = True
) -> tuple[Move, AdapterVersion | None]:
    """Move the device's live adapter, judged on the newest quarter of its messages and choices and retrained on the
    others; what passed is live afterwards. PenchantError if there is no live adapter or too few texts.

    A private adapter is retrained with whole conversations as units, whatever its file was promised for: noise that
    hides a conversation hides each of its texts, so either promise holds.
    """
    live = device.adapters.live()
    if live is None:
        raise PenchantError("no adapter is live on this device: `penchant train` makes one")
    version, data = live
    texts = own_texts(device)
    if len(texts) < MINIMUM_TEXTS:
        raise PenchantError(
            f"there are {len(texts)} texts to judge and retrain by, at least {MINIMUM_TEXTS} are needed"
        )
    older, newest = texts.split(4, HELD_OUT_TEXTS)
    recent = older.split(1, LEARNT_TEXTS)[1]
    with Engine.open(old, context_tokens=SCORING_CONTEXT) as engine:
        held_out, learnt = (
            [
                text.served
                for text in held_out_texts(engine, device, part.messages, part.choices)
                if text.task in version.serves
            ]
            for part in (newest, recent)
        )
        if not held_out:
            raise PenchantError(f"no text is held out of what the adapter serves ({', '.join(version.serves)})")
        private = version.epsilon is not None
        objective = objective_of(engine, older, private=private)
    ledger = TrainingLedger(device.vault)

    def warm(moved: bytes) -> bytes:
        texts, units = objective.examples, units_for(older, "conversation") if private else None
        return warm_retrained(moved, new, texts, ledger=ledger, units=units, max_tokens=objective.max_tokens)

    result = move_adapter(
        data,
        old,
        new,
        losses=losses_of(held_out),
        learnt=losses_of(learnt),
        retrain=warm if retrain else None,
        created=created,
        tolerance=tolerance,
    )
    if result.data is None:
        return result, None
    with device.vault.transaction():  # a forget meanwhile took the adapter: what came of it must not stay
        if not device.adapters.version(version.id).held:
            raise PenchantError("something was forgotten while the adapter moved, so nothing of it is kept")
        note = f"adapter {version.id} {result.outcome} from base {old.sha256[:12]} to {new.sha256[:12]}"
        return result, device.adapters.install(result.data, note=note, serves=version.serves)


def judge(
    new_base: TokenLosses,
    old_adapter: TokenLosses,
    candidate: TokenLosses,
    tolerance: float,
    learnt: tuple[TokenLosses, TokenLosses] = ((), ()),
) -> Judgement:
    """Compare losses of the same texts in the same order; see the top of this file. ``learnt``: those of the old
    adapter and of the candidate on what the adapter was trained on."""
    helps = decide(new_base, candidate)
    margin = max(tolerance, LOST_SHARE * helps.gain_low)
    keeps = decide([*old_adapter, *learnt[0]], [*candidate, *learnt[1]], margin=margin)
    return Judgement(
        texts=helps.texts,
        kept_texts=keeps.texts,
        new_base=helps.before,
        old_adapter=decide(old_adapter, candidate).before,
        candidate=helps.after,
        gain=helps.gain,
        gain_low=helps.gain_low,
        kept=keeps.gain,
        kept_low=keeps.gain_low,
        margin=margin,
    )


def losses_of(texts: Sequence[Example]) -> Losses:
    """The losses of these texts on the files that serve."""

    def losses(model: ModelFile, adapter: bytes | None) -> TokenLosses:
        with Engine.open(model, context_tokens=SCORING_CONTEXT) as engine:
            return token_losses(engine, texts, adapter)

    return losses
