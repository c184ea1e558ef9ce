from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from protocol.errors import PenchantError
from protocol.fleet_trust import FleetAuthority, ReleaseStatement, open_document
from protocol.keys import SigningKey
from server.credentials import ServerCredentials
from server.releases import ReleaseShelf

CREDENTIALS = ServerCredentials.issue(FleetAuthority("f", SigningKey.generate()), frozenset())


def publish(shelf: ReleaseShelf, name: str, data: bytes, round: int = 0):
    return shelf.publish(
        name, data, CREDENTIALS, run_id="r", round=round, epsilon=1.5, delta=1e-5, base_sha256="b" * 64
    )


def test_a_release_is_a_file_named_by_its_digest_and_listed(tmp_path: Path) -> None:
    shelf = ReleaseShelf(tmp_path)
    release = publish(shelf, "shared", b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert release.path == f"releases/shared-{digest[:12]}" and release.sha256 == digest
    assert (tmp_path / release.path).read_bytes() == b"weights"
    assert json.loads((tmp_path / "releases.json").read_text())["releases"][0]["epsilon"] == 1.5
    newest = publish(shelf, "shared", b"better weights", round=1)
    assert shelf.newest("shared") == newest and shelf.newest("bases") is None
    assert shelf.load(newest) == b"better weights"


def test_the_statement_beside_a_release_says_what_it_is_and_who_says_so(tmp_path: Path) -> None:
    shelf = ReleaseShelf(tmp_path)
    release = publish(shelf, "shared", b"weights", round=3)
    signed = shelf.load_signed(release)
    server = CREDENTIALS.key.public_bytes
    statement = open_document(ReleaseStatement, signed.statement, server, "f")
    assert (statement.name, statement.sha256, statement.round) == ("shared", release.sha256, 3)
    assert (statement.epsilon, statement.delta, statement.base_sha256) == (1.5, 1e-5, "b" * 64)
    without = dataclasses.replace(release, epsilon=float("inf")).signed(CREDENTIALS, b"weights")
    assert open_document(ReleaseStatement, without.statement, server, "f").epsilon is None
    (tmp_path / (release.path + ".signed")).unlink()
    with pytest.raises(PenchantError, match="statement"):
        shelf.load_signed(release)


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    shelf = ReleaseShelf(tmp_path)
    assert publish(shelf, "shared", b"weights") == publish(shelf, "shared", b"weights")
    assert len(shelf.all()) == 1


def test_a_flipped_byte_or_a_lost_file_is_refused(tmp_path: Path) -> None:
    shelf = ReleaseShelf(tmp_path)
    release = publish(shelf, "shared", b"weights")
    (tmp_path / release.path).write_bytes(b"weighty")
    with pytest.raises(PenchantError, match="altered"):
        shelf.load(release)
    (tmp_path / release.path).unlink()
    with pytest.raises(PenchantError, match="cannot be read"):
        shelf.load(release)


def test_names_stay_inside_the_folder_and_a_broken_manifest_says_so(tmp_path: Path) -> None:
    shelf = ReleaseShelf(tmp_path)
    for name in ("../evil", "", "UPPER", "a/b", ".hidden"):
        with pytest.raises(PenchantError, match="not allowed"):
            publish(shelf, name, b"x")
    (tmp_path / "releases.json").write_text("{")
    with pytest.raises(PenchantError, match="not a release manifest"):
        shelf.all()
