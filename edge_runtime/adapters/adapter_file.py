"""LoRA adapters as GGUF bytes that llama.cpp reads, with the identity of their base, their parent and their
privacy spend.

An adapter changes a linear map W (out, in) by `delta W = (alpha / r) B A` with A (r, in) and B (out, r). With
alpha = 0 llama.cpp leaves the factor alpha / r out, which is the natural form of a mixture whose modules
differ in rank.

Factors are in torch's row order. Files of the llama architecture store the rows of q and k with the two
halves of each rotary pair interleaved, so the rows of their B are permuted on writing and restored on
reading; A is never permuted. Names are GGUF names without ".weight": "blk.26.attn_v".

An *activated* adapter (aLoRA, Greenewald et al. 2025, arXiv 2504.12397) was trained to act only from its
invocation tokens on; they stand in the file under the key that llama.cpp knows, so that it serves as it trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from edge_runtime.models.gguf_bytes import (
    GgufHeader,
    Scalar,
    encode_float32_pair,
    encode_header,
    encode_list_pair,
    encode_pair,
    pad_length,
    read_header,
)
from protocol.errors import PenchantError

Factors = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
NO_GUARANTEE = "none claimed"  # stands in the file in place of an epsilon

_WHAT = "this adapter"
_KEY = "penchant."
_INVOCATION_KEY = "adapter.alora.invocation_tokens"
_MOST_INVOCATION_TOKENS = 64
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODULE = re.compile(r"blk\.\d+\.(attn_q|attn_k|attn_v|attn_output|ffn_gate|ffn_up|ffn_down)")
_PERMUTED_ARCHITECTURE = "llama"


@dataclass(frozen=True)
class AdapterMetadata:
    """Where an adapter comes from. Digests are hex SHA-256 ("" where there is none); `epsilon` is the privacy
    spent on it, None where nothing is guaranteed (no noise, or nobody kept account): never a number that could be
    read as a promise; `created` is an ISO date; `invocation_tokens` are those from which on the adapter was trained
    to act (() if on every token). Validated at construction.
    """

    base_sha256: str
    frame_sha256: str
    parent_sha256: str = ""
    round: int = 0
    epsilon: float | None = None
    created: str = ""
    invocation_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.base_sha256):
            raise PenchantError("an adapter must name its base model by its SHA-256 (64 hex digits)")
        for digest in (self.frame_sha256, self.parent_sha256):
            if digest and not _DIGEST.fullmatch(digest):
                raise PenchantError(
                    "an adapter names its frame and parent by SHA-256 (64 hex digits), or leaves them empty"
                )
        if self.round < 0:
            raise PenchantError("an adapter's round must be at least 0")
        if self.epsilon is not None and not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise PenchantError("an adapter's epsilon must be finite and at least 0, or None where none is claimed")
        tokens = self.invocation_tokens
        if len(tokens) > _MOST_INVOCATION_TOKENS or not all(0 <= token < 1 << 31 for token in tokens):
            raise PenchantError(f"an adapter's invocation tokens must be at most {_MOST_INVOCATION_TOKENS} token ids")


@dataclass(frozen=True)
class AdapterFile:
    """A parsed adapter: float32 factors in torch's row order and the alpha that scales them."""

    factors: Factors
    alpha: float
    architecture: str
    metadata: AdapterMetadata


def write_adapter(
    factors: Factors,
    *,
    alpha: float,
    metadata: AdapterMetadata,
    architecture: str,
    heads: int,
    kv_heads: int,
) -> bytes:
    """The GGUF file of an adapter, in memory. `factors` maps a module to (A (r, in), B (out, r)); stored as
    float32.

    `alpha` as above (an adapter trained with rsLoRA needs alpha * sqrt(r)); `heads` and `kv_heads` are the
    base model's. The same input gives the same bytes. Raises PenchantError on factors that cannot be an
    adapter.
    """
    if not factors or not (math.isfinite(alpha) and alpha >= 0) or heads < 1 or kv_heads < 1:
        raise PenchantError("an adapter needs at least one module, alpha >= 0 and the base model's numbers of heads")
    arrays: list[tuple[str, NDArray[np.float32]]] = []
    for module in sorted(factors):
        left, right = _checked(module, *factors[module])
        head_count = _heads_of(module, architecture, heads, kv_heads)
        arrays.append((f"{module}.weight.lora_a", left))
        arrays.append((f"{module}.weight.lora_b", _interleave_rows(right, head_count) if head_count else right))
    pairs: list[tuple[str, Scalar]] = [
        ("general.architecture", architecture),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        (_KEY + "base_sha256", metadata.base_sha256),
        (_KEY + "frame_sha256", metadata.frame_sha256),
        (_KEY + "parent_sha256", metadata.parent_sha256),
        (_KEY + "round", metadata.round),
        (_KEY + "epsilon", NO_GUARANTEE if metadata.epsilon is None else float(metadata.epsilon)),
        (_KEY + "created", metadata.created),
        (_KEY + "heads", heads),
        (_KEY + "kv_heads", kv_heads),
    ]
    encoded = b"".join(encode_pair(key, value) for key, value in pairs) + encode_float32_pair(
        "adapter.lora.alpha", alpha
    )
    if metadata.invocation_tokens:
        encoded += encode_list_pair(_INVOCATION_KEY, metadata.invocation_tokens)
    count = len(pairs) + 1 + bool(metadata.invocation_tokens)
    layout = [(name, array.shape, GGMLQuantizationType.F32) for name, array in arrays]
    head, _ = encode_header(encoded, count, layout)
    body = bytearray(head)
    for _, array in arrays:
        raw = array.astype("<f4", copy=False).tobytes()
        body += raw + bytes(pad_length(len(raw)))
    return bytes(body)


def read_adapter_metadata(data: bytes) -> AdapterMetadata:
    """Only the metadata of an adapter file's bytes. Raises PenchantError if they are no adapter of ours."""
    return _metadata_of(read_header(data, what=_WHAT))


def read_adapter(data: bytes) -> AdapterFile:
    """The inverse of `write_adapter`. Raises PenchantError on anything that `write_adapter` would not have
    written.
    """
    header = read_header(data, what=_WHAT)
    metadata = _metadata_of(header)
    architecture = _text(header, "general.architecture")
    heads, kv_heads = _number(header, _KEY + "heads"), _number(header, _KEY + "kv_heads")
    arrays: dict[str, NDArray[np.float32]] = {}
    for entry in header.tensors:
        if entry.kind != GGMLQuantizationType.F32:
            raise PenchantError(f"{_WHAT} holds weights that are not float32: it was not written by this program")
        raw = data[entry.offset : entry.offset + entry.byte_count]
        arrays[entry.name] = np.frombuffer(raw, dtype="<f4").reshape(entry.shape).astype(np.float32)
    modules = {name.rsplit(".weight.", 1)[0] for name in arrays}
    if not modules or len(arrays) != 2 * len(modules):
        raise PenchantError(f"{_WHAT} lacks one half of a module: fetch it again")
    factors = {}
    for module in sorted(modules):
        left, right = arrays.get(f"{module}.weight.lora_a"), arrays.get(f"{module}.weight.lora_b")
        if left is None or right is None:
            raise PenchantError(f"{_WHAT} lacks one half of {module[:40]}: fetch it again")
        head_count = _heads_of(module, architecture, heads, kv_heads)
        left, right = _checked(module, left, right)
        factors[module] = (left, _separate_rows(right, head_count) if head_count else right)
    alpha = header.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, float):
        raise PenchantError(f"{_WHAT} does not state its alpha: fetch it again")
    return AdapterFile(factors, alpha, architecture, metadata)


def mix_adapters(parts: Sequence[tuple[Factors, float]]) -> Factors:
    """One adapter that equals `sum_k weight_k * B_k A_k`, exactly: ranks add up, A = [A_1; ...], B =
    [weight_1 B_1, ...].

    A weight holds all of a part's scale, its alpha / r included; write the result with `alpha=0`.
    """
    if not parts or not all(math.isfinite(weight) for _, weight in parts):
        raise PenchantError("a mixture needs at least one adapter and finite weights")
    mixed = {}
    for module in sorted({name for factors, _ in parts for name in factors}):
        present = [(*factors[module], weight) for factors, weight in parts if module in factors]
        if len({(left.shape[1], right.shape[0]) for left, right, _ in present}) != 1:
            raise PenchantError(f"adapters of different models cannot be mixed: {module} differs in shape")
        left = np.concatenate([left for left, _, _ in present], axis=0).astype(np.float32)
        right = np.concatenate([np.float32(weight) * right for _, right, weight in present], axis=1).astype(np.float32)
        mixed[module] = (left, right)
    return mixed


def _metadata_of(header: GgufHeader) -> AdapterMetadata:
    if header.metadata.get("general.type") != "adapter" or header.metadata.get("adapter.type") != "lora":
        raise PenchantError("these bytes are not an adapter: give an adapter file")
    epsilon = header.metadata.get(_KEY + "epsilon")
    if epsilon != NO_GUARANTEE and not isinstance(epsilon, float):
        raise PenchantError(f"{_WHAT} does not state its privacy spend: it was not written by this program")
    return AdapterMetadata(
        base_sha256=_text(header, _KEY + "base_sha256"),
        frame_sha256=_text(header, _KEY + "frame_sha256"),
        parent_sha256=_text(header, _KEY + "parent_sha256"),
        round=_number(header, _KEY + "round"),
        epsilon=epsilon if isinstance(epsilon, float) else None,
        created=_text(header, _KEY + "created"),
        invocation_tokens=header.lists.get(_INVOCATION_KEY, ()),
    )


def _text(header: GgufHeader, key: str) -> str:
    value = header.metadata.get(key)
    if not isinstance(value, str):
        raise PenchantError(f"{_WHAT} does not state {key}: it was not written by this program")
    return value


def _number(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise PenchantError(f"{_WHAT} does not state {key}: it was not written by this program")
    return value


def _checked(
    module: str, left: NDArray[np.float32], right: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if not _MODULE.fullmatch(module):
        raise PenchantError(f"an adapter cannot change {module[:40]!r}: name a linear map such as 'blk.26.attn_v'")
    left, right = np.asarray(left, dtype=np.float32), np.asarray(right, dtype=np.float32)
    if left.ndim != 2 or right.ndim != 2 or left.shape[0] != right.shape[1] or min(*left.shape, *right.shape) < 1:
        raise PenchantError(f"the factors of {module} must have the shapes (r, in) and (out, r)")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise PenchantError(f"the factors of {module} hold a value that is not finite: train the adapter again")
    return left, right


def _heads_of(module: str, architecture: str, heads: int, kv_heads: int) -> int:
    """The number of heads whose rows are interleaved in this module's file form; 0 if they are not."""
    if architecture != _PERMUTED_ARCHITECTURE:
        return 0
    return {"attn_q": heads, "attn_k": kv_heads}.get(module.rsplit(".", 1)[1], 0)


def _interleave_rows(rows: NDArray[np.float32], head_count: int) -> NDArray[np.float32]:
    """(out, r) in torch's order (two halves per head) to llama.cpp's (the halves' rows alternate)."""
    _check_heads(rows, head_count)
    halves = rows.reshape(head_count, 2, rows.shape[0] // head_count // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _separate_rows(rows: NDArray[np.float32], head_count: int) -> NDArray[np.float32]:
    """The inverse of `_interleave_rows`."""
    _check_heads(rows, head_count)
    pairs = rows.reshape(head_count, rows.shape[0] // head_count // 2, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def _check_heads(rows: NDArray[np.float32], head_count: int) -> None:
    if head_count < 1 or rows.shape[0] % (2 * head_count):
        raise PenchantError("an adapter's rows do not divide into its model's heads: check heads and kv_heads")
