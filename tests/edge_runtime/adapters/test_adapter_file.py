"""Adapter files: round trip, row order, mixtures, metadata, and refusal of what is not one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edge_runtime.adapters.adapter_file import (
    AdapterMetadata,
    mix_adapters,
    read_adapter,
    read_adapter_metadata,
    write_adapter,
)
from edge_runtime.models.gguf_bytes import encode_header, encode_pair
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import random_factors

BASE, FRAME, PARENT = "a" * 64, "b" * 64, "c" * 64
METADATA = AdapterMetadata(BASE, FRAME, PARENT, round=7, epsilon=2.1, created="2025-01-31")


def _write(factors: dict[str, tuple[np.ndarray, np.ndarray]], alpha: float = 8.0) -> bytes:
    return write_adapter(factors, alpha=alpha, metadata=METADATA, architecture="llama", heads=4, kv_heads=2)


def test_what_is_written_is_read_back() -> None:
    factors = random_factors(0)
    data = _write(factors)
    assert data == _write(dict(reversed(factors.items())))  # the order of the modules does not matter
    read = read_adapter(data)
    assert (read.alpha, read.architecture, read.metadata) == (8.0, "llama", METADATA)
    assert read_adapter_metadata(data) == METADATA
    assert read.factors.keys() == factors.keys()
    for name, (left, right) in factors.items():
        np.testing.assert_array_equal(read.factors[name][0], left)
        np.testing.assert_array_equal(read.factors[name][1], right)


def test_an_adapter_without_a_guarantee_says_so_and_never_zero(tmp_path: Path) -> None:
    data = write_adapter(
        random_factors(0), alpha=8.0, metadata=AdapterMetadata(BASE, FRAME), architecture="llama", heads=4, kv_heads=2
    )
    assert read_adapter_metadata(data).epsilon is None
    (tmp_path / "adapter.gguf").write_bytes(data)
    assert GGUFReader(tmp_path / "adapter.gguf").fields["penchant.epsilon"].contents() == "none claimed"
    with pytest.raises(PenchantError, match="privacy spend"):
        read_adapter_metadata(data.replace(b"none claimed", b"plenty of it"))


def test_invocation_tokens_stand_where_llama_cpp_reads_them(tmp_path: Path) -> None:
    assert read_adapter_metadata(_write(random_factors(0))).invocation_tokens == ()
    metadata = replace(METADATA, invocation_tokens=(1, 520, 198))
    data = write_adapter(random_factors(0), alpha=8.0, metadata=metadata, architecture="llama", heads=4, kv_heads=2)
    assert read_adapter_metadata(data) == read_adapter(data).metadata == metadata
    (tmp_path / "adapter.gguf").write_bytes(data)
    field = GGUFReader(tmp_path / "adapter.gguf").fields["adapter.alora.invocation_tokens"]
    assert field.contents() == [1, 520, 198] and field.types[-1].name == "UINT32"
    for wrong in ((-1,), tuple(range(65))):
        with pytest.raises(PenchantError, match="invocation"):
            replace(METADATA, invocation_tokens=wrong)


def test_gguf_py_sees_the_names_shapes_and_keys_that_llama_cpp_wants(tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    path.write_bytes(_write(random_factors(0, layers=range(2, 3))))
    reader = GGUFReader(path)
    shapes = {tensor.name: tuple(tensor.data.shape) for tensor in reader.tensors}
    assert shapes["blk.2.attn_k.weight.lora_a"] == (4, 64)
    assert shapes["blk.2.attn_k.weight.lora_b"] == (32, 4)
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["adapter.lora.alpha"].contents() == 8.0
    assert reader.fields["penchant.base_sha256"].contents() == BASE


def test_only_the_rows_of_q_and_k_are_permuted(tmp_path: Path) -> None:
    """Row 2 i + h of the file is row h * (d / 2) + i of the head, d = 16 rows per head, h = 0 or 1."""
    path = tmp_path / "adapter.gguf"
    factors = random_factors(1, layers=range(3, 4))
    path.write_bytes(_write(factors))
    stored = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    in_head = np.array([h * 8 + i for i in range(8) for h in range(2)])
    for name, heads in (("attn_q", 4), ("attn_k", 2)):
        order = np.concatenate([16 * head + in_head for head in range(heads)])
        np.testing.assert_array_equal(stored[f"blk.3.{name}.weight.lora_b"], factors[f"blk.3.{name}"][1][order])
    for name in ("attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        np.testing.assert_array_equal(stored[f"blk.3.{name}.weight.lora_b"], factors[f"blk.3.{name}"][1])
    for name in ("attn_q", "attn_k"):
        np.testing.assert_array_equal(stored[f"blk.3.{name}.weight.lora_a"], factors[f"blk.3.{name}"][0])


def test_a_mixture_is_the_weighted_sum_of_the_products() -> None:
    parts = [(random_factors(seed, rank=rank), weight) for seed, rank, weight in ((0, 2, 0.5), (1, 3, -2.0))]
    del parts[1][0]["blk.2.attn_q"]  # a module that only one adapter has
    mixed = mix_adapters(parts)
    for name, (left, right) in mixed.items():
        expected = sum(
            weight * factors[name][1].astype(float) @ factors[name][0].astype(float)
            for factors, weight in parts
            if name in factors
        )
        np.testing.assert_allclose(right.astype(float) @ left.astype(float), expected, atol=1e-6)
    assert mixed["blk.2.attn_q"][0].shape[0] == 2 and mixed["blk.3.attn_q"][0].shape[0] == 5


def test_mixtures_of_different_models_are_refused() -> None:
    wide = random_factors(0, shapes={"attn_q": (128, 64)})
    with pytest.raises(PenchantError, match="different models"):
        mix_adapters([(random_factors(0, shapes={"attn_q": (64, 64)}), 1.0), (wide, 1.0)])
    with pytest.raises(PenchantError):
        mix_adapters([])
    with pytest.raises(PenchantError):
        mix_adapters([(wide, float("nan"))])


@pytest.mark.parametrize(
    "name_and_shapes",
    [
        ("blk.0.attn_q", (4, 64), (64, 3)),
        ("blk.0.attn_norm", (4, 64), (64, 4)),
        ("../etc", (4, 64), (64, 4)),
        ("blk.0.attn_q", (4, 64), (60, 4)),
    ],
)
def test_factors_that_are_no_adapter_are_refused(
    name_and_shapes: tuple[str, tuple[int, int], tuple[int, int]],
) -> None:
    name, left, right = name_and_shapes
    with pytest.raises(PenchantError):
        _write({name: (np.ones(left, dtype=np.float32), np.ones(right, dtype=np.float32))})


def test_values_that_are_not_finite_are_refused() -> None:
    factors = random_factors(0)
    factors["blk.2.attn_q"][1][0, 0] = np.inf
    with pytest.raises(PenchantError, match="finite"):
        _write(factors)
    with pytest.raises(PenchantError):
        _write(random_factors(0), alpha=float("nan"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_sha256": "x"},
        {"frame_sha256": "A" * 64},
        {"round": -1},
        {"epsilon": float("inf")},
        {"epsilon": float("nan")},
        {"epsilon": -1.0},
    ],
)
def test_senseless_metadata_is_refused(wrong: dict[str, str | int | float]) -> None:
    with pytest.raises(PenchantError):
        AdapterMetadata(**({"base_sha256": BASE, "frame_sha256": ""} | wrong))  # type: ignore[arg-type]


def test_a_foreign_or_truncated_file_is_refused() -> None:
    data = _write(random_factors(0))
    foreign, _ = encode_header(encode_pair("general.type", "adapter"), 1, [])
    for broken in (
        b"",
        b"GGUF",
        foreign,
        data[:-64],
        data[: len(data) // 2],
        data.replace(b"lora_b", b"lora_c"),
    ):
        with pytest.raises(PenchantError) as caught:
            read_adapter(broken)
        assert "\n" not in str(caught.value)
