"""Adapters as folders that the PEFT library reads and writes: `adapter_config.json` and `adapter_model.safetensors`.

PEFT adds `s B A` to a linear map, with `s = alpha / r`, or `alpha / sqrt(r)` where rsLoRA is on (Kalajdzievski 2023,
arXiv 2312.03732); r and alpha may differ by module. Both directions are exact up to float32: an export keeps the
file's alpha, and an import multiplies `s` into B (its file says alpha = 0: no further factor). Factors are in torch's
row order on both sides (`adapter_file` permutes the rows of q and k).

A folder comes from anywhere. Two files of it are opened, by their fixed names, without following links, and never a
pickle: old `.bin` weights can run code. What a PEFT adapter can do beyond LoRA on the seven linear maps of a layer is
refused by name rather than left out in silence, and so is a start that changed the base model's own weights (PiSSA,
OLoRA, CorDA): such an adapter fits only that changed model.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.adapters.adapter_file import AdapterFile, AdapterMetadata, write_adapter
from edge_runtime.models.catalogue import ModelFile, read_model_header, read_model_shape
from protocol.errors import PenchantError

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
PICKLED_FILE: Final = "adapter_model.bin"
HUGGING_FACE_NAMES: Final[Mapping[str, str]] = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MOST_CONFIG_BYTES: Final = 1 << 20
MOST_WEIGHT_BYTES: Final = 1 << 30

_GGUF_NAMES: Final = {name: kind for kind, name in HUGGING_FACE_NAMES.items()}
_KEY: Final = re.compile(r"base_model\.model\.model\.layers\.(\d{1,4})\.(\w+\.\w+)\.lora_([AB])\.weight")
_PLAIN_NAME: Final = re.compile(r"[\w.]{1,200}")
_DTYPES: Final = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_BASE_KEY: Final = "penchant.base_sha256"
_HARMLESS_STARTS: Final = ("gaussian", "orthogonal", "eva")
# What else a LoRA adapter of PEFT can be, in its configuration's words; false, none or empty: it is not.
_UNSUPPORTED: Final = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules of its own (modules_to_save)",
    "trainable_token_indices": "words of its own (trainable_token_indices)",
    "target_parameters": "parameters other than linear maps (target_parameters)",
    "layer_replication": "layers that are used twice (layer_replication)",
    "lora_bias": "a bias (lora_bias)",
    "fan_in_fan_out": "transposed maps (fan_in_fan_out)",
    "alora_invocation_tokens": "activation by certain tokens (aLoRA)",
    "use_qalora": "QALoRA",
}


class _Config(BaseModel):
    """The part of `adapter_config.json` that is understood; the rest is looked at by name (`_UNSUPPORTED`)."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    peft_type: str
    r: int = Field(ge=1, le=4096)
    lora_alpha: float = Field(allow_inf_nan=False)
    use_rslora: bool = False
    bias: str = "none"
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    alpha_pattern: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}
    init_lora_weights: bool | str | None = True


def export_adapter(adapter: AdapterFile, folder: Path, *, base_name: str) -> None:
    """Write `adapter` as a PEFT folder, readable by its owner alone. `base_name` is for a reader: what PEFT should load
    it onto. The folder must be new or empty.

    The base's digest travels in the weights file, so that an import onto another base is refused. What it cost in
    privacy does not: nobody can check it there.
    """
    from safetensors.numpy import save

    if adapter.metadata.invocation_tokens:
        raise PenchantError("this adapter acts from certain tokens on (aLoRA): PEFT counts them in another way")
    tensors: dict[str, NDArray[np.float32]] = {}
    ranks: dict[str, int] = {}
    for module, (left, right) in adapter.factors.items():
        name = _hugging_face_name(module)
        ranks[name] = left.shape[0]
        tensors[f"base_model.model.{name}.lora_A.weight"] = np.ascontiguousarray(left, dtype=np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.ascontiguousarray(right, dtype=np.float32)
    rank = Counter(ranks.values()).most_common(1)[0][0]
    other_ranks = {name: own for name, own in ranks.items() if own != rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        # alpha = 0 in our file: B holds the whole scale, and alpha / r is to be one for every module.
        "lora_alpha": adapter.alpha or float(rank),
        "rank_pattern": other_ranks,
        "alpha_pattern": {} if adapter.alpha else {name: float(own) for name, own in other_ranks.items()},
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }
    weights = save(tensors, metadata={"format": "pt", _BASE_KEY: adapter.metadata.base_sha256})
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise PenchantError(f"{folder} is not empty: give a new folder")
        for file, data in ((CONFIG_FILE, json.dumps(config, indent=2).encode()), (WEIGHTS_FILE, weights)):
            handle = os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as target:
                target.write(data)
    except OSError as error:
        raise PenchantError(f"cannot write to {folder}: {error.strerror}") from None


def import_adapter(folder: Path, model: ModelFile, *, created: str) -> bytes:
    """The adapter file (see `adapter_file`) of a PEFT folder, for `model`; it claims no privacy and no frame.

    Raises PenchantError, with what to do, on anything that is not plain LoRA on linear maps of `model`'s shapes, on an
    adapter that names another base, and on files that are too large, linked, pickled or damaged.
    """
    if not folder.is_dir():
        raise PenchantError(f"{folder} is not a folder: give the folder that holds {CONFIG_FILE}")
    if (folder / PICKLED_FILE).exists() and not (folder / WEIGHTS_FILE).exists():
        raise PenchantError(f"{PICKLED_FILE} is a pickle and could run code: save the adapter as {WEIGHTS_FILE}")
    config = _read_config(_read(folder / CONFIG_FILE, MOST_CONFIG_BYTES))
    tensors, base = _read_weights(_read(folder / WEIGHTS_FILE, MOST_WEIGHT_BYTES))
    if base and base != model.sha256:
        raise PenchantError(
            f"this adapter was exported for another base model ({base[:12]}..., not {model.sha256[:12]}...): import "
            "it for that model, then use `penchant adapters move`"
        )
    factors = _factors(config, tensors)
    check_shapes(factors, model)
    shape = read_model_shape(model.path)
    return write_adapter(
        factors,
        alpha=0.0,
        metadata=AdapterMetadata(base_sha256=model.sha256, frame_sha256="", created=created),
        architecture=shape.architecture,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
    )


def check_shapes(factors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]], model: ModelFile) -> None:
    """Raises PenchantError unless every module (A (r, in), B (out, r)) is a linear map of `model` of its shape."""
    shapes = {entry.name: entry.shape for entry in read_model_header(model.path).tensors}
    for module, (left, right) in sorted(factors.items()):
        wanted = shapes.get(f"{module}.weight")
        if wanted is None:
            raise PenchantError(f"the adapter changes {module}, which {model.name} does not have: open its own base")
        if wanted != (right.shape[0], left.shape[1]):
            raise PenchantError(
                f"the adapter's {module} is {right.shape[0]} x {left.shape[1]}, in {model.name} it is "
                f"{' x '.join(map(str, wanted))}: it was made for another base model"
            )


def _factors(
    config: _Config, tensors: Mapping[str, NDArray[np.float32]]
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """PEFT's tensors as factors of modules, the whole scale in B."""
    halves: dict[str, dict[str, NDArray[np.float32]]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        kind = _GGUF_NAMES.get(match[2]) if match else None
        if match is None or kind is None:
            raise PenchantError(
                f"the adapter holds {_shown(key)}, which is not LoRA on a linear map of a layer: it cannot be imported"
            )
        halves.setdefault(f"blk.{int(match[1])}.{kind}", {})[match[3]] = tensor
    factors = {}
    for module, pair in halves.items():
        if len(pair) != 2:
            raise PenchantError(f"the adapter lacks one half of {module}: get it again from where it came from")
        left, right = pair["A"], pair["B"]
        name = _hugging_face_name(module)
        rank = _of_pattern(config.rank_pattern, name, config.r)
        alpha = _of_pattern(config.alpha_pattern, name, config.lora_alpha)
        if left.ndim != 2 or right.ndim != 2 or not left.shape[0] == right.shape[1] == rank:
            raise PenchantError(f"the factors of {module} do not have the rank {rank} that {CONFIG_FILE} states")
        scale = alpha / math.sqrt(rank) if config.use_rslora else alpha / rank
        factors[module] = (left, np.float32(scale) * right)
    return factors


def _of_pattern(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    """As PEFT looks a module up: the first key that is its name or a dotted end of it."""
    return next((value for key, value in pattern.items() if name == key or name.endswith(f".{key}")), default)


def _read_config(data: bytes) -> _Config:
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise ValueError
        config = _Config.model_validate(fields)
    except (ValueError, RecursionError, ValidationError):
        raise PenchantError(f"{CONFIG_FILE} is not the configuration of a LoRA adapter: export it again") from None
    if config.peft_type != "LORA":
        raise PenchantError(f"this adapter is of the kind {_shown(config.peft_type)}: only LoRA can be imported")
    for field, meaning in _UNSUPPORTED.items():
        if fields.get(field):
            raise PenchantError(f"this adapter uses {meaning}: only plain LoRA on linear maps can be imported")
    if config.bias != "none":
        raise PenchantError("this adapter trains biases: only plain LoRA on linear maps can be imported")
    if isinstance(config.init_lora_weights, str) and config.init_lora_weights not in _HARMLESS_STARTS:
        raise PenchantError(
            f"this adapter was started from {_shown(config.init_lora_weights)}, which may change the base model's own "
            "weights: convert it to plain LoRA first (path_initial_model_for_weight_conversion)"
        )
    for key in (*config.rank_pattern, *config.alpha_pattern):
        if not _PLAIN_NAME.fullmatch(key):
            raise PenchantError(f"{CONFIG_FILE} names modules by a pattern, {_shown(key)}: write their names out")
    return config


def _read_weights(data: bytes) -> tuple[dict[str, NDArray[np.float32]], str]:
    """The tensors of a safetensors file in float32, and the digest of the base that it names ("" if none)."""
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, RecursionError):
        raise PenchantError(f"{WEIGHTS_FILE} is damaged: get it again from where it came from") from None
    tensors = {}
    for name, entry in entries:
        layout = _DTYPES.get(entry["dtype"])
        if layout is None:
            raise PenchantError(f"the adapter's numbers are {_shown(entry['dtype'])}: save it as float32 or float16")
        raw = np.frombuffer(entry["data"], dtype=layout).reshape(entry["shape"])
        # bfloat16 is the upper half of a float32
        wide = (raw.astype("<u4") << 16).view("<f4") if entry["dtype"] == "BF16" else raw.astype(np.float32)
        tensors[name] = wide.astype(np.float32)
    return tensors, str(header.get("__metadata__", {}).get(_BASE_KEY, ""))


def _read(path: Path, most_bytes: int) -> bytes:
    """A regular file's bytes: no link is followed, no pipe waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise PenchantError(f"{path.name} is not a plain file: give a folder as PEFT saves it")
            data = file.read(most_bytes + 1)
    except OSError:
        raise PenchantError(
            f"cannot read {path.name} in {path.parent}: give a folder as PEFT saves it (links are not followed)"
        ) from None
    if len(data) > most_bytes:
        raise PenchantError(f"{path.name} is larger than {most_bytes >> 20} MiB: it cannot be an adapter")
    return data


def _hugging_face_name(module: str) -> str:
    _, layer, kind = module.split(".")
    return f"model.layers.{layer}.{HUGGING_FACE_NAMES[kind]}"


def _shown(text: str) -> str:
    """A stranger's text in an error: short, printable."""
    return repr(text[:60])
