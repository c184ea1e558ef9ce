from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from client.artefacts import Artefacts
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError, ProtocolError
from protocol.fleet_trust import ReleaseStatement
from tests.protocol.secure_sum_fleet import make_task


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stated(name: str, data: bytes, **changes: object) -> tuple[ReleaseStatement, bytes]:
    fields = {
        "fleet_id": "f", "name": name, "sha256": digest(data), "run_id": "r", "round": 0, "epsilon": 1.0,
        "delta": 1e-5, "base_sha256": "b" * 64, **changes,
    }  # fmt: skip
    return ReleaseStatement.model_validate(fields), data


def task(**roles: str):
    return make_task(4, fleet_id="f", artefacts=roles)


def test_artefacts_are_kept_by_digest_and_checked_both_ways(tmp_path: Path) -> None:
    vault = Vault.open(tmp_path, b"k" * 32)
    held = Artefacts(vault)
    held.keep([stated("frame", b"frame"), stated("bases", b"bases")])
    assert held.digests() == tuple(sorted((digest(b"frame"), digest(b"bases"))))
    assert held.of_task(task(frame=digest(b"frame"))) == {"frame": b"frame"}
    with pytest.raises(ProtocolError, match="altered on the way"):
        held.keep([stated("good", b"good"), stated("x", b"y", sha256=digest(b"x"))])
    assert digest(b"good") not in held.digests()  # all or nothing
    with pytest.raises(PenchantError, match="does not hold"):
        held.of_task(task(shared=digest(b"good")))
    vault.connection.execute("UPDATE fleet_artefacts SET data=? WHERE name='frame'", (b"fr\0me",))
    with pytest.raises(PenchantError, match="altered on this device"):
        held.of_task(task(frame=digest(b"frame")))


def test_an_artefact_of_another_base_or_fleet_is_not_used(tmp_path: Path) -> None:
    held = Artefacts(Vault.open(tmp_path, b"k" * 32))
    held.keep([stated("one", b"1", base_sha256="c" * 64), stated("two", b"2", fleet_id="g")])
    for data in (b"1", b"2"):
        with pytest.raises(PenchantError, match="another fleet or base"):
            held.of_task(task(shared=digest(data)))


def test_an_older_release_of_a_run_is_a_replay(tmp_path: Path) -> None:
    held = Artefacts(Vault.open(tmp_path, b"k" * 32))
    held.keep([stated("shared", b"second", round=2)])
    with pytest.raises(ProtocolError, match="older"):
        held.keep([stated("shared", b"first", round=1)])
    held.keep([stated("bases", b"of round 1", round=1), stated("shared", b"other run", run_id="s", round=0)])
    held.keep([stated("shared", b"third", round=3)])
    assert digest(b"first") not in held.digests()
