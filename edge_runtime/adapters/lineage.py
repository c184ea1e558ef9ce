"""Whether one base model descends from another, so that an adapter of the first may be tried on the second.

An adapter `B A` that was trained on W still fits `W' = W + change` where the model is otherwise the same (PortLLM,
arXiv 2410.10870): the same architecture and numbers that steer it, shapes, tokens, template and order of rows.
llama.cpp checks shapes alone. Here all but the weights must agree by digest, and the weights themselves tell descent:

    change = || W' - W ||_F / || W ||_F         (over the adapted maps, de-quantised)

Storing a model in 8 instead of 4 bits changes it by some percent, fine-tuning by less or little more; two models that
were trained apart lie at about sqrt(2), as independent vectors of equal length do. A file may also name its parent's
digest (`PARENT_KEY`): that is shown, and believed no further than the weights bear it out.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import sqrt
from typing import Final

import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

from edge_runtime.adapters.adapter_file import AdapterFile
from edge_runtime.models.catalogue import ModelFile
from edge_runtime.models.gguf_bytes import GgufHeader, read_header
from protocol.errors import PenchantError

PARENT_KEY: Final = "penchant.parent_sha256"
MOST_CHANGE: Final = 0.5  # of the weights' length; beyond it the new model is no descendant

_TEMPLATE_KEY: Final = "tokenizer.chat_template"
_FREE_SETTING: Final = "context_length"  # how far a model may read changes nothing that an adapter learnt

# How GGUF numbers the types of values, and the bytes of those of a fixed size.
_STRING, _ARRAY = 8, 9
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True)
class ModelTraits:
    """What must not differ between a base and its descendant; hex SHA-256, each of one part of the file."""

    architecture: str
    settings_sha256: str
    shapes_sha256: str
    tokenizer_sha256: str
    template_sha256: str


@dataclass(frozen=True)
class ModuleChange:
    """One adapted map: how far its weights moved relative to their length, and in lengths of the adapter's change."""

    module: str
    relative: float
    in_adapters: float


@dataclass(frozen=True)
class Lineage:
    """A checked descent. ``relative`` and ``in_adapters`` are taken over all adapted maps together; ``stated``: the
    new file names the old one as its parent (None: it names none, or another).
    """

    old_sha256: str
    new_sha256: str
    stated: bool | None
    relative: float
    in_adapters: float
    modules: tuple[ModuleChange, ...]


def model_traits(data: mmap.mmap, header: GgufHeader) -> ModelTraits:
    """The traits of a GGUF file whose header `read_header` has checked."""
    architecture = str(header.metadata.get("general.architecture", ""))
    digests = {part: sha256() for part in ("settings", "tokenizer", "template")}
    for key, value in sorted(_pairs(data, header)):
        if key == _TEMPLATE_KEY:
            part = "template"
        elif key.startswith("tokenizer."):
            part = "tokenizer"
        elif key.startswith(f"{architecture}.") and not key.endswith(f".{_FREE_SETTING}"):
            part = "settings"
        else:
            continue
        digests[part].update(len(key).to_bytes(8) + key.encode() + len(value).to_bytes(8) + value)
    shapes = sorted((entry.name, entry.shape) for entry in header.tensors)
    return ModelTraits(
        architecture,
        digests["settings"].hexdigest(),
        sha256(repr(shapes).encode()).hexdigest(),
        digests["tokenizer"].hexdigest(),
        digests["template"].hexdigest(),
    )


def _pairs(data: mmap.mmap, header: GgufHeader) -> Iterator[tuple[str, bytes]]:
    """Every metadata pair as (key, the bytes of its type and value), arrays included. The header has been checked, so
    every length in it lies inside the file."""
    (position, end), number, wide = header.pairs_span, struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from
    while position < end:
        (length,) = wide(data, position)
        key = bytes(data[position + 8 : position + 8 + length]).decode()
        start = position + 8 + length
        (kind,), position, count = number(data, start), start + 4, 1
        if kind == _ARRAY:
            (kind,), (count,), position = number(data, position), wide(data, position + 4), position + 12
        if kind == _STRING:
            for _ in range(count):
                position += 8 + wide(data, position)[0]
        else:
            position += count * _SIZES[kind]
        yield key, data[start:position]


def check_lineage(old: ModelFile, new: ModelFile, adapter: AdapterFile) -> Lineage:
    """How `new` descends from `old`, the base of `adapter`; PenchantError, with the reason, if it does not."""
    if adapter.metadata.base_sha256 != old.sha256:
        raise PenchantError(
            f"the adapter's base is {adapter.metadata.base_sha256[:12]}..., not {old.name} ({old.sha256[:12]}...): "
            "name the model that it was trained on"
        )
    if new.sha256 == old.sha256:
        raise PenchantError(f"the adapter is on {new.name} already")
    with (
        old.path.open("rb") as old_file,
        new.path.open("rb") as new_file,
        mmap.mmap(old_file.fileno(), 0, access=mmap.ACCESS_READ) as old_data,
        mmap.mmap(new_file.fileno(), 0, access=mmap.ACCESS_READ) as new_data,
    ):
        old_header, new_header = read_header(old_data, what=old.name), read_header(new_data, what=new.name)
        before, after = model_traits(old_data, old_header), model_traits(new_data, new_header)
        for field, meaning in (
            ("architecture", "architecture"),
            ("shapes_sha256", "shapes"),
            ("settings_sha256", "settings (heads, rotation or norm)"),
            ("tokenizer_sha256", "tokens"),
            ("template_sha256", "chat template"),
        ):
            if getattr(before, field) != getattr(after, field):
                raise PenchantError(
                    f"{new.name} differs from {old.name} in its {meaning}: an adapter cannot move there, train it anew"
                )
        modules = []
        moved = length = adapted = 0.0
        for module, (left, right) in sorted(adapter.factors.items()):
            weight = read_tensor(old_data, old_header, f"{module}.weight")
            change = read_tensor(new_data, new_header, f"{module}.weight") - weight
            sizes = _squared(change), _squared(weight), adapter_squared_norm(left, right, adapter.alpha)
            modules.append(ModuleChange(module, _ratio(sizes[0], sizes[1]), _ratio(sizes[0], sizes[2])))
            moved, length, adapted = moved + sizes[0], length + sizes[1], adapted + sizes[2]
        parent = new_header.metadata.get(PARENT_KEY)
    relative = _ratio(moved, length)
    if not relative <= MOST_CHANGE:
        raise PenchantError(
            f"the weights of {new.name} lie {relative:.2f} of their length from those of {old.name} (at most "
            f"{MOST_CHANGE}): it does not descend from it, train the adapter anew"
        )
    stated = None if not parent else parent == old.sha256
    return Lineage(old.sha256, new.sha256, stated, relative, _ratio(moved, adapted), tuple(modules))


def read_tensor(data: mmap.mmap, header: GgufHeader, name: str) -> NDArray[np.float32]:
    """One tensor of a GGUF file, de-quantised, in the file's row order; PenchantError if there is none."""
    entry = next((entry for entry in header.tensors if entry.name == name), None)
    if entry is None:
        raise PenchantError(f"the model has no {name}, which the adapter changes: open its own base")
    rows = np.frombuffer(data[entry.offset : entry.offset + entry.byte_count], dtype=np.uint8)
    return dequantize(rows.reshape(*entry.shape[:-1], -1), entry.kind).astype(np.float32, copy=False)


def adapter_squared_norm(left: NDArray[np.float32], right: NDArray[np.float32], alpha: float) -> float:
    """|| (alpha / r) B A ||_F^2 = tr((B^T B)(A A^T)), without the product's size; alpha 0: no factor."""
    scale = alpha / left.shape[0] if alpha else 1.0
    wide_left, wide_right = left.astype(np.float64), right.astype(np.float64)
    return scale**2 * float(np.sum((wide_right.T @ wide_right) * (wide_left @ wide_left.T)))


def _squared(values: NDArray[np.float32]) -> float:
    return float(np.sum(values.astype(np.float64) ** 2))


def _ratio(squared: float, other: float) -> float:
    return sqrt(squared / other) if other else float("inf")
