"""What lies below the adapted layers is computed once, comes back bit by bit, and is made anew when damaged."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from client.torch_model import Batch, TorchModel
from simulations.fleets.hidden_files import HiddenFiles
from tests.simulations.fleets.language_help import texts_of, tiny

TEXTS = texts_of(0, 3)


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Batch)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_comes_back_is_what_the_model_prepares(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny(tmp_path, dtype)
    files = HiddenFiles(model, "a" * 64, 24, tmp_path / "hidden")
    fresh = model.prepare(TEXTS, max_tokens=24, apart=True)
    first, second = files.batch(TEXTS), files.batch(TEXTS)
    assert same(first, fresh) and same(second, fresh) and second.apart


def test_a_second_run_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(tmp_path)
    made = HiddenFiles(model, "a" * 64, 24, tmp_path / "hidden").batch(TEXTS)

    def never(*_: object, **__: object) -> Batch:
        raise AssertionError("it was computed again")

    monkeypatch.setattr(TorchModel, "prepare", never)
    assert same(HiddenFiles(model, "a" * 64, 24, tmp_path / "hidden").batch(TEXTS), made)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    model = tiny(tmp_path)
    files = HiddenFiles(model, "a" * 64, 24, tmp_path / "hidden")
    made, path = files.batch(TEXTS), files.path(TEXTS)
    whole = path.read_bytes()
    damaged = {"cut": whole[:-5], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage]
    path.write_bytes(damaged)
    assert same(files.batch(TEXTS), made)
    assert path.read_bytes() == whole


def test_other_texts_lengths_layers_and_models_are_other_files(tmp_path: Path) -> None:
    model, folder = tiny(tmp_path), tmp_path / "hidden"
    other_layers = tiny(tmp_path, top_layers=1)
    paths = {
        HiddenFiles(model, "a" * 64, 24, folder).path(TEXTS),
        HiddenFiles(model, "a" * 64, 24, folder).path(texts_of(1, 3)),
        HiddenFiles(model, "a" * 64, 24, folder).path([(TEXTS[0][0], 5), *TEXTS[1:]]),
        HiddenFiles(model, "a" * 64, 20, folder).path(TEXTS),
        HiddenFiles(model, "b" * 64, 24, folder).path(TEXTS),
        HiddenFiles(other_layers, "a" * 64, 24, folder).path(TEXTS),
    }
    assert len(paths) == 6
