"""`penchant adapters export` and `import`: the folder, the log, and one clear line where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edge_runtime.adapters.adapter_file import AdapterMetadata, read_adapter, write_adapter
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.adapters.peft_files import CONFIG_FILE, WEIGHTS_FILE
from edge_runtime.commands.adapter_files import adapter_bytes, export_adapter, import_adapter
from edge_runtime.device import Device
from edge_runtime.models.catalogue import ModelFile, describe_model
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import random_factors
from tests.tiny_model import write_tiny_model

pytest.importorskip("safetensors")
app = typer.Typer()
app.command("export")(export_adapter)
app.command("import")(import_adapter)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    return tmp_path / "home"


@pytest.fixture
def tiny(tmp_path: Path) -> ModelFile:
    return describe_model(write_tiny_model(tmp_path / "tiny.gguf", 0))


@pytest.fixture
def stored(home: Path, tiny: ModelFile) -> bytes:
    """An adapter in the log, live."""
    data = write_adapter(
        random_factors(0),
        alpha=4.0,
        metadata=AdapterMetadata(tiny.sha256, "", epsilon=2.0),
        architecture="llama",
        heads=4,
        kv_heads=2,
    )
    with Device.open(home, create=True, key_method="file", embedder=HashingEmbedder()) as device:
        AdapterLog(device.vault).install(data, note="own texts")
    return data


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_an_adapter_leaves_and_comes_back_but_not_live(
    stored: bytes, home: Path, tiny: ModelFile, tmp_path: Path
) -> None:
    shown = run("export", 1, tmp_path / "peft").stdout
    assert "14 maps" in shown and "not encrypted" in shown
    assert {path.name for path in (tmp_path / "peft").iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
    told = json.loads(run("import", tmp_path / "peft", "--model", tiny.path, "--json").stdout)
    assert told["adapter"] == 2 and told["base_sha256"] == tiny.sha256
    assert "Stored as adapter 3, not live" in run("import", tmp_path / "peft", "--model", tiny.path).stdout
    with Device.open(home) as device:
        assert [(version.id, version.live) for version in device.adapters.versions()] == [
            (1, True),
            (2, False),
            (3, False),
        ]
        back = read_adapter(adapter_bytes(device, 2))
        assert back.metadata.epsilon is None and "privacy unknown" in device.adapters.version(2).note
        device.adapters.use(None)
    run("import", tmp_path / "peft", "--model", tiny.path)
    with Device.open(home) as device:
        assert device.adapters.live() is None  # off stays off
    factors = read_adapter(stored).factors
    assert all((back.factors[module][1] == right).all() for module, (_, right) in factors.items())


def test_one_line_says_what_is_wrong(stored: bytes, home: Path, tiny: ModelFile, tmp_path: Path) -> None:
    for message, *arguments in (
        ("no adapter 7", "export", 7, tmp_path / "peft"),
        ("not a folder", "import", tmp_path / "absent", "--model", tiny.path),
        ("is not empty", "export", 1, home),
    ):
        result = run(*arguments, code=2)
        assert message in result.stderr and result.stderr.strip().count("\n") == 0 and result.stdout == ""
    with Device.open(home) as device:
        device.memory.forget_all()
        from edge_runtime.forgetting import forget_everything

        forget_everything(device)
    assert "no adapter 1" in run("export", 1, tmp_path / "peft", code=2).stderr
    assert not (tmp_path / "peft").exists()
