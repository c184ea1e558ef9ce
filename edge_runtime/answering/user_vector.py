"""The owner as one soft token before the prompt (Persona-Plug and Embedding-to-Prefix, see
``protocol/user_projection.py``).

The token is worked out from the vectors of the owner's memories whenever it is asked for, and nothing of it is kept:
what is forgotten is gone from the next token. The model's file is not touched; llama.cpp takes the token through its
embedding input (``Engine.generate(..., soft_prefix=...)``). Kept on the device is only the fleet's projection, which
is the same for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.embedder_file import EMBEDDER_SHA256
from protocol.errors import PenchantError
from protocol.user_projection import UserProjection

if TYPE_CHECKING:
    from edge_runtime.device import Device

PROJECTION_BLOB: Final = "fleet/user-projection"
LONGEST_HISTORY: Final = 512  # the newest so many, as in PPlug


@dataclass(frozen=True, eq=False)
class History:
    """What the owner said, oldest first: ids, texts and unit ``vectors`` (n, m) of their memories."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    vectors: NDArray[np.float32]

    def without(self, text: str) -> NDArray[np.float32]:
        """The vectors of everything that does not say the same as ``text``: (n - k, m)."""
        said = _canonical(text)
        return self.vectors[np.array([_canonical(other) != said for other in self.texts], dtype=np.bool_)]


def owner_history(device: Device) -> History:
    """The newest statements of the owner's own with the vectors that memory keeps of them.

    Documents and what others said are not the owner's voice. A memory whose vector an earlier embedding model made is
    left out until memory has embedded it anew.
    """
    width = device.embedder.dimension
    items = [item for item in device.memory.items(kinds=("statement",)) if not item.speaker]
    held = dict(
        device.vault.connection.execute(
            "SELECT memory_id, vector FROM memory_vectors WHERE length(vector) = ?", (4 * width,)
        ).fetchall()
    )
    kept = [item for item in items if item.id in held][-LONGEST_HISTORY:]
    joined = b"".join(held[item.id] for item in kept)
    vectors = np.frombuffer(joined, "<f4").astype(np.float32).reshape(len(kept), width)
    return History(tuple(item.id for item in kept), tuple(item.text for item in kept), vectors)


class UserVector:
    """The owner's soft token under the fleet's projection. ``strength`` scales what is personal in it; at 0 it is the
    token that everybody in the fleet has.

    Raises PenchantError if the projection was made for another model than ``base_sha256`` or for another embedder.
    """

    def __init__(self, device: Device, projection: UserProjection, *, base_sha256: str, strength: float = 1.0) -> None:
        frame = projection.frame
        if frame.base_sha256 != base_sha256:
            raise PenchantError("the fleet's user projection was made for another model; fetch the one for this model")
        check_embedder(device, projection)
        if not np.isfinite(strength) or strength < 0.0:
            raise PenchantError("the strength of the user vector is a number of 0 or more")
        self._device, self._projection, self._strength = device, projection, float(strength)

    def soft_prefix(self, request: str = "") -> NDArray[np.float32]:
        """The token (1, n) for a request; without one, or with an empty one, all of the history counts alike."""
        query = self._device.embedder.embed([request])[0] if request.strip() else None
        history = owner_history(self._device)
        person = self._projection.frame.person(history.vectors, query)
        return self._projection.token(person, self._strength).astype(np.float32)[None]


def install_projection(device: Device, release: bytes) -> UserProjection:
    """Keep the fleet's released projection, in place of an earlier one. The caller has checked where it comes from.

    Raises PenchantError if it cannot be read or reads another embedding model.
    """
    projection = UserProjection.from_bytes(release)
    check_embedder(device, projection)
    device.vault.put_blob(PROJECTION_BLOB, release)
    return projection


def installed_projection(device: Device) -> UserProjection | None:
    """The projection that this device keeps, if any."""
    release = device.vault.get_blob(PROJECTION_BLOB)
    return None if release is None else UserProjection.from_bytes(release)


def check_embedder(device: Device, projection: UserProjection) -> None:
    """Raise PenchantError unless the projection reads the vectors of this device's embedding model."""
    frame = projection.frame
    if frame.embedder_sha256 != EMBEDDER_SHA256 or len(frame.centre) != device.embedder.dimension:
        raise PenchantError("the fleet's user projection reads another embedding model; update this device")


def _canonical(text: str) -> str:
    return " ".join(text.casefold().split())
