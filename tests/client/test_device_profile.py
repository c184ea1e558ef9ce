"""What is trained on which device, as a table; and that the file needs no torch to say so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from client.device_profile import (
    KINDS,
    MINIMUM_TEXTS,
    PRIVATE_RANK,
    RANK,
    RANK_FOR_FEW,
    TrainedShape,
    TrainingProfile,
    device_profile,
    memory_needed,
)
from client.frame_builder import build_frame
from edge_runtime.models.background import BackgroundPolicy
from edge_runtime.models.resources import MIB, DeviceProfile, resources_for
from tests.client.framed_help import BASE_SHA256, some_texts, tiny_gguf, tiny_model

DEFAULT = TrainedShape(layers=30, width=576, inner_width=1536, parameters=134_515_008)
LARGE = TrainedShape(layers=24, width=2048, inner_width=8192, parameters=1_711_376_384)
SHALLOW = TrainedShape(layers=2, width=64, inner_width=128, parameters=150_000)


def chosen(mebibytes: int | None, texts: int = 60, **facts: object) -> TrainingProfile:
    shape = facts.pop("shape", DEFAULT)
    assert isinstance(shape, TrainedShape)
    memory = None if mebibytes is None else mebibytes * MIB
    return device_profile(memory, 4, shape, texts, **{"bytes_per_number": 2, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("memory", "facts", "layers", "rank", "rows"),
    [
        (4096, {}, 30, RANK, 16),
        (4096, {"texts": 20}, 30, RANK_FOR_FEW, 16),
        (4096, {"private": True}, 30, PRIVATE_RANK, 16),
        (4096, {"private": True, "texts": 20}, 30, PRIVATE_RANK, 16),
        (2048, {}, 30, RANK, 4),  # what the background policy caps by default
        (1536, {}, 30, RANK, 4),  # the memory that training may take at most by the project's own bound
        (1536, {"bytes_per_number": 4}, 30, RANK, 1),
        (1024, {}, 30, RANK, 1),
        (None, {}, 30, RANK, 1),  # not known counts as 1 GiB
        (1536, {"max_tokens": 1024}, 18, RANK, 1),  # long texts cost layers where rows are used up
        (16384, {"shape": LARGE}, 24, RANK, 16),
        (4096, {"shape": SHALLOW}, 2, RANK, 16),
    ],
)
def test_the_table(memory: int | None, facts: dict[str, object], layers: int, rank: int, rows: int) -> None:
    profile = chosen(memory, **facts)  # type: ignore[arg-type]
    assert (profile.tier, profile.layers, profile.rank, profile.rows) == ("frame", layers, rank, rows)
    assert profile.kinds == KINDS and profile.reasons


@pytest.mark.parametrize(
    ("memory", "facts", "said"),
    [
        (4096, {"texts": MINIMUM_TEXTS - 1}, "11 texts are too few"),
        (4096, {"has_torch": False}, "torch is not installed"),
        (512, {}, "512 MiB are to spare"),
        (4096, {"shape": LARGE}, "needs"),
    ],
)
def test_where_nothing_is_trained_it_says_why(memory: int, facts: dict[str, object], said: str) -> None:
    profile = chosen(memory, **facts)  # type: ignore[arg-type]
    assert profile.tier == "none" and profile.numbers == 0
    assert said in profile.line() and profile.line().startswith("No adapter is trained: ")


def test_less_memory_never_trains_more_and_what_is_chosen_fits() -> None:
    before = (99, 99)
    for mebibytes in range(3000, 900, -50):
        profile = chosen(mebibytes)
        now = (profile.layers, profile.rows)
        assert now <= before
        before = now
        if profile.tier == "frame":
            needed = memory_needed(DEFAULT, profile.layers, profile.rows, 60, 160, 2)
            assert 0.5 * mebibytes * MIB < needed <= mebibytes * MIB
    assert before == (0, 0)


def test_the_estimate_is_what_was_measured() -> None:
    """Peak resident memory (MiB) of private steps on the default model in bfloat16: 24 texts of 160 tokens."""
    measured = {(4, 8): 1026, (4, 16): 1380, (8, 8): 1186, (8, 16): 1725}
    for (layers, rows), peak in measured.items():
        assert memory_needed(DEFAULT, layers, rows, 24, 160, 2) / MIB == pytest.approx(peak, rel=0.05)


def test_it_agrees_with_the_rest_of_the_device() -> None:
    for cores in (1, 2, 8):
        profile = device_profile(4096 * MIB, cores, DEFAULT, 60)
        assert profile.threads == resources_for(DeviceProfile(cores, 4096 * MIB, True, 0.0)).threads
    # What the background policy caps by default suffices for the default model, also in float32.
    cap = BackgroundPolicy().memory_cap_bytes
    assert device_profile(cap, 2, DEFAULT, 400, bytes_per_number=2).layers == 30
    assert device_profile(cap, 2, DEFAULT, 400, bytes_per_number=4).layers == 30


def test_one_line_says_what_was_chosen() -> None:
    line = chosen(1536, texts=20).line()
    assert "3,840 numbers" in line and "top 30 layers" in line and "4 texts at a time" in line and "20 texts" in line
    assert "1536 MiB" in line and "\n" not in line


def test_the_numbers_are_those_of_the_frame() -> None:
    frame = build_frame(tiny_model(), BASE_SHA256, some_texts(), kinds=KINDS, rank=3)
    assert TrainingProfile("frame", 2, 3, KINDS, 1, 1, ()).numbers == frame.dimension


def test_the_shape_is_read_from_the_file() -> None:
    shape = TrainedShape.of(tiny_gguf())
    assert (shape.layers, shape.width, shape.inner_width) == (4, 64, 128)
    assert 150_000 < shape.parameters < 250_000


def test_it_needs_no_torch() -> None:
    code = "import sys, client.device_profile; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
