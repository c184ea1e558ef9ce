"""`penchant adapters export` and `import`: an adapter as a folder of the PEFT library, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.commands.models import ModelName
from edge_runtime.commands.support import AsJson, Home, need, one_line_errors, opened_device, print_json
from edge_runtime.device import Device
from edge_runtime.memory.statements import utc_now
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol.errors import PenchantError

Folder = Annotated[Path, typer.Argument(help="A folder as the PEFT library saves it.")]


def adapter_bytes(device: Device, version_id: int) -> bytes:
    """The file of a version of the device's adapter; PenchantError if there is none, or if it was forgotten."""
    version = device.adapters.version(version_id)
    data = device.vault.get_blob(f"{LEARNT_PREFIX}adapter/{version.sha256}")
    if data is None:
        raise PenchantError(f"there is no adapter {version_id} on this device any more: it was forgotten")
    return data


@one_line_errors
def export_adapter(
    version_id: Annotated[int, typer.Argument(metavar="ID", help="Which one: see `penchant adapters`.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write; new or empty.")],
    base: Annotated[
        str, typer.Option(help="What PEFT shall load it onto: a folder or a name of a hub.")
    ] = "HuggingFaceTB/SmolLM2-135M-Instruct",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write one of this device's adapters as a PEFT folder. It is not encrypted there, and may repeat your words."""
    need("safetensors")
    from edge_runtime.adapters.adapter_file import read_adapter
    from edge_runtime.adapters.peft_files import export_adapter as export

    with opened_device(home, create=False) as device:
        adapter = read_adapter(adapter_bytes(device, version_id))
    export(adapter, folder, base_name=base)
    if as_json:
        print_json({"adapter": version_id, "folder": str(folder), "modules": sorted(adapter.factors)})
    else:
        typer.echo(f"Wrote adapter {version_id} to {folder}: {len(adapter.factors)} maps. It is not encrypted there.")


@one_line_errors
def import_adapter(
    folder: Folder,
    model: ModelName = "smollm2-135m",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Take a PEFT adapter into this device's log. It goes live only when you say so."""
    need("safetensors")
    from edge_runtime.adapters.peft_files import import_adapter as read
    from edge_runtime.models.catalogue import find_model

    data = read(folder, find_model(model), created=utc_now())
    with opened_device(home, create=True) as device, device.vault.transaction():
        live = next((version.id for version in device.adapters.versions() if version.live and version.held), None)
        stored = device.adapters.install(data, note="imported from a PEFT folder, privacy unknown")
        device.adapters.use(live)
    if as_json:
        print_json({"adapter": stored.id, "sha256": stored.sha256, "base_sha256": stored.base_sha256})
    else:
        typer.echo(f"Stored as adapter {stored.id}, not live. Use it: penchant adapters --use {stored.id}")
