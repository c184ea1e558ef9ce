from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from protocol.errors import PenchantError
from protocol.fleet_trust import FleetAuthority
from protocol.keys import SigningKey
from server.credentials import KEY_FILE, ServerCredentials

AUTHORITY = FleetAuthority("fleet", SigningKey.generate())
MEMBERS = frozenset({b"a" * 32, b"b" * 32})


def test_a_folder_gives_back_what_was_saved_and_keeps_its_key_to_itself(tmp_path: Path) -> None:
    issued = ServerCredentials.issue(AUTHORITY, MEMBERS, serial=7)
    issued.save(tmp_path / "server")
    loaded = ServerCredentials.load(tmp_path / "server")
    assert loaded.key.private_bytes == issued.key.private_bytes
    assert (loaded.fleet_id, loaded.serial, loaded.members) == ("fleet", 7, MEMBERS)
    assert (tmp_path / "server" / KEY_FILE).stat().st_mode & 0o077 == 0
    assert issued.key.private_bytes.hex() not in repr(issued)
    assert AUTHORITY.key.private_bytes not in b"".join(path.read_bytes() for path in (tmp_path / "server").iterdir())


def test_a_chain_that_does_not_hold_is_refused(tmp_path: Path) -> None:
    issued, stranger = ServerCredentials.issue(AUTHORITY, MEMBERS), FleetAuthority("fleet", SigningKey.generate())
    with pytest.raises(PenchantError, match="names another key"):
        dataclasses.replace(issued, key=SigningKey.generate())
    with pytest.raises(PenchantError, match="not signed"):
        dataclasses.replace(issued, roster=stranger.enrol(MEMBERS))
    with pytest.raises(PenchantError, match="not signed"):
        dataclasses.replace(issued, certificate=stranger.certify(issued.key.public_bytes))
    with pytest.raises(PenchantError, match="expired"):
        dataclasses.replace(issued, certificate=AUTHORITY.certify(issued.key.public_bytes, not_after=1))
    issued.save(tmp_path)
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(PenchantError, match="does not hold a server's credentials"):
        ServerCredentials.load(tmp_path)
