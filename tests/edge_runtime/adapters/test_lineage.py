"""Descent of models: by digest of everything but the weights, and by how far these lie apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.adapters.adapter_file import AdapterFile, AdapterMetadata
from edge_runtime.adapters.lineage import PARENT_KEY, adapter_squared_norm, check_lineage
from edge_runtime.models.catalogue import ModelFile, describe_model, find_model
from edge_runtime.models.gguf_bytes import encode_header, encode_pair, pad_length, read_header
from protocol.errors import PenchantError
from tests import tiny_model
from tests.edge_runtime.model_helpers import REAL_SHAPES, needs_bundled_model, random_factors
from tests.tiny_model import write_tiny_model


@pytest.fixture
def old(tmp_path: Path) -> ModelFile:
    return describe_model(write_tiny_model(tmp_path / "old.gguf", 0))


def adapter_of(model: ModelFile) -> AdapterFile:
    return AdapterFile(random_factors(0), 2.0, "llama", AdapterMetadata(model.sha256, ""))


def with_weights(old: ModelFile, path: Path, name: str, factor: float, *, parent: str = "") -> ModelFile:
    """The old file with one tensor scaled, and naming a parent if one is given."""
    data = old.path.read_bytes()
    header = read_header(data)
    start, end = header.pairs_span
    pairs = data[start:end] + (encode_pair(PARENT_KEY, parent) if parent else b"")
    layout = [(entry.name, entry.shape, entry.kind) for entry in header.tensors]
    result = bytearray(encode_header(pairs, header.pair_count + bool(parent), layout)[0])
    for entry in header.tensors:
        raw = tensor_of(old, entry.name) * np.float32(factor if entry.name == name else 1.0)
        result += raw.tobytes() + bytes(pad_length(entry.byte_count))
    path.write_bytes(result)
    return describe_model(path)


def tensor_of(model: ModelFile, name: str) -> np.ndarray:
    """One float32 tensor of a file, flat."""
    data = model.path.read_bytes()
    entry = next(entry for entry in read_header(data).tensors if entry.name == name)
    return np.frombuffer(data[entry.offset : entry.offset + entry.byte_count], "<f4")


def test_the_change_is_measured_against_weights_and_adapter(old: ModelFile, tmp_path: Path) -> None:
    new = with_weights(old, tmp_path / "new.gguf", "blk.2.attn_q.weight", 1.1)
    found = check_lineage(old, new, adapter_of(old))
    by_name = {change.module: change for change in found.modules}
    assert by_name["blk.2.attn_q"].relative == pytest.approx(0.1, rel=1e-3)
    assert by_name["blk.3.ffn_up"].relative == 0.0 and len(by_name) == 14
    left, right = random_factors(0)["blk.2.attn_q"]
    adapted = np.linalg.norm(2.0 / 4 * right @ left)
    weight = tensor_of(old, "blk.2.attn_q.weight")
    assert by_name["blk.2.attn_q"].in_adapters == pytest.approx(0.1 * np.linalg.norm(weight) / adapted, rel=1e-3)
    assert 0 < found.relative < 0.1 and found.stated is None
    assert (found.old_sha256, found.new_sha256) == (old.sha256, new.sha256)


def test_the_norm_of_the_product_needs_no_product() -> None:
    left, right = random_factors(1)["blk.3.ffn_down"]
    assert adapter_squared_norm(left, right, 0.0) == pytest.approx(np.linalg.norm(right @ left) ** 2, rel=1e-5)
    assert adapter_squared_norm(left, right, 8.0) == pytest.approx(4 * np.linalg.norm(right @ left) ** 2, rel=1e-5)


@pytest.mark.parametrize(("parent", "stated"), [("own", True), ("b" * 64, False)])
def test_a_stated_parent_is_read(old: ModelFile, tmp_path: Path, parent: str, stated: bool) -> None:
    name = old.sha256 if parent == "own" else parent
    new = with_weights(old, tmp_path / "new.gguf", "blk.2.attn_v.weight", 1.01, parent=name)
    assert check_lineage(old, new, adapter_of(old)).stated is stated


@pytest.mark.real_model
@needs_bundled_model
def test_another_quantisation_of_the_same_model_descends() -> None:
    q8, q4 = find_model(), find_model(quantisation="q4_1")
    adapter = AdapterFile(random_factors(0, shapes=REAL_SHAPES), 2.0, "llama", AdapterMetadata(q4.sha256, ""))
    assert check_lineage(q4, q8, adapter).relative < 0.01  # stored again in more bits


def test_a_model_that_was_trained_apart_does_not(old: ModelFile, tmp_path: Path) -> None:
    apart = describe_model(write_tiny_model(tmp_path / "apart.gguf", 1))
    with pytest.raises(PenchantError, match=r"lie 1\.4\d of their length .* does not descend"):
        check_lineage(old, apart, adapter_of(old))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CHAT_TEMPLATE", "{{ messages }}", "chat template"),
        ("MERGES", ("t h", "th e"), "shapes"),
        ("LAYERS", 5, "shapes"),
        ("FEED_FORWARD", 96, "shapes"),
        ("KV_HEADS", 4, "shapes"),
        ("CONTROL_TOKENS", ("<|endoftext|>", "<|im_start|>", "<|im_over|>"), "tokens"),
    ],
)
def test_another_kind_of_model_is_refused_by_name(
    old: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, message: str
) -> None:
    monkeypatch.setattr(tiny_model, name, value)
    new = describe_model(write_tiny_model(tmp_path / "new.gguf", 0))
    with pytest.raises(PenchantError, match=f"differs from old in its {message}") as caught:
        check_lineage(old, new, adapter_of(old))
    assert "\n" not in str(caught.value)


def test_a_longer_context_is_no_difference_and_another_rotation_is(
    old: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model, "CONTEXT", 1024)
    longer = describe_model(write_tiny_model(tmp_path / "longer.gguf", 0))
    assert check_lineage(old, longer, adapter_of(old)).relative == 0.0
    monkeypatch.setattr(tiny_model, "HEADS", 8)
    monkeypatch.setattr(tiny_model, "KV_HEADS", 4)  # the same shapes, other heads
    new = describe_model(write_tiny_model(tmp_path / "heads.gguf", 0))
    with pytest.raises(PenchantError, match=r"settings \(heads"):
        check_lineage(old, new, adapter_of(old))


def test_the_wrong_old_base_and_the_same_base_are_refused(old: ModelFile, tmp_path: Path) -> None:
    new = with_weights(old, tmp_path / "new.gguf", "blk.2.attn_v.weight", 1.01)
    with pytest.raises(PenchantError, match="name the model that it was trained on"):
        check_lineage(new, old, adapter_of(old))
    with pytest.raises(PenchantError, match="already"):
        check_lineage(old, old, adapter_of(old))
