"""A temporary adapter learns what was read, serves while its block lasts, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from client.temporary_adapter import TemporarySettings, chunks_of, temporary_adapter
from client.torch_model import TorchModel
from client.training import Trainer
from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import describe_model
from protocol.errors import PenchantError
from protocol.frames import Frame
from tests.client.framed_help import TOP_LAYERS, some_theta, tiny_frame, tiny_gguf
from tests.tiny_model import HEADS, KV_HEADS

SETTINGS = TemporarySettings(chunk=24, overlap=8, passes=3, learning_rate=0.05)
TEXT = "the thing in the other thing " * 8
Opened = tuple[Trainer, Frame]


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    import torch

    model = describe_model(tiny_gguf())
    torch_model = TorchModel.load(model.path, top_layers=TOP_LAYERS, dtype=torch.float32)
    with Engine.open(model, context_tokens=256, threads=1) as engine:
        yield Trainer(model, torch_model, engine), replace(tiny_frame(), base_sha256=model.sha256)


def loss(engine: Engine, text: str = TEXT) -> float:
    tokens = engine.tokenise(text, special=False)
    return -float(engine.score(tokens[:4], [tokens[4:]])[0].mean())


def own_adapter(trainer: Trainer, frame: Frame) -> bytes:
    return write_adapter(
        frame.lora_factors(some_theta(3)),
        alpha=float(frame.rank),
        metadata=AdapterMetadata(trainer.model.sha256, frame.digest),
        architecture="llama",
        heads=HEADS,
        kv_heads=KV_HEADS,
    )


def test_what_was_read_is_expected_afterwards_and_only_inside_the_block(opened: Opened) -> None:
    trainer, frame = opened
    before, heard = loss(trainer.engine), list[float]()
    with temporary_adapter(
        trainer, trainer.engine, TEXT, frame=frame, settings=SETTINGS, on_progress=heard.append
    ) as temporary:
        first = loss(trainer.engine)
        assert first < before - 0.1
        assert heard == sorted(heard) and heard[-1] == 1.0 and len(heard) > 2
        count = temporary.read_tokens
        assert count == len(trainer.engine.tokenise(TEXT, special=False)) - 1
        old = temporary.loaded
        temporary.read(TEXT)
        assert loss(trainer.engine) < first and temporary.read_tokens > count
        assert [adapter for adapter, _ in trainer.engine.active_adapters] == [temporary.loaded] != [old]
    assert loss(trainer.engine) == before and trainer.engine.active_adapters == ()


def test_it_is_unloaded_also_when_the_block_fails(opened: Opened) -> None:
    trainer, frame = opened
    with (
        pytest.raises(ValueError, match="on the way"),
        temporary_adapter(trainer, trainer.engine, TEXT, frame=frame, settings=SETTINGS) as temporary,
    ):
        loaded = temporary.loaded
        raise ValueError("on the way")
    assert loaded is not None and trainer.engine.active_adapters == ()
    with pytest.raises(PenchantError, match="not loaded"):
        trainer.engine.use_adapters([(loaded, 1.0)])


def test_it_stands_beside_the_adapters_in_use_or_begins_at_one_and_stands_in_for_it(opened: Opened) -> None:
    trainer, frame = opened
    engine, data = trainer.engine, own_adapter(*opened)
    own = engine.load_adapter(data, sha256=sha256(data).hexdigest())
    engine.use_adapters([(own, 0.5)])
    try:
        with temporary_adapter(trainer, engine, TEXT, frame=frame, settings=SETTINGS) as temporary:
            assert list(engine.active_adapters) == [(own, 0.5), (temporary.loaded, 1.0)]
        with temporary_adapter(trainer, engine, TEXT, frame=frame, start=some_theta(3), settings=SETTINGS) as temporary:
            assert list(engine.active_adapters) == [(temporary.loaded, 1.0)]
            moved = np.abs(temporary.theta - some_theta(3))
            assert 0 < moved.max() <= SETTINGS.learning_rate * 3 * 10  # from there, not from nothing
        assert engine.active_adapters == ((own, 0.5),)
    finally:
        engine.use_adapters([])
        engine.unload_adapter(own)


def test_nothing_is_written(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, frame = opened
    written: list[str] = []
    monkeypatch.setattr("builtins.open", lambda name, mode="r", *rest, **more: written.append(f"{name} {mode}"))
    monkeypatch.setattr("edge_runtime.store.vault.Vault.put_blob", lambda self, name, data: written.append(name))
    with temporary_adapter(trainer, trainer.engine, TEXT, frame=frame, settings=SETTINGS):
        pass
    assert not [line for line in written if not line.endswith((" r", " rb"))]


def test_of_a_long_text_the_last_tokens_are_read_and_a_stop_keeps_what_was_read(opened: Opened) -> None:
    trainer, frame = opened
    short = replace(SETTINGS, most_tokens=48)
    with temporary_adapter(trainer, trainer.engine, TEXT, frame=frame, settings=short) as temporary:
        assert temporary.read_tokens == 47
    asked = iter([False, True])
    with temporary_adapter(
        trainer, trainer.engine, TEXT, frame=frame, settings=SETTINGS, wants_stop=lambda: next(asked)
    ) as temporary:
        assert temporary.read_tokens == 23 and temporary.loaded is not None
    with temporary_adapter(trainer, trainer.engine, "", frame=frame) as temporary:
        assert temporary.loaded is None and trainer.engine.active_adapters == ()


def test_the_same_text_gives_the_same_adapter_however_it_is_cut_into_calls(opened: Opened) -> None:
    trainer, frame = opened
    tokens = trainer.engine.tokenise(TEXT, special=False)[:72]
    with temporary_adapter(trainer, trainer.engine, "", frame=frame, settings=SETTINGS) as temporary:
        temporary.read_chunks(chunks_of(tokens, 24))
        whole = temporary.theta
    with temporary_adapter(trainer, trainer.engine, "", frame=frame, settings=SETTINGS) as temporary:
        for chunk in chunks_of(tokens, 24):
            temporary.read_chunks([chunk])
        assert temporary.theta.tobytes() == whole.tobytes() != np.zeros(frame.dimension).tobytes()


def test_chunks_hold_everything_in_order_and_none_is_a_scrap() -> None:
    for count in (0, 1, 5, 24, 25, 29, 30, 47, 72):
        chunks = chunks_of(range(count), 24)
        assert [token for chunk in chunks for token in chunk] == list(range(count))
        assert all(6 <= len(chunk) < 30 for chunk in chunks) or count < 6


def test_another_models_frame_and_senseless_settings_are_refused(opened: Opened) -> None:
    trainer, _ = opened
    with (
        pytest.raises(PenchantError, match="another model"),
        temporary_adapter(trainer, trainer.engine, TEXT, frame=tiny_frame()),
    ):
        pass
    for wrong in ({"chunk": 0}, {"passes": 0}, {"overlap": -1}, {"learning_rate": 0.0}, {"most_tokens": 0}):
        with pytest.raises(PenchantError):
            TemporarySettings(**wrong)
