"""What torch trains is what llama.cpp serves: the same frame adapter gives the same log-probabilities in
both.

On the tiny float32 model log-probabilities differ by 0.0011 nats on average and 0.0080 at most (llama.cpp
keeps keys and values in float16), the same without adapter and with one on any kind of linear map, which
moves them by up to 2.2.

On the bundled Q8_0 model torch computes with the de-quantised weights in float32, while llama.cpp also rounds
every activation to 8 bits. Measured on four chat texts, d = 200, the ffn_up and ffn_down maps of the top 4
layers, theta of norm 2.0 (what training gives):

                                            mean     max    (absolute, nats per token)
    base model, torch and llama.cpp         0.078    0.43
    with adapter, torch and llama.cpp       0.070    0.56
    the change that the adapter makes       0.583           (correlation of the two engines' changes 0.996)
    its difference between the engines      0.065    0.42
    three adapters mixed and the one mix    0.015    0.42   (both in llama.cpp; the mix changes 1.4)

So the difference is the base model's arithmetic, not the adapter's; the largest is an activation that rounded the
other way, and moves with the last bit of the frame. Bounds are about three times these figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.frame_builder import build_frame, public_text
from client.torch_model import TorchModel, as_theta
from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.engine.engine import Adapter, ChatMessage, Engine
from edge_runtime.models.catalogue import describe_model, find_model, read_model_shape
from protocol.errors import PenchantError
from protocol.frames import Frame
from tests.client.framed_help import some_texts, tiny_gguf, tiny_model

ALL_KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass
class Pair:
    """One model file open in both engines, with a frame on its top layers and texts as (tokens,
    prompt_length)."""

    torch_model: TorchModel
    engine: Engine
    frame: Frame
    texts: list[tuple[list[int], int]]

    def adapter_bytes(self, theta: NDArray[np.float64], base_sha256: str = "") -> bytes:
        shape = read_model_shape(self.engine.model.path)
        return write_adapter(
            self.frame.lora_factors(theta),
            alpha=self.frame.rank,
            metadata=AdapterMetadata(base_sha256 or self.frame.base_sha256, self.frame.digest),
            architecture=shape.architecture,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
        )

    def load(self, theta: NDArray[np.float64]) -> Adapter:
        data = self.adapter_bytes(theta)
        return self.engine.load_adapter(data, sha256=sha256(data).hexdigest())

    def served(self, *pairs: tuple[Adapter, float]) -> NDArray[np.float64]:
        """llama.cpp's log-probabilities of all target tokens, one after another."""
        self.engine.use_adapters(pairs)
        parts = [self.engine.score(ids[:prompt], [ids[prompt:]])[0] for ids, prompt in self.texts]
        self.engine.use_adapters([])
        return np.concatenate(parts)

    def trained(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """torch's."""
        self.torch_model.set_frame(self.frame)
        self.torch_model.set_coordinates(self.frame, as_theta(theta))
        parts = [self.torch_model.log_probabilities(ids)[prompt - 1 :] for ids, prompt in self.texts]
        self.torch_model.set_frame(None)
        return np.concatenate(parts).astype(np.float64)

    def theta(self, seed: int, size: float) -> NDArray[np.float64]:
        return size * np.random.default_rng(seed).normal(size=self.frame.dimension)


def agree(one: NDArray[np.float64], other: NDArray[np.float64], *, mean: float, largest: float) -> None:
    difference = np.abs(one - other)
    assert difference.mean() < mean and difference.max() < largest, (difference.mean(), difference.max())


@pytest.fixture(scope="module")
def tiny() -> Iterator[Pair]:
    model = describe_model(tiny_gguf())
    texts = [(ids, prompt) for ids, prompt in some_texts()]
    frame = build_frame(tiny_model(), model.sha256, texts, kinds=ALL_KINDS, rank=3, scale=1.5)
    with Engine.open(model, context_tokens=128, threads=1) as engine:
        yield Pair(tiny_model(), engine, frame, texts)


@pytest.fixture(scope="module")
def real() -> Iterator[Pair]:
    try:
        model = find_model()
    except PenchantError as error:
        pytest.skip(str(error))
    torch_model = TorchModel.load(model.path, top_layers=4, dtype=torch.float32)
    with Engine.open(model, context_tokens=256, threads=1) as engine:
        texts = []
        for request, reply in public_text()[:8]:
            prompt = engine.tokenise(engine.chat_prompt([ChatMessage("user", request)]))
            answer = [*engine.tokenise(reply, special=False), engine.end_of_turn[0]]
            texts.append((prompt + answer, len(prompt)))
        frame = build_frame(torch_model, model.sha256, texts[:4], kinds=("ffn_up", "ffn_down"), rank=5)
        yield Pair(torch_model, engine, frame, texts[4:])


def test_every_kind_of_map_agrees_on_the_tiny_model(tiny: Pair) -> None:
    # Includes q and k, whose rows llama.cpp stores in another order.
    theta = tiny.theta(0, 0.1)
    base, served, trained = tiny.served(), tiny.served((tiny.load(theta), 1.0)), tiny.trained(theta)
    assert np.abs(served - base).mean() > 0.5
    agree(served, trained, mean=0.0033, largest=0.025)
    for position, kind in enumerate(ALL_KINDS):  # and each kind alone does something
        only = np.zeros_like(theta).reshape(len(tiny.frame.modules), -1)
        only[position::7] = theta.reshape(only.shape)[position::7]
        alone = tiny.served((tiny.load(only.ravel()), 1.0))
        assert np.abs(alone - base).max() > 0.3, kind
        agree(alone, tiny.trained(only.ravel()), mean=0.0033, largest=0.025)


def test_mixing_in_llama_is_mixing_in_the_frame_on_the_tiny_model(tiny: Pair) -> None:
    thetas, weights = [tiny.theta(k, 0.1) for k in range(3)], np.array([0.7, -0.4, 1.3])
    together = tiny.served(*((tiny.load(t), w) for t, w in zip(thetas, weights, strict=True)))
    mixed = weights @ np.stack(thetas)  # what a bank does (`protocol.bank`)
    assert np.abs(together - tiny.served((tiny.load(mixed), 1.0))).max() < 1e-3
    agree(together, tiny.trained(mixed), mean=0.0033, largest=0.025)


def test_another_base_is_refused(tiny: Pair) -> None:
    data = tiny.adapter_bytes(tiny.theta(0, 0.1), base_sha256="b" * 64)
    with pytest.raises(PenchantError, match="another base model") as caught:
        tiny.engine.load_adapter(data, sha256=sha256(data).hexdigest())
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_is_refused(tiny: Pair) -> None:
    data = tiny.adapter_bytes(tiny.theta(0, 0.1))
    digest = sha256(data).hexdigest()
    for place in (0, 100, len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 1
        with pytest.raises(PenchantError, match="altered or damaged") as caught:
            tiny.engine.load_adapter(bytes(flipped), sha256=digest)
        assert "\n" not in str(caught.value)


@pytest.mark.real_model
def test_torch_and_llama_agree_on_the_bundled_model(real: Pair) -> None:
    assert real.frame.dimension == 200
    theta = real.theta(0, 0.15)
    base, trained_base = real.served(), real.trained(np.zeros_like(theta))
    served, trained = real.served((real.load(theta), 1.0)), real.trained(theta)
    agree(base, trained_base, mean=0.23, largest=1.3)
    agree(served, trained, mean=0.21, largest=1.6)
    moved, wanted = served - base, trained - trained_base
    assert np.abs(moved).mean() > 0.4
    agree(moved, wanted, mean=0.2, largest=1.3)
    assert np.corrcoef(moved, wanted)[0, 1] > 0.98
    assert wanted @ moved / (wanted @ wanted) == pytest.approx(1.0, abs=0.05)  # neither half nor double the scale


@pytest.mark.real_model
def test_mixing_on_the_bundled_model(real: Pair) -> None:
    thetas, weights = [real.theta(k, 0.1) for k in range(3)], np.array([0.7, -0.4, 1.3])
    together = real.served(*((real.load(t), w) for t, w in zip(thetas, weights, strict=True)))
    mixed = weights @ np.stack(thetas)
    one = real.served((real.load(mixed), 1.0))
    assert np.abs(one - real.served()).mean() > 0.7
    agree(together, one, mean=0.05, largest=1.3)
