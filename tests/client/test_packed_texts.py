from __future__ import annotations

import pytest
import torch

import client.packed_texts
from client.packed_texts import Packing, attend
from tests.client.framed_help import plain_model, tiny_model

LENGTHS = torch.tensor([3, 7, 1, 5])


def test_packing_and_padding_are_inverse() -> None:
    packing = Packing.of(LENGTHS)
    packed = torch.arange(16 * 2, dtype=torch.float32).view(16, 2)
    padded = packing.pad(packed)
    assert padded.shape == (4, 7, 2)
    assert torch.equal(packing.pack(padded), packed)
    assert torch.equal(padded[1], packed[3:10]) and torch.equal(padded[2, 0], packed[10])
    assert float(padded[0, 3:].abs().sum() + padded[2, 1:].abs().sum() + padded[3, 5:].abs().sum()) == 0.0
    assert packing.position.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 0, 0, 1, 2, 3, 4]
    assert packing.row.tolist() == [0] * 3 + [1] * 7 + [2] + [3] * 5


def test_each_is_the_adjoint_of_the_other() -> None:
    packing = Packing.of(LENGTHS)
    for full in (packing, Packing.of(torch.full((4,), 4))):
        packed = torch.randn(16, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(full.pad, (packed,))
        padded = torch.randn(4, full.width, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(full.pack, (padded,))


@pytest.mark.parametrize("short", [0, 256])  # both ways of attending
def test_packed_layers_are_those_of_each_text_alone(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.packed_texts, "SHORT", short)
    model, plain = tiny_model(), plain_model()
    texts = [list(range(5 + i, 5 + i + n)) for i, n in enumerate(LENGTHS.tolist())]
    hidden = model.prepare([(text, 0) for text in texts if len(text) > 1]).hidden
    for row, text in enumerate(text for text in texts if len(text) > 1):
        with torch.no_grad():
            alone = plain(torch.tensor([text]), output_hidden_states=True).hidden_states[model.first_adapted]
        assert torch.allclose(hidden[row, : len(text)], alone[0], atol=1e-4)
        assert float(hidden[row, len(text) :].abs().sum()) == 0.0


def test_attention_is_causal_scaled_and_shares_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 6, 4, generator=random) for heads in (4, 2, 2))
    outputs = []
    for short in (0, 256):
        monkeypatch.setattr(client.packed_texts, "SHORT", short)
        outputs.append(attend(None, query, key, value, None, scaling=0.3)[0])
    assert torch.allclose(outputs[0], outputs[1], atol=1e-6)
    row, head, place = 1, 3, 4  # by hand; head 3 reads keys 1
    scores = 0.3 * key[row, 1, : place + 1] @ query[row, head, place]
    wanted = torch.softmax(scores, 0) @ value[row, 1, : place + 1]
    assert torch.allclose(outputs[0][row, place, head], wanted, atol=1e-6)
