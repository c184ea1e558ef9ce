"""The GGUF container as bytes: a strict reader and a small writer (GGUF version 3, little endian).

Why not gguf-py for this: its reader and writer take paths, and a personal adapter must never touch the disk
in the clear; its reader also builds every vocabulary entry as an array (1.8 s for 49,152 words, 0.1 s here);
and the digests of files written here are pinned, so their bytes must not change with a library's version.
gguf-py supplies quantisation arithmetic. Every length is checked against the bytes that are there, so a
truncated or malformed file ends in one `PenchantError` and never in an allocation of the size it claims.

Layout: magic "GGUF", version u32, tensor count u64, pair count u64, key-value pairs, tensor infos, padding,
tensor data. Shapes are numpy shapes here (rows first); the file stores them reversed.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from protocol.errors import PenchantError

Scalar = str | int | float | bool
Buffer = bytes | bytearray | memoryview | mmap.mmap

_MAGIC = b"GGUF"
_VERSION = 3
_SUPPORTED_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MOST_ENTRIES = 1 << 16
_LONGEST_NAME = 1 << 16
_MOST_DIMENSIONS = 4
_LONGEST_LIST = 1024
# GGUF value type number -> struct format of one value.
_SCALAR_FORMATS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_UINT32, _INT32, _FLOAT32, _BOOL, _FLOAT64 = 4, 5, 6, 7, 12


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: numpy `shape` (elements, not bytes), where its bytes start in the file and how
    many they are.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    byte_count: int


@dataclass(frozen=True)
class GgufHeader:
    """All of a GGUF file but its tensor data. Arrays in the metadata are skipped, but for lists of u32 of up to
    1,024 numbers (`lists`); `value_offsets` locates each scalar.
    """

    metadata: Mapping[str, Scalar]
    lists: Mapping[str, tuple[int, ...]]
    value_offsets: Mapping[str, int]
    pair_count: int
    pairs_span: tuple[int, int]
    tensors: tuple[TensorEntry, ...]


class _Cursor:
    """Reads forward through a buffer and refuses to step outside it."""

    def __init__(self, data: Buffer, what: str) -> None:
        self.data, self.what, self.position, self.length = data, what, 0, len(data)

    def fail(self, reason: str) -> PenchantError:
        return PenchantError(f"{self.what} is not a usable GGUF file ({reason}): get it again from where it came from")

    def take(self, count: int) -> int:
        start = self.position
        if count < 0 or count > self.length - start:
            raise self.fail("it ends too early")
        self.position = start + count
        return start

    def number(self, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self.data, self.take(struct.calcsize(layout)))
        return int(value)

    def scalar(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self.text()
        layout = _SCALAR_FORMATS.get(kind)
        if layout is None:
            raise self.fail(f"unknown value type {kind}")
        (value,) = struct.unpack_from(layout, self.data, self.take(struct.calcsize(layout)))
        return value  # type: ignore[no-any-return]

    def text(self, longest: int | None = None) -> str:
        count = self.number("<Q")
        if longest is not None and count > longest:
            raise self.fail("a name is too long")
        start = self.take(count)
        try:
            return bytes(self.data[start : start + count]).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("a text is not UTF-8") from None

    def short_list(self) -> tuple[int, ...] | None:
        """Reads an array: its numbers if it is a short list of u32, else None."""
        kind, count = self.number("<I"), self.number("<Q")
        if kind == _UINT32 and count <= _LONGEST_LIST:
            return struct.unpack_from(f"<{count}I", self.data, self.take(4 * count))
        if kind == _STRING:
            if count > self.length // 8:
                raise self.fail("an array is longer than the file")
            unpack, position, end = struct.Struct("<Q").unpack_from, self.position, self.length
            for _ in range(count):
                if position + 8 > end:
                    raise self.fail("it ends too early")
                position += 8 + unpack(self.data, position)[0]
            self.take(position - self.position)
        elif kind in _SCALAR_FORMATS:
            self.take(count * struct.calcsize(_SCALAR_FORMATS[kind]))
        else:
            raise self.fail(f"an array of unknown type {kind}")
        return None


def read_header(data: Buffer, *, what: str = "this file") -> GgufHeader:
    """Parse and check a GGUF file held in `data` (bytes or a memory map). `what` names it in the error
    message.

    Raises PenchantError if anything is malformed, doubled, or if a tensor's bytes lie outside the file.
    """
    cursor = _Cursor(data, what)
    start = cursor.take(4)
    if bytes(data[start : start + 4]) != _MAGIC:
        raise cursor.fail("wrong magic bytes")
    version = cursor.number("<I")
    if version not in _SUPPORTED_VERSIONS:
        raise cursor.fail(f"version {version}")
    tensor_count, pair_count = cursor.number("<Q"), cursor.number("<Q")
    if tensor_count > _MOST_ENTRIES or pair_count > _MOST_ENTRIES:
        raise cursor.fail("too many entries")

    metadata: dict[str, Scalar] = {}
    lists: dict[str, tuple[int, ...]] = {}
    seen: set[str] = set()
    offsets: dict[str, int] = {}
    pairs_start = cursor.position
    for _ in range(pair_count):
        key = cursor.text(_LONGEST_NAME)
        if key in seen:
            raise cursor.fail("a key is given twice")
        seen.add(key)
        kind = cursor.number("<I")
        if kind == _ARRAY:
            if (numbers := cursor.short_list()) is not None:
                lists[key] = numbers
        else:
            offsets[key] = cursor.position
            metadata[key] = cursor.scalar(kind)
    pairs_end = cursor.position

    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise cursor.fail("bad alignment")
    data_start = _round_up(cursor.position, alignment)
    tensors = []
    for name, shape, kind_, offset in infos:
        byte_count = tensor_bytes(shape, kind_)
        if offset % alignment or data_start + offset + byte_count > cursor.length:
            raise cursor.fail("it is truncated or a tensor lies outside it")
        tensors.append(TensorEntry(name, shape, kind_, data_start + offset, byte_count))
    if len({entry.name for entry in tensors}) != len(tensors):
        raise cursor.fail("a tensor is given twice")
    return GgufHeader(metadata, lists, offsets, pair_count, (pairs_start, pairs_end), tuple(tensors))


def _tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
    name = cursor.text(_LONGEST_NAME)
    dimensions = cursor.number("<I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise cursor.fail("a tensor has a strange number of dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))[::-1]
    number = cursor.number("<I")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise cursor.fail(f"unknown tensor type {number}") from None
    if min(shape) < 1 or shape[-1] % GGML_QUANT_SIZES[kind][0]:
        raise cursor.fail("a tensor has a strange shape")
    return name, shape, kind, cursor.number("<Q")


def tensor_bytes(shape: Sequence[int], kind: GGMLQuantizationType) -> int:
    """Bytes that a tensor of numpy `shape` takes when stored as `kind`; its rows must be whole blocks."""
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block_elements * block_bytes


def encode_pair(key: str, value: Scalar) -> bytes:
    """One metadata pair: str as string, bool as bool, int as u32 (must be 0 <= value < 2^32), float as f64."""
    if isinstance(value, str):
        return _encode_text(key) + struct.pack("<I", _STRING) + _encode_text(value)
    if isinstance(value, bool):
        return _encode_text(key) + struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        if not 0 <= value < 1 << 32:
            raise PenchantError(f"the number for {key} must lie between 0 and 2^32 - 1")
        return _encode_text(key) + struct.pack("<II", _UINT32, value)
    return _encode_text(key) + struct.pack("<Id", _FLOAT64, value)


def encode_float32_pair(key: str, value: float) -> bytes:
    """One metadata pair whose reader insists on 32 bits (llama.cpp reads `adapter.lora.alpha` so)."""
    return _encode_text(key) + struct.pack("<If", _FLOAT32, value)


def encode_array_pair(key: str, values: Sequence[str] | Sequence[int]) -> bytes:
    """One metadata pair holding a list of texts, or of integers (as i32)."""
    kind = _STRING if values and isinstance(values[0], str) else _INT32
    head = _encode_text(key) + struct.pack("<IIQ", _ARRAY, kind, len(values))
    if kind == _INT32:
        return head + struct.pack(f"<{len(values)}i", *values)
    return head + b"".join(_encode_text(str(value)) for value in values)


def encode_list_pair(key: str, values: Sequence[int]) -> bytes:
    """One metadata pair holding a list of u32 (llama.cpp reads `adapter.alora.invocation_tokens` so)."""
    return _encode_text(key) + struct.pack(f"<IIQ{len(values)}I", _ARRAY, _UINT32, len(values), *values)


def encode_header(
    pairs: bytes, pair_count: int, tensors: Sequence[tuple[str, tuple[int, ...], GGMLQuantizationType]]
) -> tuple[bytes, tuple[int, ...]]:
    """All that precedes the tensor data, padded, for `tensors` (name, numpy shape, stored type) in that
    order.

    `pairs` are encoded metadata pairs. Returns the bytes and each tensor's offset relative to their end. Data
    and gaps between tensors are the caller's to write; the file must end on a multiple of the alignment (32).
    """
    infos, offsets, position = [], [], 0
    for name, shape, kind in tensors:
        reverse = shape[::-1]
        infos.append(
            _encode_text(name) + struct.pack(f"<I{len(reverse)}QIQ", len(reverse), *reverse, int(kind), position)
        )
        offsets.append(position)
        position += pad_length(tensor_bytes(shape, kind)) + tensor_bytes(shape, kind)
    head = _MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), pair_count) + pairs + b"".join(infos)
    return head + bytes(pad_length(len(head))), tuple(offsets)


def pad_length(count: int) -> int:
    """Zero bytes to add after `count` bytes to reach the alignment."""
    return -count % _DEFAULT_ALIGNMENT


def _encode_text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
