"""Moving a person's adapter to an evolved base model, without their having to train again (PortLLM, arXiv 2410.10870).

The base goes from W to W'; the adapter's change `B A` stays as it is and its file names the new base. Whether that is
good enough is not believed but judged, on the newest texts of the person, which the adapter never saw, on the files
that serve. Per text, each against itself, with one-sided 90 % intervals, it must hold that

    loss(new + adapter)  <  loss(new)                          surely: the interval of the gain lies above 0
    loss(new + adapter)  <= loss(old + adapter) + tolerance    surely: nothing was lost on the way

If it does not, the adapter is trained on for a few steps, from where it stands and in its own subspace, and judged
again; if that does not help, it is dropped, and the new base answers alone. The old adapter stays in the log, for the
old base.

The own subspace of `B A` (out x in): with thin QR `B = U S` and `A^T = V^T T`, `B A = U (S T^T) V` is a point of the
frame (U, V), whatever the adapter came from: warm training starts there with d = modules * r * r numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from typing import Final, Literal

import numpy as np

from client.dp_sgd import PrivateSettings, noise_multiplier_for, train_privately
from client.examples import Example, choice_examples, message_examples, prepare_input
from client.local_training import LocalSettings, train_coordinates
from client.personal_training import (
    MAX_TOKENS,
    MAXIMUM_TEXTS,
    MINIMUM_TEXTS,
    SCORING_CONTEXT,
    paired_gain,
    split_newest,
    text_losses,
)
from client.torch_model import TorchModel
from client.training_ledger import TrainingLedger
from edge_runtime.adapters.adapter_file import AdapterFile, AdapterMetadata, read_adapter, write_adapter
from edge_runtime.adapters.lineage import Lineage, check_lineage
from edge_runtime.adapters.log import AdapterVersion
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile, read_model_shape
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector

TOLERANCE: Final = 0.02  # nats per token that a move may cost
WARM_START: Final = LocalSettings(epochs=1, learning_rate=0.02)

# Nats per token of each held-out text under a model and an adapter (None: the model alone).
Losses = Callable[[ModelFile, bytes | None], Sequence[float]]
# Trains an adapter of the new base on, from where it stands; the bytes of the result.
Retrain = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Judgement:
    """A candidate on the new base against the new base alone and against the adapter on the old one.

    Losses are nats per token, means over the ``texts``. ``gain`` is what the candidate spares the new base,
    ``kept`` what it spares the old adapter (below zero: it is worse), each with the lower end of its interval.
    """

    texts: int
    new_base: float
    old_adapter: float
    candidate: float
    gain: float
    gain_low: float
    kept: float
    kept_low: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both conditions surely hold."""
        return self.gain_low > 0 and self.kept_low >= -self.tolerance

    @property
    def reason(self) -> str:
        """Why it passed or not, in one line."""
        if self.gain_low <= 0:
            return f"it does not surely help the new model (gain {self.gain:.3f}, at least {self.gain_low:.3f})"
        if self.kept_low < -self.tolerance:
            return (
                f"your texts may be predicted worse than before by more than {self.tolerance:g} (change "
                f"{self.kept:+.3f}, at least {self.kept_low:+.3f})"
            )
        return f"it helps the new model (gain {self.gain:.3f}, at least {self.gain_low:.3f}) and loses nothing"


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
    retrain: Retrain | None,
    created: str,
    tolerance: float = TOLERANCE,
) -> Move:
    """Move an adapter (its file's bytes) from ``old`` to ``new``; ``retrain`` None: it passes as it is or is dropped.

    Raises PenchantError if ``new`` does not descend from ``old``.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise PenchantError("the tolerance of a move must be a number of nats per token, 0 or more")
    started = time.perf_counter()
    lineage = check_lineage(old, new, read_adapter(data))
    moved = rebased(data, new, created=created)
    checked = time.perf_counter()
    alone, before = losses(new, None), losses(old, data)
    judgements = [judge(alone, before, losses(new, moved), tolerance)]
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
    """
    live = device.adapters.live()
    if live is None:
        raise PenchantError("no adapter is live on this device: `penchant train` makes one")
    version, data = live
    with Engine.open(old, context_tokens=SCORING_CONTEXT) as engine:
        kinds = [read(engine, device, MAXIMUM_TEXTS) for read in (message_examples, choice_examples)]
    if (texts := sum(map(len, kinds))) < MINIMUM_TEXTS:
        raise PenchantError(f"there are {texts} texts to judge and retrain by, at least {MINIMUM_TEXTS} are needed")
    older, newest = zip(*map(split_newest, kinds), strict=True)
    training, held_out = list(chain(*older)), list(chain(*newest))
    ledger = TrainingLedger(device.vault)
    result = move_adapter(
        data,
        old,
        new,
        losses=held_out_losses(held_out),
        retrain=(lambda moved: warm_retrained(moved, new, training, ledger=ledger)) if retrain else None,
        created=created,
        tolerance=tolerance,
    )
    if result.data is None:
        return result, None
    with device.vault.transaction():  # a forget meanwhile took the adapter: what came of it must not stay
        if not device.adapters.version(version.id).held:
            raise PenchantError("something was forgotten while the adapter moved, so nothing of it is kept")
        note = f"adapter {version.id} {result.outcome} from base {old.sha256[:12]} to {new.sha256[:12]}"
        return result, device.adapters.install(result.data, note=note)


def judge(
    new_base: Sequence[float], old_adapter: Sequence[float], candidate: Sequence[float], tolerance: float
) -> Judgement:
    """Compare losses of the same texts in the same order; see the top of this file."""
    gain, kept = paired_gain(new_base, candidate), paired_gain(old_adapter, candidate)
    return Judgement(
        len(candidate),
        float(np.mean(new_base)),
        float(np.mean(old_adapter)),
        float(np.mean(candidate)),
        *gain,
        *kept,
        tolerance,
    )


def rebased(data: bytes, new: ModelFile, *, created: str) -> bytes:
    """The same adapter, of the base ``new``; its parent is the file that it was. What was spent on privacy stays."""
    adapter = read_adapter(data)
    metadata = replace(
        adapter.metadata, base_sha256=new.sha256, parent_sha256=sha256(data).hexdigest(), created=created
    )
    return _file_of(adapter, new, metadata)


def own_subspace(adapter: AdapterFile) -> tuple[Frame, Vector]:
    """The frame that an adapter spans and its coordinates (d,) there: the same change of weights, to float32.

    Modules of a lower rank than the highest are filled up with zeros, which stay zero in training.
    """
    rank = max(left.shape[0] for left, _ in adapter.factors.values())
    lefts, rights, points = [], [], []
    for left, right in adapter.factors.values():
        scale = adapter.alpha / left.shape[0] if adapter.alpha else 1.0
        u, s = np.linalg.qr(scale * right.astype(np.float64))
        v, t = np.linalg.qr(left.astype(np.float64).T)
        point = s @ t.T
        points.append(np.pad(point, [(0, rank - size) for size in point.shape]))
        lefts.append(np.pad(u, ((0, 0), (0, rank - u.shape[1]))).astype(np.float32))
        rights.append(np.pad(v.T, ((0, rank - v.shape[1]), (0, 0))).astype(np.float32))
    frame = Frame(adapter.metadata.base_sha256, rank, 1.0, tuple(adapter.factors), tuple(lefts), tuple(rights))
    return frame, np.stack(points).ravel()


def warm_retrained(
    data: bytes,
    model: ModelFile,
    training: Sequence[Example],
    *,
    ledger: TrainingLedger,
    settings: LocalSettings = WARM_START,
) -> bytes:
    """The adapter after a few more steps on its own base ``model``, from where it stands (its parent stays).

    An adapter that claims a privacy is trained on with noise of the same epsilon, and then claims the sum of both
    (their deltas add up as well); the steps are written into the device's account first. One that claims none is
    trained without noise.
    """
    adapter = read_adapter(data)
    frame, start = own_subspace(adapter)
    layers = read_model_shape(model.path).layers
    lowest = min(int(module.split(".")[1]) for module in frame.modules)
    torch_model = TorchModel.load(model.path, top_layers=layers - lowest)
    texts, epsilon = prepare_input(training), adapter.metadata.epsilon
    if epsilon is None:
        steps = settings.epochs * -(-len(texts) // settings.batch_size)
        ledger.take(ledger.open_run(0.0, 1.0, steps), steps - 1)
        batch = torch_model.prepare(texts, max_tokens=MAX_TOKENS)
        theta = train_coordinates(torch_model, frame, batch, start, settings).theta
    else:
        private = PrivateSettings(
            epsilon=epsilon,
            delta=1.0 / (10 * len(texts)),
            epochs=float(settings.epochs),
            sampling_rate=0.5,
            clip_norm=0.5,
            learning_rate=settings.learning_rate,
        )
        noise = noise_multiplier_for(epsilon, private.delta, private.sampling_rate, private.steps)
        ledger.take(ledger.open_run(noise, private.sampling_rate, private.steps), private.steps - 1)
        result = train_privately(torch_model, frame, texts, start, private, max_tokens=MAX_TOKENS)
        theta, epsilon = result.theta, epsilon + result.epsilon
    trained = AdapterFile(frame.lora_factors(theta), float(frame.rank), adapter.architecture, adapter.metadata)
    return _file_of(trained, model, replace(adapter.metadata, frame_sha256="", epsilon=epsilon))


def held_out_losses(held_out: Sequence[Example]) -> Losses:
    """The losses of these texts on the files that serve, without what the memory would add to the prompt."""

    def losses(model: ModelFile, adapter: bytes | None) -> Sequence[float]:
        with Engine.open(model, context_tokens=SCORING_CONTEXT) as engine:
            return text_losses(engine, held_out, adapter)

    return losses


def _file_of(adapter: AdapterFile, model: ModelFile, metadata: AdapterMetadata) -> bytes:
    shape = read_model_shape(model.path)
    return write_adapter(
        adapter.factors,
        alpha=adapter.alpha,
        metadata=metadata,
        architecture=shape.architecture,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
    )
