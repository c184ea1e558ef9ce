"""Below the adapted layers nothing changes: a person's hidden states, computed once and kept on disk.

One file per person, named by the digest of all that it depends on (model file, first adapted layer, number format,
texts, length limit), under ``$PENCHANT_CACHE/hidden`` (else the user's cache folder). Whoever needs the same person
again, in another round, run, fleet or process, maps the file; nobody keeps a population in memory, and a run that was
stopped has lost one person's at most. A damaged file is found by its checksum and made anew. The files hold what texts
say, unencrypted: for studies, never for a device.

    sha256 (32 bytes) | texts T, width t, hidden size h (int64) | lengths (T,) int64 | targets (T, t) int64
    | hidden (N, h), N = sum of lengths, in the model's number format
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from client.packed_texts import Packing
from client.torch_model import Batch, Text, TorchModel
from edge_runtime.models.catalogue import cache_folder, write_atomically
from protocol.errors import PenchantError

_SUM: Final = 32
_HEAD: Final = _SUM + 3 * 8
_BITS: Final = {torch.bfloat16: "<i2", torch.float32: "<f4"}  # numpy has no bfloat16


class HiddenFiles:
    """Prepared texts of a model (``base_sha256``: of its file), cut to ``max_tokens``, from disk where they lie."""

    def __init__(self, model: TorchModel, base_sha256: str, max_tokens: int, folder: Path | None = None) -> None:
        self._model, self._max_tokens = model, max_tokens
        self._folder = cache_folder() / "hidden" if folder is None else folder
        self._bits = _BITS[model.dtype]
        self.version = f"{base_sha256} {model.first_adapted} {model.dtype} {max_tokens}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise PenchantError("cannot create the cache folder: set PENCHANT_CACHE to a writable folder") from None

    def path(self, texts: Sequence[Text]) -> Path:
        """Where a person's file lies."""
        name = hashlib.sha256(f"{self.version}\n{[(list(text[0]), text[1]) for text in texts]}".encode())
        return self._folder / f"{name.hexdigest()[:40]}.bin"

    def batch(self, texts: Sequence[Text]) -> Batch:
        """``TorchModel.prepare`` of these texts, ``apart``: no text's loss depends on another's words."""
        path = self.path(texts)
        found = self._read(path)
        if found is None:
            found = self._model.prepare(texts, max_tokens=self._max_tokens, apart=True)
            write_atomically(path, self._bytes(found))
        return found

    def _bytes(self, batch: Batch) -> bytes:
        hidden = Packing.of(batch.lengths).pack(batch.hidden)
        bits = hidden.view(torch.int16) if batch.hidden.dtype == torch.bfloat16 else hidden
        head = np.array([*batch.targets.shape, hidden.shape[1]], dtype="<i8")
        parts = (head, batch.lengths.numpy(), batch.targets.numpy(), bits.numpy())
        body = b"".join(part.tobytes() for part in parts)
        return hashlib.sha256(body).digest() + body

    def _read(self, path: Path) -> Batch | None:
        """The batch of a whole file, else None."""
        try:
            mapped: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError):  # none, or an empty one
            return None
        if len(mapped) < _HEAD or hashlib.sha256(mapped[_SUM:].tobytes()).digest() != mapped[:_SUM].tobytes():
            return None
        texts, width, size = (int(number) for number in mapped[_SUM:_HEAD].view("<i8"))
        first, second = _HEAD + 8 * texts, _HEAD + 8 * texts * (1 + width)
        lengths = torch.from_numpy(mapped[_HEAD:first].view("<i8").copy())
        targets = torch.from_numpy(mapped[first:second].view("<i8").reshape(texts, width).copy())
        hidden = torch.from_numpy(mapped[second:].view(self._bits).reshape(-1, size).copy()).view(self._model.dtype)
        return Batch(Packing.of(lengths).pad(hidden), lengths, targets, None, True)
