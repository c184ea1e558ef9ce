"""Secret files: whole or not at all, private, never overwritten by a second writer, overwritten when destroyed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edge_runtime.store.private_files import create_private, destroy_private, read_private, replace_private
from protocol.errors import PenchantError


def test_the_first_writer_wins(tmp_path: Path) -> None:
    create_private(tmp_path / "k", b"first")
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "k", b"second")
    assert read_private(tmp_path / "k") == "first" and os.listdir(tmp_path) == ["k"]
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


def test_without_hard_links_the_first_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    create_private(tmp_path / "k", b"first")
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "k", b"second")
    assert read_private(tmp_path / "k") == "first"


def test_what_is_replaced_or_destroyed_is_overwritten(tmp_path: Path) -> None:
    path, witness = tmp_path / "k", tmp_path / "witness"
    path.write_bytes(b"secret one")
    os.link(path, witness)  # sees the old file's bytes after it has lost its name
    replace_private(path, b"two")
    assert path.read_bytes() == b"two" and witness.read_bytes() == bytes(10)
    witness.unlink()
    os.link(path, witness)
    destroy_private(path)
    assert not path.exists() and witness.read_bytes() == bytes(3)
    destroy_private(path)  # nothing is left to do


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k").write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PenchantError, match="No space left"):
        replace_private(tmp_path / "k", b"new")
    assert (tmp_path / "k").read_bytes() == b"old" and os.listdir(tmp_path) == ["k"]
