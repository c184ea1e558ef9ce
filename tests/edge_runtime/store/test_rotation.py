"""After a rotation nothing that was ever written opens under the old key, whenever the program was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.store import keys, rotation
from edge_runtime.store.keys import create_key, open_key
from edge_runtime.store.open_home import OpenHome
from edge_runtime.store.rotation import owe_rotation, rotation_is_owed
from edge_runtime.store.vault import Vault, WrongKeyError
from tests.edge_runtime.memory_helpers import decrypted_pages

ROOT = Path(__file__).parents[3]
WORD = b"Ottoline"


@pytest.fixture(params=["file", "passphrase"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keys, "SCRYPT_COST", {"n": 2, "r": 8, "p": 1})
    create_key(tmp_path, method=request.param, passphrase="x")
    return tmp_path


def opened(home: Path) -> OpenHome:
    return OpenHome.open(home, passphrase="x")


def key_of(home: Path) -> bytes:
    (key,) = open_key(home, passphrase="x").candidates
    return bytes(key)


def test_the_old_key_opens_nothing_and_the_new_one_everything(home: Path) -> None:
    store = opened(home)
    store.vault.put_blob("x", WORD * 3000)
    old = key_of(home)
    assert WORD in decrypted_pages(home, old)
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    assert store.rotate() and not rotation_is_owed(store.vault)
    new = key_of(home)
    assert new != old and store.vault.get_blob("x") == WORD * 3000
    assert WORD not in decrypted_pages(home, old) and WORD in decrypted_pages(home, new)
    store.vault.put_blob("y", b"1")
    store.close()
    assert old.hex().encode() not in b"".join(path.read_bytes() for path in home.iterdir())
    with pytest.raises(WrongKeyError):
        Vault.open(home, old)
    # and an old copy of the database does not open with what the home holds now
    (home / "penchant.db").write_bytes(before["penchant.db"])
    with pytest.raises(WrongKeyError):
        opened(home)


def test_while_another_program_has_the_device_it_is_owed(home: Path) -> None:
    store, other = opened(home), opened(home)
    old = key_of(home)
    assert not store.rotate() and rotation_is_owed(store.vault)
    other.vault.put_blob("x", b"1")
    other.close()
    store.close()
    assert key_of(home) == old
    again = opened(home)  # alone: it makes up for it
    assert key_of(home) != old and not rotation_is_owed(again.vault) and again.vault.get_blob("x") == b"1"
    again.close()


@pytest.mark.parametrize("moment", ["draw_next", "rekey", "settle"])
@pytest.mark.parametrize("after", [False, True])
def test_a_program_killed_at_any_step_leaves_a_device_that_opens(home: Path, moment: str, after: bool) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from edge_runtime.store.open_home import OpenHome\n"
        "from edge_runtime.store import keys, vault\n"
        "owner = vault.Vault if sys.argv[2] == 'rekey' else keys.HomeKey\n"
        "store = OpenHome.open(Path(sys.argv[1]), passphrase='x'); store.vault.put_blob('x', b'1')\n"
        "step = getattr(owner, sys.argv[2])\n"
        "def killed(*arguments):\n"
        "    if sys.argv[3] == 'True': step(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(owner, sys.argv[2], killed)\n"
        "store.rotate()"
    )
    done = subprocess.run([sys.executable, "-c", program, str(home), moment, str(after)], cwd=ROOT, check=False)
    assert done.returncode == -9
    store = opened(home)
    assert store.vault.get_blob("x") == b"1" and len(store.key.candidates) == 1
    assert not rotation_is_owed(store.vault)  # made up for at once
    store.close()
    assert opened(home).vault.get_blob("x") == b"1"


def test_a_full_disk_leaves_the_old_key_and_the_debt(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(home)
    store.vault.put_blob("x", b"1" * 50_000)
    old = key_of(home)

    def full(vault: Vault, old: bytes, new: bytes) -> bool:
        vault.connection.execute("PRAGMA max_page_count = 1")  # below what there is: SQLite keeps the present size
        return False

    monkeypatch.setattr(Vault, "rekey", full)
    assert not store.rotate() and rotation_is_owed(store.vault)
    assert key_of(home) == old and store.vault.get_blob("x") == b"1" * 50_000


def test_copies_left_by_a_killed_export_are_removed(home: Path) -> None:
    store = opened(home)
    stray = home / f"{rotation.SCRATCH_PREFIX}abc"
    stray.mkdir()
    (stray / "penchant.db").write_bytes(b"?")
    owe_rotation(store.vault)
    assert store.rotate() and not stray.exists()
