"""PEFT folders: what PEFT loads is what llama.cpp serves, both ways, and nothing hostile gets in."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adapters import peft_files
from edge_runtime.adapters.adapter_file import AdapterFile, AdapterMetadata, read_adapter, write_adapter
from edge_runtime.adapters.peft_files import CONFIG_FILE, WEIGHTS_FILE, export_adapter, import_adapter
from edge_runtime.engine.engine import ChatMessage, Engine
from edge_runtime.models.catalogue import ModelFile, describe_model, find_model
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import (
    REAL_SHAPES,
    adapter_bytes,
    needs_bundled_model,
    open_tiny,
    random_factors,
    random_tokens,
)
from tests.tiny_model import write_tiny_model

pytest.importorskip("peft")
CREATED = "2025-03-01"


def loaded_model(path: Path) -> Any:
    """The de-quantised GGUF as a Hugging Face model in float32, untouched."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
    )
    return model.eval()


def peft_scores(model: Any, tokens: list[int]) -> np.ndarray:
    """Log-probability of each token but the first."""
    import torch

    ids = torch.tensor([tokens])
    with torch.no_grad():
        log = torch.log_softmax(model(ids).logits[0, :-1].float(), -1)
    return np.asarray(log.gather(1, ids[0, 1:, None])[:, 0])


def served_scores(engine: Engine, data: bytes | None, tokens: list[int]) -> np.ndarray:
    adapter = engine.load_adapter(data, sha256=hashlib.sha256(data).hexdigest()) if data else None
    engine.use_adapters([(adapter, 1.0)] if adapter else [])
    scores = engine.score(tokens[:1], [tokens[1:]])[0]
    engine.use_adapters([])
    return scores


def mixed_ranks(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random factors on every kind of map of two layers, the upper one of another rank."""
    return random_factors(seed, layers=range(2, 3), rank=4) | random_factors(seed + 1, layers=range(3, 4), rank=2)


@pytest.mark.parametrize("alpha", [0.0, 6.0])
def test_peft_loads_an_export_as_llama_serves_it(tmp_path: Path, alpha: float) -> None:
    from peft import PeftModel

    with open_tiny(tmp_path) as engine:
        data = adapter_bytes(engine, mixed_ranks(0), alpha=alpha)
        export_adapter(read_adapter(data), tmp_path / "peft", base_name="tiny")
        tokens = random_tokens(0, 40)
        base, served = served_scores(engine, None, tokens), served_scores(engine, data, tokens)
        model = loaded_model(engine.model.path)
        assert np.abs(peft_scores(model, tokens) - base).max() < 0.03
        tuned = peft_scores(PeftModel.from_pretrained(model, str(tmp_path / "peft")).eval(), tokens)
    # llama.cpp keeps keys and values in float16: 0.008 at most without an adapter (tests/client/test_llama_agreement).
    assert np.abs(served - base).mean() > 0.3
    assert np.abs(tuned - served).mean() < 0.004 and np.abs(tuned - served).max() < 0.03
    assert stat.S_IMODE((tmp_path / "peft" / WEIGHTS_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_saves_is_imported_with_its_ranks_and_scales(tmp_path: Path, rslora: bool) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    with open_tiny(tmp_path) as engine:
        tokens = random_tokens(1, 40)
        base = served_scores(engine, None, tokens)
        config = LoraConfig(
            r=4,
            lora_alpha=6,
            use_rslora=rslora,
            target_modules=["q_proj", "k_proj", "v_proj", "down_proj"],
            rank_pattern={"layers.3.self_attn.q_proj": 2, "down_proj": 3},
            alpha_pattern={"k_proj": 5},
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(loaded_model(engine.model.path), config)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(0.1 * torch.randn(weight.shape, generator=random))
        model.eval().save_pretrained(tmp_path / "peft")
        tuned = peft_scores(model, tokens)
        data = import_adapter(tmp_path / "peft", engine.model, created=CREATED)
        served = served_scores(engine, data, tokens)
    adapter = read_adapter(data)
    assert len(adapter.factors) == 16 and adapter.factors["blk.3.attn_q"][0].shape[0] == 2
    assert adapter.metadata == AdapterMetadata(adapter.metadata.base_sha256, "", created=CREATED)
    assert np.abs(served - base).mean() > 0.3
    assert np.abs(tuned - served).mean() < 0.004 and np.abs(tuned - served).max() < 0.03


@pytest.mark.real_model
@needs_bundled_model
def test_peft_agrees_on_the_bundled_model(tmp_path: Path) -> None:
    """Q8_0: llama.cpp rounds activations to 8 bits, so the engines differ by 0.08 nats per token before any adapter
    (tests/client/test_llama_agreement); the adapter's change must be the same up to that.
    """
    from peft import PeftModel

    model = find_model()
    with Engine.open(model, context_tokens=128, threads=1) as engine:
        factors = random_factors(3, shapes=REAL_SHAPES, layers=range(26, 30), rank=4, size=0.4)
        data = adapter_bytes(engine, factors, alpha=4.0)
        tokens = engine.tokenise(
            engine.chat_prompt([ChatMessage("user", "How do bees find their way home?")])
            + "They remember the sun and the shapes of the land, and dance to tell the others."
        )
        base, served = served_scores(engine, None, tokens), served_scores(engine, data, tokens)
    export_adapter(read_adapter(data), tmp_path / "peft", base_name="smollm2")
    plain = loaded_model(model.path)
    before = peft_scores(plain, tokens)
    after = peft_scores(PeftModel.from_pretrained(plain, str(tmp_path / "peft")).eval(), tokens)
    moved, wanted = served - base, after - before
    assert np.abs(moved).mean() > 0.3
    assert np.abs(after - served).mean() < 0.3
    assert np.corrcoef(moved, wanted)[0, 1] > 0.98
    assert wanted @ moved / (wanted @ wanted) == pytest.approx(1.0, abs=0.05)


# ---- what is refused


@pytest.fixture
def tiny(tmp_path: Path) -> ModelFile:
    return describe_model(write_tiny_model(tmp_path / "tiny.gguf", 0))


@pytest.fixture
def folder(tmp_path: Path, tiny: ModelFile) -> Path:
    """A good PEFT folder for the tiny model."""
    data = write_adapter(
        random_factors(0),
        alpha=4.0,
        metadata=AdapterMetadata(tiny.sha256, "", epsilon=2.0),
        architecture="llama",
        heads=4,
        kv_heads=2,
    )
    export_adapter(read_adapter(data), tmp_path / "peft", base_name="tiny")
    return tmp_path / "peft"


def changed(folder: Path, **fields: object) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | fields))


def refused(folder: Path, model: ModelFile, message: str) -> None:
    with pytest.raises(PenchantError, match=message) as caught:
        import_adapter(folder, model, created=CREATED)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_round_trip_keeps_the_factors_and_claims_no_privacy(folder: Path, tiny: ModelFile) -> None:
    adapter = read_adapter(import_adapter(folder, tiny, created=CREATED))
    wanted = random_factors(0)
    assert set(adapter.factors) == set(wanted) and adapter.metadata.epsilon is None
    for module, (left, right) in wanted.items():
        assert np.array_equal(adapter.factors[module][0], left) and np.array_equal(adapter.factors[module][1], right)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "words of its own"),
        ({"bias": "all"}, "biases"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"fan_in_fan_out": True}, "transposed"),
        ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "base model's own weights"),
        ({"rank_pattern": {"(a+)+$": 2}}, "by a pattern"),
        ({"alpha_pattern": {".*q_proj": 2}}, "by a pattern"),
        ({"r": 3}, "do not have the rank 3"),
        ({"r": 0}, "not the configuration"),
        ({"rank_pattern": {"q_proj": 0}}, "not the configuration"),
        ({"lora_alpha": float("nan")}, "not the configuration"),
        ({"r": "eight"}, "not the configuration"),
    ],
)
def test_what_is_not_plain_lora_is_refused(folder: Path, tiny: ModelFile, fields: dict[str, Any], message: str) -> None:
    changed(folder, **fields)
    refused(folder, tiny, message)


def rewritten(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Save the folder's weights again after `change`, without the name of their base."""
    from safetensors.numpy import load, save

    tensors = load((folder / WEIGHTS_FILE).read_bytes())
    change(tensors)
    (folder / WEIGHTS_FILE).write_bytes(save(tensors))


ONE = "base_model.model.model.layers.2.self_attn.q_proj.lora_{}.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.update({"base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)}), "lm_head"),
        (lambda tensors: tensors.update({"../../etc/passwd": np.zeros((2, 2), np.float32)}), "passwd"),
        (lambda tensors: tensors.update({"x" * 5000: np.zeros((2, 2), np.float32)}), "xxx"),
        (lambda tensors: tensors.pop(ONE.format("A")), "lacks one half"),
        (lambda tensors: tensors.update({ONE.format("A"): tensors[ONE.format("A")].astype(np.int32)}), "I32"),
        (lambda tensors: tensors.update({ONE.format("A"): tensors[ONE.format("A")] * np.nan}), "not finite"),
        (lambda tensors: tensors.update({ONE.format("A"): tensors[ONE.format("A")][:, :32].copy()}), "64 x 32"),
        (lambda tensors: tensors.update({ONE.format("A"): np.zeros(4, np.float32)}), "rank"),
    ],
)
def test_weights_that_are_no_lora_of_this_model_are_refused(
    folder: Path, tiny: ModelFile, change: Callable[[dict[str, np.ndarray]], object], message: str
) -> None:
    rewritten(folder, change)
    refused(folder, tiny, message)


def test_half_precision_is_read(folder: Path, tiny: ModelFile) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS_FILE)
    for kind in (torch.float16, torch.bfloat16):
        save_file({name: tensor.to(kind) for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
        adapter = read_adapter(import_adapter(folder, tiny, created=CREATED))
        wanted = tensors[ONE.format("A")].to(kind).float().numpy()
        assert np.array_equal(adapter.factors["blk.2.attn_q"][0], wanted)


def test_another_base_is_refused(folder: Path, tiny: ModelFile, tmp_path: Path) -> None:
    other = describe_model(write_tiny_model(tmp_path / "other.gguf", 1))
    refused(folder, other, "exported for another base model .* adapters move")
    rewritten(folder, lambda tensors: None)  # no base is named: the shapes decide
    assert import_adapter(folder, other, created=CREATED)
    rewritten(
        folder,
        lambda tensors: tensors.update(
            {name.replace("layers.2", "layers.9"): tensors.pop(name) for name in list(tensors) if "layers.2" in name}
        ),
    )
    refused(folder, other, "blk.9.* does not have")


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


def test_hostile_files_are_refused(
    folder: Path, tiny: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (folder / WEIGHTS_FILE).read_bytes()
    refused(tmp_path / "absent", tiny, "not a folder")
    for damaged in (b"", b"\xff" * 64, weights[:-1], weights[:40], (1 << 60).to_bytes(8, "little") + weights[8:]):
        (folder / WEIGHTS_FILE).write_bytes(damaged)
        refused(folder, tiny, "damaged")
    (folder / WEIGHTS_FILE).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "trace")))
    refused(folder, tiny, "pickle")
    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps(Payload(tmp_path / "trace")))  # renamed
    refused(folder, tiny, "damaged")
    assert not (tmp_path / "trace").exists()
    (folder / WEIGHTS_FILE).unlink()
    (tmp_path / "secret").write_bytes(weights)
    (folder / WEIGHTS_FILE).symlink_to(tmp_path / "secret")
    refused(folder, tiny, "links are not followed")
    (folder / WEIGHTS_FILE).unlink()
    os.mkfifo(folder / WEIGHTS_FILE)  # must not wait for a writer
    refused(folder, tiny, "plain file|cannot read")
    (folder / WEIGHTS_FILE).unlink()
    (folder / WEIGHTS_FILE).write_bytes(weights)
    monkeypatch.setattr(peft_files, "MOST_WEIGHT_BYTES", len(weights) - 1)
    refused(folder, tiny, "larger than")
    monkeypatch.undo()
    (folder / CONFIG_FILE).write_bytes(b"[" * (1 << 20) + b"   ")
    refused(folder, tiny, "larger than")
    for damaged in (b"[" * 100_000, b"[]", b"null", b"{", b"\xff\xfe"):
        (folder / CONFIG_FILE).write_bytes(damaged)
        refused(folder, tiny, "not the configuration")


def test_an_export_overwrites_nothing_and_refuses_activated_adapters(folder: Path, tiny: ModelFile) -> None:
    adapter = AdapterFile(random_factors(0), 4.0, "llama", AdapterMetadata(tiny.sha256, ""))
    with pytest.raises(PenchantError, match="not empty"):
        export_adapter(adapter, folder, base_name="tiny")
    activated = AdapterFile(adapter.factors, 4.0, "llama", AdapterMetadata(tiny.sha256, "", invocation_tokens=(1, 2)))
    with pytest.raises(PenchantError, match="aLoRA"):
        export_adapter(activated, folder / "new", base_name="tiny")
