"""From an adapter file's bytes to an adapter in llama.cpp, by way of memory: what is decrypted is not written
to disk.

Order matters: the digest first (the GGUF parser must not see bytes that somebody altered), then our own
strict reader and the base model's digest (llama.cpp checks shapes only and would accept another model of the
same shape), then llama.cpp.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama

from edge_runtime.adapters.adapter_file import AdapterMetadata, read_adapter_metadata
from edge_runtime.engine import llama_bindings
from edge_runtime.models.catalogue import ModelFile
from protocol.errors import PenchantError


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter loaded in one engine. `sha256` is the hex digest of its file."""

    sha256: str
    metadata: AdapterMetadata
    pointer: Any


def check_digest(data: bytes, sha256: str) -> None:
    """Raises PenchantError unless `sha256` (hex) is the digest of `data`."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PenchantError("the adapter's bytes do not match its digest: it was altered or damaged, fetch it again")


def load(model_handle: Any, data: bytes, sha256: str, model: ModelFile) -> Adapter:
    """Hand checked bytes to llama.cpp. Raises PenchantError if the adapter is malformed or made for another
    model.
    """
    metadata = read_adapter_metadata(data)
    if metadata.base_sha256 != model.sha256:
        raise PenchantError(
            f"this adapter was made for another base model ({metadata.base_sha256[:12]}..., not "
            f"{model.sha256[:12]}...): open that model or train the adapter again"
        )
    llama_bindings.last_error()
    pointer = _init_from_bytes(model_handle, data)
    if not pointer:
        raise PenchantError(f"llama.cpp refused the adapter{llama_bindings.last_error()}: it does not fit {model.name}")
    if llama.llama_adapter_get_alora_n_invocation_tokens(pointer) != len(metadata.invocation_tokens):
        llama.llama_adapter_lora_free(pointer)
        raise PenchantError("the adapter's invocation tokens cannot be read: train it again")
    return Adapter(sha256, metadata, pointer)


def _init_from_bytes(model_handle: Any, data: bytes) -> Any:
    libc = _c_library()
    if libc is None:
        return _init_from_temporary_file(model_handle, data)
    buffer = ctypes.create_string_buffer(data, len(data))
    try:
        stream = libc.fmemopen(buffer, len(data), b"rb")
        if not stream:
            raise PenchantError("the system could not open the adapter in memory: free some memory and try again")
        try:
            return llama.llama_adapter_lora_init_from_file_ptr(model_handle, ctypes.c_void_p(stream))
        finally:
            libc.fclose(ctypes.c_void_p(stream))
    finally:
        ctypes.memset(buffer, 0, len(data))


def _init_from_temporary_file(model_handle: Any, data: bytes) -> Any:
    """Where the C library has no fmemopen (Windows): a private temporary file, overwritten and removed at
    once.
    """
    handle, path = tempfile.mkstemp(suffix=".gguf")
    try:
        with os.fdopen(handle, "r+b") as file:
            file.write(data)
            file.flush()
            pointer = llama.llama_adapter_lora_init(model_handle, path.encode())
            file.seek(0)
            file.write(bytes(len(data)))
        return pointer
    finally:
        os.unlink(path)


@functools.cache
def _c_library() -> Any:
    if os.name != "posix":
        return None
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "fmemopen"):
        return None
    libc.fmemopen.restype = ctypes.c_void_p
    libc.fmemopen.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.fclose.argtypes = [ctypes.c_void_p]
    return libc
