"""The GGUF container: what we write gguf-py reads, what gguf-py writes we read, and nothing broken gets
through.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.constants import GGMLQuantizationType

from edge_runtime.models.gguf_bytes import (
    encode_array_pair,
    encode_float32_pair,
    encode_header,
    encode_list_pair,
    encode_pair,
    pad_length,
    read_header,
)
from protocol.errors import PenchantError
from tests.tiny_model import write_tiny_model


def _small_file() -> bytes:
    arrays = {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.ones((4, 5), dtype="<f2")}
    kinds = {"a": GGMLQuantizationType.F32, "b": GGMLQuantizationType.F16}
    pairs = [
        encode_pair("general.architecture", "llama"),
        encode_pair("number", 7),
        encode_pair("flag", True),
        encode_pair("wide", 0.1),
        encode_float32_pair("narrow", 0.5),
        encode_array_pair("words", ["uno", "due"]),
        encode_array_pair("numbers", [1, -2, 3]),
        encode_list_pair("ids", [4, 5, 1 << 31]),
    ]
    layout = [(name, array.shape, kinds[name]) for name, array in arrays.items()]
    head, _ = encode_header(b"".join(pairs), len(pairs), layout)
    body = b""
    for array in arrays.values():
        body += array.tobytes() + bytes(pad_length(array.nbytes))
    return head + body


def test_gguf_py_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(_small_file())
    reader = GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert fields == {
        "general.architecture": "llama",
        "number": 7,
        "flag": True,
        "wide": 0.1,
        "narrow": 0.5,
        "words": ["uno", "due"],
        "numbers": [1, -2, 3],
        "ids": [4, 5, 1 << 31],
    }
    assert read_header(path.read_bytes()).lists == {"ids": (4, 5, 1 << 31)}
    assert [tensor.name for tensor in reader.tensors] == ["a", "b"]
    np.testing.assert_array_equal(reader.tensors[0].data, np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(reader.tensors[1].data, np.ones((4, 5), dtype=np.float16))


def test_we_read_what_gguf_py_writes(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", 3)
    data, reader = path.read_bytes(), GGUFReader(path)
    header = read_header(data)
    assert header.metadata["llama.attention.head_count"] == 4
    assert header.metadata["general.architecture"] == "llama"
    assert "tokenizer.ggml.tokens" not in header.metadata  # arrays are skipped
    assert len(header.tensors) == len(reader.tensors)
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        array = np.frombuffer(data[ours.offset : ours.offset + ours.byte_count], dtype="<f4")
        np.testing.assert_array_equal(array.reshape(ours.shape), theirs.data)


def test_every_truncation_is_refused_in_one_line() -> None:
    data = _small_file()
    read_header(data)
    ends = [end for end in range(len(data)) if end < len(data) - pad_length(40)]
    for end in ends:
        with pytest.raises(PenchantError) as caught:
            read_header(data[:end], what="the file")
        assert "\n" not in str(caught.value) and "the file" in str(caught.value)


def test_random_damage_never_raises_anything_else() -> None:
    data, rng = _small_file(), np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(PenchantError):
            read_header(bytes(damaged))


@pytest.mark.parametrize("pairs", [[encode_pair("x", 1), encode_pair("x", 2)], [encode_pair("general.alignment", 0)]])
def test_doubled_keys_and_bad_alignment_are_refused(pairs: list[bytes]) -> None:
    head, _ = encode_header(b"".join(pairs), len(pairs), [("a", (8,), GGMLQuantizationType.F32)])
    with pytest.raises(PenchantError):
        read_header(head + bytes(32))


def test_a_doubled_tensor_is_refused() -> None:
    layout = [("a", (8,), GGMLQuantizationType.F32)] * 2
    head, _ = encode_header(b"", 0, layout)
    with pytest.raises(PenchantError, match="twice"):
        read_header(head + bytes(64))


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PenchantError):
        encode_pair("round", -1)


def test_a_key_that_is_given_twice_is_refused_even_as_a_list() -> None:
    for first, second in (("list", "list"), ("list", "scalar"), ("scalar", "list")):
        pairs = [
            encode_list_pair("ids", [number]) if kind == "list" else encode_pair("ids", number)
            for number, kind in enumerate((first, second))
        ]
        head, _ = encode_header(b"".join(pairs), 2, [])
        with pytest.raises(PenchantError, match="twice"):
            read_header(head)
