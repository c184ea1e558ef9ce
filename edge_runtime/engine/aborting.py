"""Stopping llama.cpp in the middle of a decode, from another thread.

llama.cpp asks a callback after every operation of its graph, about a thousand times per token. A callback written
in Python would have to take the interpreter's lock each time; here it is the C library's `strlen` on a buffer of
two bytes, whose first byte is zero (length 0, false: go on) until `request` writes to it (length 1, true: stop).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import Any

from llama_cpp.llama_cpp import ggml_abort_callback

from protocol.errors import PenchantError


class Aborted(PenchantError):  # noqa: N818  (the name says what happened)
    """Somebody asked for the running evaluation to stop; what was evaluated before stays usable."""

    def __init__(self) -> None:
        super().__init__("the answer was stopped: ask again")


class AbortFlag:
    """One flag that any number of contexts look at. It must outlive them."""

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)
        library = ctypes.CDLL(None if os.name == "posix" else ctypes.util.find_library("msvcrt"))
        self.callback: Any = ctypes.cast(library.strlen, ggml_abort_callback)
        self.data = ctypes.c_void_p(ctypes.addressof(self._buffer))

    def request(self) -> None:
        """Ask what runs now to stop; safe from any thread."""
        self._buffer[0] = b"x"

    def clear(self) -> None:
        """Begin something new."""
        self._buffer[0] = b"\0"

    def check(self) -> None:
        """Raises Aborted if `request` was called since the last `clear`."""
        if self._buffer[0] != b"\0":
            raise Aborted
