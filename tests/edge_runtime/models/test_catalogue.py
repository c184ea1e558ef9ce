"""Finding, checking and re-quantising model files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import (
    BUNDLED_SHA256,
    ModelFile,
    describe_model,
    find_model,
    read_model_shape,
    requantise,
    sha256_of,
)
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import needs_bundled_model
from tests.tiny_model import write_tiny_model


def test_a_path_is_described(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", 0)
    model = find_model(str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert model == ModelFile("tiny", path, digest, "f32", "llama")
    shape = read_model_shape(path)
    assert (shape.layers, shape.width, shape.heads, shape.kv_heads) == (4, 64, 4, 2)


def test_the_same_seed_gives_the_same_tiny_model(tmp_path: Path) -> None:
    same = [write_tiny_model(tmp_path / f"{name}.gguf", 1).read_bytes() for name in ("a", "b")]
    assert same[0] == same[1]
    assert same[0] != write_tiny_model(tmp_path / "c.gguf", 2).read_bytes()


@pytest.mark.parametrize("kept", [0, 3, 40, 2000, -1000])
def test_a_truncated_model_is_one_clear_error(tmp_path: Path, kept: int) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", 0)
    data = path.read_bytes()
    path.write_bytes(data[:kept])
    with pytest.raises(PenchantError) as caught:
        find_model(str(path))
    assert "\n" not in str(caught.value) and "tiny.gguf" in str(caught.value)


def test_garbage_and_missing_files_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    for target in (path, tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(PenchantError) as caught:
            find_model(str(target))
        assert "\n" not in str(caught.value)


def test_a_file_that_llama_cpp_refuses_is_one_clear_error(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", 0)
    path.write_bytes(path.read_bytes().replace(b"blk.1.attn_q", b"blk.1.attn_x"))
    with pytest.raises(PenchantError, match=r"llama\.cpp cannot load tiny\.gguf") as caught:
        Engine.open(describe_model(path), threads=1)
    assert "\n" not in str(caught.value)


def test_unknown_quantisation_is_refused() -> None:
    with pytest.raises(PenchantError, match="q8_0"):
        find_model(quantisation="q3_k")


@pytest.mark.parametrize(("form", "bound"), [("q8_0", 0.02), ("q4_0", 0.3), ("f16", 0.001)])
def test_requantised_weights_stay_close(tmp_path: Path, form: str, bound: float) -> None:
    """Largest error per tensor, relative to its largest weight: half a step of 127 or 8 levels, or float16's."""
    source = write_tiny_model(tmp_path / "tiny.gguf", 0)
    floats = source.read_bytes()
    # Float tensors are copied, so go through 4 bits first to have something that is quantised.
    target = tmp_path / "target.gguf"
    target.write_bytes(requantise(_four_bit(floats), form))
    before = {tensor.name: tensor for tensor in GGUFReader(_written(tmp_path, _four_bit(floats))).tensors}
    after = {tensor.name: tensor for tensor in GGUFReader(target).tensors}
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        expected = dequantize(tensor.data, tensor.tensor_type)
        actual = dequantize(after[name].data, after[name].tensor_type)
        assert np.abs(actual - expected).max() <= bound * np.abs(expected).max()
    Engine.open(describe_model(target), threads=1, context_tokens=64).close()


def _four_bit(data: bytes) -> bytes:
    """A tiny model with its matrices in Q4_1, made by gguf-py's arithmetic."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    from edge_runtime.models.gguf_bytes import encode_header, pad_length, read_header

    header = read_header(data)
    kinds = [GGMLQuantizationType.Q4_1 if len(entry.shape) > 1 else entry.kind for entry in header.tensors]
    start, end = header.pairs_span
    layout = [(entry.name, entry.shape, kind) for entry, kind in zip(header.tensors, kinds, strict=True)]
    head, _ = encode_header(data[start:end], header.pair_count, layout)
    body = b""
    for entry, kind in zip(header.tensors, kinds, strict=True):
        array = np.frombuffer(data[entry.offset : entry.offset + entry.byte_count], dtype="<f4")
        raw = quantize(array.reshape(entry.shape), kind).tobytes()
        body += raw + bytes(pad_length(len(raw)))
    return head + body


def _written(folder: Path, data: bytes) -> Path:
    path = folder / "four_bit.gguf"
    path.write_bytes(data)
    return path


@needs_bundled_model
def test_the_bundled_model_is_requantised_once_and_a_damaged_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path))
    model = find_model()
    assert (model.quantisation, model.architecture) == ("q8_0", "llama")
    assert model.path.parent == tmp_path and sha256_of(model.path) == model.sha256 == BUNDLED_SHA256["q8_0"]
    written = model.path.stat().st_mtime_ns
    assert find_model() == model and model.path.stat().st_mtime_ns == written
    with model.path.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"damage")
    assert sha256_of(find_model().path) == BUNDLED_SHA256["q8_0"]
    assert [path.name for path in tmp_path.iterdir()] == [model.path.name]  # no temporary file is left
    model.path.unlink()


@needs_bundled_model
def test_the_bundled_file_itself_is_pinned() -> None:
    model = find_model(quantisation="q4_1")
    assert model.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
