"""Training an adapter on from where it stands, in the subspace that it spans, on a base that it was moved to.

With thin QR `B = U S` and `A^T = V^T T`, the change `B A = U (S T^T) V` (out x in) is a point of the frame (U, V),
whatever the adapter came from: warm training starts there with d = modules * r * r numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

import numpy as np

from client.device_profile import MAX_TOKENS
from client.dp_sgd import PrivateSettings, noise_multiplier_for, train_privately
from client.examples import Example, prepare_input
from client.local_training import LocalSettings, train_coordinates
from client.privacy_units import Units
from client.torch_model import TorchModel
from client.training_ledger import TrainingLedger
from edge_runtime.adapters.adapter_file import AdapterFile, AdapterMetadata, read_adapter, write_adapter
from edge_runtime.models.catalogue import ModelFile, read_model_shape
from protocol.frames import Frame, Vector

WARM_START: Final = LocalSettings(epochs=1, learning_rate=0.02)


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
    units: Units | None = None,
    settings: LocalSettings = WARM_START,
    max_tokens: int = MAX_TOKENS,
) -> bytes:
    """The adapter after a few more steps on its own base ``model``, from where it stands (its parent stays).

    An adapter that claims a privacy is trained on with noise of the same epsilon, and then claims the sum of both
    (their deltas add up as well); the steps are written into the device's account first. ``units`` of the texts are
    then protected as one (None: every text). One that claims none is trained without noise.
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
        batch = torch_model.prepare(texts, max_tokens=max_tokens)
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
        result = train_privately(torch_model, frame, texts, start, private, units=units, max_tokens=max_tokens)
        theta, epsilon = result.theta, epsilon + result.epsilon
    trained = AdapterFile(frame.lora_factors(theta), float(frame.rank), adapter.architecture, adapter.metadata)
    return _file_of(trained, model, replace(adapter.metadata, frame_sha256="", epsilon=epsilon))


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
