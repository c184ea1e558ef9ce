"""Reading CBOR from strangers: maps, lists, numbers, text and bytes, and not one tag.

A tag makes a CBOR library build richer things (big numbers, decimals, fractions, shared references), and some cost far
more than their bytes: a fuzzed input of a few hundred bytes kept the library busy for ten minutes. Nothing of ours uses
tags, so each is refused before its value is built, as are indefinite lengths, repeated keys and deep nesting.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import cbor2

MAXIMUM_DEPTH: Final = 16


def read_plain(data: bytes) -> Any:
    """The value of `data`. Raises ValueError or one of its kind (cbor2.CBORError) for anything else than plain CBOR."""
    return cbor2.loads(
        data,
        tag_hook=_refuse,
        semantic_decoders=_REFUSED,
        max_depth=MAXIMUM_DEPTH,
        allow_indefinite=False,
        allow_duplicate_keys=False,
    )


def _refuse(*_: object) -> NoReturn:
    raise ValueError("a CBOR tag")


_REFUSED: Final = dict.fromkeys((*range(1024), 43000, 55799), _refuse)  # all that the library knows, and room for more
