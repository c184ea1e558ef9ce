"""`penchant continue`: it reads, goes on, and leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

import client.continue_commands as continuing
import client.personal_plan as plan
import client.personal_training as personal
import client.temporary_adapter as temporary
from client.training import open_trainer
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.resources import MIB, DeviceProfile
from edge_runtime.store.vault import LEARNT_PREFIX
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.tiny_model import write_tiny_model


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PENCHANT_MODEL", str(write_tiny_model(tmp_path / "tiny.gguf", seed=0)))
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(continuing, "_CONTEXT_TOKENS", 512)
    monkeypatch.setattr(personal, "public_text", lambda: [("Say it.", "here it is"), ("What is it?", "a thing")])
    facts = DeviceProfile(cores=2, memory_bytes=4096 * MIB, on_mains=True, load=0.0)
    monkeypatch.setattr(plan, "probe", lambda: facts)
    Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()).close()
    (tmp_path / "long.txt").write_text("the thing and you and the thing. " * 30, "utf-8")
    open_trainer.cache_clear()
    yield tmp_path
    open_trainer.cache_clear()


def run(*arguments: object, code: int = 0) -> Result:
    app = typer.Typer()
    app.command()(continuing.go_on)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_was_read_changes_what_is_written_and_is_gone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    generate = Engine.generate

    def noted(engine: Engine, *rest: object, **more: object) -> Iterator[str]:
        used.append(len(engine.active_adapters))
        return generate(engine, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "generate", noted)
    run(place / "long.txt", "--max-tokens", 4)  # the frame is on disk from now on
    before = files_of(place)
    told = json.loads(run(place / "long.txt", "--max-tokens", 8, "--json").stdout)
    assert told["file"] == "long.txt" and 0 < told["read_tokens"] < told["tokens"] and used == [1, 1]
    assert files_of(place) == before
    with Device.open(place / "home", embedder=HashingEmbedder()) as device:
        assert device.vault.blob_names(LEARNT_PREFIX) == [] and device.adapters.versions() == []


def test_a_stop_goes_on_with_what_was_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = temporary.TemporaryAdapter.read_chunks

    def stopped(self: temporary.TemporaryAdapter, chunks: list[list[int]], **options: object) -> int:
        return stopping(self, chunks[:1], **options)  # type: ignore[arg-type]

    monkeypatch.setattr(temporary.TemporaryAdapter, "read_chunks", stopped)
    assert "tokens, whose adapter is gone" in run(place / "long.txt", "--max-tokens", 4).stdout


def test_errors_name_the_file(place: Path) -> None:
    for name, content in (("empty.txt", b""), ("image.png", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40)):
        (place / name).write_bytes(content)
        assert f"Error: {name}: " in run(place / name, code=2).stderr
    assert "absent.txt" in run(place / "absent.txt", code=2).stderr
