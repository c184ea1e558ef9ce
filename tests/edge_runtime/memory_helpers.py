"""What the tests of memory share: an embedder without a model, and SQLCipher pages decrypted by hand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

_PAGE, _RESERVED = 4096, 80  # 16 bytes of initial vector and 64 of HMAC-SHA512 end every page
_FRAME_HEADER, _LOG_HEADER = 24, 32

# Words that mean the same here, so that a dense match without a shared word exists.
_MEANINGS = {"hound": "dog", "pup": "dog", "automobile": "car", "residence": "home"}


class HashingEmbedder:
    """Sum of a fixed random direction per word, normalised; synonyms share a direction. Counts its calls."""

    def __init__(self, dimension: int = 64) -> None:
        self.dimension = dimension
        self.batches: list[int] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(len(texts))
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> NDArray[np.float32]:
        total = np.zeros(self.dimension)
        for word in re.findall(r"\w+", text.lower()):
            seed = int.from_bytes(hashlib.sha256(_MEANINGS.get(word, word).encode()).digest()[:8], "big")
            total += np.random.default_rng(seed).standard_normal(self.dimension)
        return (total / max(np.linalg.norm(total), 1e-9)).astype(np.float32)


def decrypted_pages(home: Path, key: bytes) -> bytes:
    """The content of every page of the file and of every frame of its log, in plaintext, free pages included.

    With a raw key SQLCipher uses it as it is: AES-256-CBC per page; the file begins with 16 bytes of salt.
    """
    database = (home / "penchant.db").read_bytes()
    pages = [database[at : at + _PAGE] for at in range(0, len(database), _PAGE)]
    log_path = home / "penchant.db-wal"
    log = log_path.read_bytes() if log_path.exists() else b""
    step = _FRAME_HEADER + _PAGE
    numbers_and_pages = list(enumerate(pages, 1))
    for at in range(_LOG_HEADER, len(log) - step + 1, step):
        page_number = int.from_bytes(log[at : at + 4], "big")
        numbers_and_pages.append((page_number, log[at + _FRAME_HEADER : at + step]))
    plain = []
    for number, page in numbers_and_pages:
        body = page[16 if number == 1 else 0 : _PAGE - _RESERVED]
        decryptor = Cipher(algorithms.AES(key), modes.CBC(page[_PAGE - _RESERVED : _PAGE - 64])).decryptor()
        plain.append(decryptor.update(body) + decryptor.finalize())
    return b"".join(plain)
