"""A bundle opens with its passphrase, whole, as it was written; anything else is one line."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from edge_runtime.store import bundle as bundle_module
from edge_runtime.store.bundle import open_bundle, publish_bundle, write_bundle
from protocol.errors import PenchantError
from protocol.keys import SigningKey

KEY = bytes(range(32))
PAYLOAD = random.Random(7).randbytes(10_000)


@pytest.fixture(autouse=True)
def _fast_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "SCRYPT_COST", {"n": 2, "r": 8, "p": 1})


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write(tmp_path, SigningKey.generate())


def write(folder: Path, identity: SigningKey, passphrase: str = "x") -> Path:
    database, path = folder / "database", folder / "b.penchant"
    database.write_bytes(PAYLOAD)
    part = write_bundle(path, database, KEY, passphrase=passphrase, identity=identity).path
    assert not path.exists()
    publish_bundle(part, path)
    assert sorted(found.name for found in folder.iterdir()) == ["b.penchant", "database"]
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    identity = SigningKey.generate()
    bundle = open_bundle(write(tmp_path, identity, "four blue herons"), "four blue herons")
    assert bundle.signer == identity.public_bytes and bundle.key == KEY
    bundle.copy_payload(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == PAYLOAD
    assert KEY not in bundle.path.read_bytes() and b"herons" not in bundle.path.read_bytes()
    assert bundle.path.stat().st_mode & 0o777 == 0o600


def test_a_wrong_passphrase_says_so(written: Path) -> None:
    with pytest.raises(PenchantError, match=r"^Wrong passphrase for [^\n]*$"):
        open_bundle(written, "y")


def test_every_flipped_byte_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    front = bundle_module._FRONT_BYTES
    for position in [*range(front), *random.Random(1).sample(range(front, len(whole)), 40), len(whole) - 1]:
        written.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(PenchantError) as caught:
            open_bundle(written, "x")
        assert "\n" not in str(caught.value)


def test_cut_short_extended_foreign_and_newer(written: Path) -> None:
    whole = written.read_bytes()
    for size in (0, 1, 17, 18, 100, bundle_module._FRONT_BYTES, len(whole) - 1):
        written.write_bytes(whole[:size])
        with pytest.raises(PenchantError, match=r"not a bundle|cut short"):
            open_bundle(written, "x")
    written.write_bytes(whole + b"?")
    with pytest.raises(PenchantError, match="cut short or was changed"):
        open_bundle(written, "x")
    written.write_bytes(b"PK" + whole[2:])
    with pytest.raises(PenchantError, match="not a bundle"):
        open_bundle(written, "x")
    written.write_bytes(whole[:16] + b"\x00\x02" + whole[18:])
    with pytest.raises(PenchantError, match="newer version"):
        open_bundle(written, "x")
    with pytest.raises(PenchantError, match="Cannot read"):
        open_bundle(written.with_name("nowhere"), "x")


def test_signing_it_anew_without_the_passphrase_does_not_help(written: Path) -> None:
    whole, thief = written.read_bytes(), SigningKey.generate()
    at = bundle_module._HEADER.size
    header = bytearray(whole[:at])
    signer_at = at - 32 - 8 - 32
    assert header[signer_at : signer_at + 32] == open_bundle(written, "x").signer
    header[signer_at : signer_at + 32] = thief.public_bytes
    front = bytes(header) + whole[at : at + bundle_module._SEALED_BYTES]
    signature = thief.sign(hashlib.sha256(front).digest())
    written.write_bytes(front + signature + whole[bundle_module._FRONT_BYTES :])
    with pytest.raises(PenchantError, match="Wrong passphrase"):
        open_bundle(written, "x")


def test_a_bundle_changed_after_it_was_verified_is_not_taken(written: Path) -> None:
    bundle = open_bundle(written, "x")
    whole = written.read_bytes()
    written.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PenchantError, match="changed"):
        bundle.copy_payload(written.with_name("copy"))


def test_a_file_that_is_there_is_never_replaced(written: Path, tmp_path: Path) -> None:
    before = written.read_bytes()
    part = write_bundle(written, tmp_path / "database", KEY, passphrase="x", identity=SigningKey.generate()).path
    with pytest.raises(PenchantError, match="there already"):
        publish_bundle(part, written)
    assert written.read_bytes() == before and not part.exists()
