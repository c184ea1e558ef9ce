"""The encrypted file: no plaintext, a wrong key says so, all or nothing, ordered migrations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

KEY = bytes(range(32))
ROOT = Path(__file__).parents[3]


def raw_bytes(home: Path) -> bytes:
    """Every byte of the database, its write-ahead log and the log's index."""
    return b"".join(path.read_bytes() for path in sorted(home.glob("penchant.db*")))


def test_blobs_survive_and_the_file_holds_no_plaintext(tmp_path: Path) -> None:
    secret = b"Ottoline keeps eleven bees" * 200
    vault = Vault.open(tmp_path, KEY)
    vault.put_blob("personal/adapter", secret)
    while_open = raw_bytes(tmp_path)
    vault.close()
    for image in (while_open, raw_bytes(tmp_path)):
        assert image and b"Ottoline" not in image and b"personal/adapter" not in image
        assert b"SQLite format" not in image and b"CREATE TABLE" not in image
    with Vault.open(tmp_path, KEY) as again:
        assert again.get_blob("personal/adapter") == secret and again.get_blob("other") is None


def test_blob_names_replace_and_delete(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        for name in ("b/2", "a/1", "b/1"):
            vault.put_blob(name, b"1")
        vault.put_blob("a/1", b"2")
        assert vault.blob_names() == ["a/1", "b/1", "b/2"] and vault.blob_names("b/") == ["b/1", "b/2"]
        assert vault.get_blob("a/1") == b"2"
        assert vault.delete_blob("a/1") and not vault.delete_blob("a/1")


def test_a_wrong_key_is_one_line_and_nothing_on_stderr(tmp_path: Path) -> None:
    Vault.open(tmp_path, KEY).close()
    program = (
        "import sys; from pathlib import Path; from edge_runtime.store.vault import Vault\n"
        "from protocol.errors import PenchantError\n"
        "try: Vault.open(Path(sys.argv[1]), bytes(32))\n"
        "except PenchantError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("Wrong key for ") and done.stdout.count("\n") == 1 and done.stderr == ""
    with pytest.raises(PenchantError, match="32 bytes"):
        Vault.open(tmp_path, b"short")


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        vault.put_blob("x", b"y" * 5000)
    path = tmp_path / "penchant.db"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(PenchantError, match="damaged"):
        Vault.open(tmp_path, KEY)


def test_missing_file_is_not_created_when_told_so(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="No memory"):
        Vault.open(tmp_path, KEY, create=False)
    assert not (tmp_path / "penchant.db").exists()


def test_files_are_private(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        vault.put_blob("x", b"y")
        assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("penchant.db*")} == {0o600}


def test_transaction_is_all_or_nothing_and_nests(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        with pytest.raises(KeyboardInterrupt), vault.transaction():
            vault.put_blob("a", b"1")
            with vault.transaction():
                vault.put_blob("b", b"1")
            raise KeyboardInterrupt
        assert vault.blob_names() == []
        with vault.transaction():
            vault.put_blob("a", b"1")
        assert vault.blob_names() == ["a"]


def test_migrations_run_once_in_order_and_a_failed_step_leaves_the_version(tmp_path: Path) -> None:
    first = ["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]
    with Vault.open(tmp_path, KEY) as vault:
        vault.migrate("room", first)
        vault.migrate("room", first)
    with Vault.open(tmp_path, KEY) as vault:
        with pytest.raises(Exception, match="nonsense"):
            vault.migrate("room", [*first, "INSERT INTO t VALUES (2)", "nonsense"])
        vault.migrate("room", [*first, "INSERT INTO t VALUES (3)"])
        assert vault.connection.execute("SELECT a FROM t ORDER BY a").fetchall() == [(1,), (3,)]
        assert vault.has_table("t") and not vault.has_table("u")
        with pytest.raises(PenchantError, match="newer version"):
            vault.migrate("room", first)


def test_durable_and_self_cleaning_settings(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        values = {
            name: vault.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "secure_delete", "temp_store")
        }
        assert values == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "temp_store": 2}


def test_sweep_empties_the_log(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        vault.put_blob("x", os.urandom(9000))
        log = tmp_path / "penchant.db-wal"
        assert log.stat().st_size > 0
        assert vault.sweep_log() and log.stat().st_size == 0


def test_two_processes_write_in_turn(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as one, Vault.open(tmp_path, KEY) as two:
        one.put_blob("a", b"1")
        two.put_blob("b", b"2")
        assert one.blob_names() == two.blob_names() == ["a", "b"]
