from __future__ import annotations

import numpy as np
import pytest

from client.torch_model import TorchModel
from protocol.errors import PenchantError
from simulations.studies.frames.study import METHODS, POOLED, Method, load_people, person_gains, row_key, weights_frame
from tests.client.framed_help import BASE_SHA256, tiny_model

KINDS = ("attn_v", "ffn_down")


def test_each_person_counts_the_same_however_much_they_wrote() -> None:
    before = np.array([[10.0, 5], [30.0, 9], [100.0, 20]])
    after = np.array([[9.0, 5], [27.0, 9], [80.0, 20]])
    gains = person_gains(before, after, ["a", "a", "b"])
    assert gains == {"a": pytest.approx(0.1), "b": pytest.approx(0.2)}


def test_the_frame_of_the_weights_holds_their_leading_singular_vectors() -> None:
    model: TorchModel = tiny_model()
    frame = weights_frame(model, BASE_SHA256, KINDS, 3)
    assert frame.modules == model.module_names(KINDS)
    for name, u, v in zip(frame.modules, frame.left, frame.right, strict=True):
        weight = model.linear(name).weight.detach().numpy()
        values = np.linalg.svd(weight, compute_uv=False)
        assert np.allclose(u.T @ weight @ v.T, np.diag(values[:3]), atol=1e-3 * values[0])


def test_the_reference_comes_first_and_no_two_rows_are_the_same() -> None:
    reference = METHODS[0]
    assert (reference.family, reference.layers, reference.rank, len(reference.kinds)) == ("lora", 30, 8, 7)
    keys = {row_key("blogs", method.name, "") for method in METHODS}
    assert len(keys) == len(METHODS)
    assert Method("gradient", 8, KINDS, 4, 0.1).name == "gradient 8x2 r4"
    with pytest.raises(PenchantError, match="blogs or novels"):
        load_people("poems", 1, POOLED)
