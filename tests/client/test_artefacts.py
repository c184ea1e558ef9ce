from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from client.artefacts import artefacts_for, held_digests, keep_artefacts
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError, ProtocolError


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_artefacts_are_kept_by_digest_and_checked_both_ways(tmp_path: Path) -> None:
    vault = Vault.open(tmp_path, b"k" * 32)
    keep_artefacts(vault, {digest(b"frame"): b"frame", digest(b"bases"): b"bases"})
    assert held_digests(vault) == tuple(sorted((digest(b"frame"), digest(b"bases"))))
    assert artefacts_for(vault, {"frame": digest(b"frame")}) == {"frame": b"frame"}
    with pytest.raises(ProtocolError, match="altered on the way"):
        keep_artefacts(vault, {digest(b"good"): b"good", digest(b"x"): b"y"})
    assert digest(b"good") not in held_digests(vault)  # all or nothing
    with pytest.raises(PenchantError, match="does not hold"):
        artefacts_for(vault, {"shared": digest(b"good")})
    vault.put_blob("artefact/" + digest(b"frame"), b"fr\x00me")
    with pytest.raises(PenchantError, match="altered on this device"):
        artefacts_for(vault, {"frame": digest(b"frame")})
