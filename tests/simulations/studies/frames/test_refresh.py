from __future__ import annotations

import torch

from simulations.studies.frames.refresh import second_release
from simulations.studies.frames.training import Passes, text_losses
from tests.client.framed_help import some_texts, tiny_frame, tiny_model


def test_a_second_release_goes_on_from_the_first_in_either_frame() -> None:
    model = tiny_model()
    batches = tuple(model.prepare(some_texts(4, seed)) for seed in (1, 1, 1))
    losses, kept = second_release(
        model,
        tiny_frame(),
        some_texts(),
        (batches[0], batches[1], batches[2]),
        rate=0.1,
        noise=0.001,
        passes=Passes(epochs=5, batch_size=2),
    )
    model.set_frame(None)
    summed = {name: float(part[:, 0].sum()) for name, part in losses.items()}
    before = float(text_losses(model, batches[2])[:, 0].sum())
    assert 0.9 < kept <= 1.0  # what rises above the noise is carried
    assert summed["release"] < before
    assert abs(summed["carried"] - summed["release"]) < 0.2 * (before - summed["release"])
    assert max(summed["old_frame"], summed["refreshed"]) < summed["release"]
    assert not torch.equal(losses["old_frame"], losses["refreshed"])
