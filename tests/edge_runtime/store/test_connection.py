"""Failures of the file are one clear line wherever they are noticed; mistakes of the program stay what they are."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

from edge_runtime.store.connection import DamagedError
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

KEY = bytes(range(32))


def test_a_full_disk_says_so_and_nothing_of_the_step_is_stored(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        vault.put_blob("kept", b"1")
        pages = vault.connection.execute("PRAGMA page_count").fetchone()[0]
        vault.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(PenchantError, match="disk is full"), vault.transaction():
            vault.put_blob("small", b"2")
            vault.put_blob("large", os.urandom(100_000))
        assert vault.blob_names() == ["kept"]
        vault.put_blob("after", b"3")
    with Vault.open(tmp_path, KEY) as again:
        assert again.blob_names() == ["after", "kept"]


def test_a_damaged_page_in_the_middle_of_a_result_is_one_line(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        for number in range(40):
            vault.put_blob(f"{number:02d}", bytes([number]) * 3000)
    path = tmp_path / "penchant.db"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with Vault.open(tmp_path, KEY) as vault:
        with pytest.raises(DamagedError, match="restore it from a backup"):  # well after the first rows
            assert all(len(set(blob)) == 1 for (blob,) in vault.connection.execute("SELECT data FROM blobs"))
        with pytest.raises(DamagedError):  # SQLCipher words it differently the second time
            vault.connection.execute("SELECT data FROM blobs").fetchall()


def test_mistakes_of_the_program_pass_unchanged(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        with pytest.raises(sqlcipher.OperationalError, match="no such table"):
            vault.connection.execute("SELECT * FROM nowhere")
        with pytest.raises(sqlcipher.IntegrityError):
            vault.connection.execute("INSERT INTO blobs VALUES ('x', NULL)")


def test_a_closed_file_says_so(tmp_path: Path) -> None:
    vault = Vault.open(tmp_path, KEY)
    vault.close()
    with pytest.raises(PenchantError, match="closed or locked"):
        vault.get_blob("x")


def test_another_thread_may_use_it(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        thread = threading.Thread(target=vault.put_blob, args=("x", b"1"))
        thread.start()
        thread.join()
        assert vault.get_blob("x") == b"1"
