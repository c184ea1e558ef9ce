"""What is trained on which device, as a table; and that the file needs no torch to say so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from client.device_profile import (
    ALL_KINDS,
    KINDS,
    LORA_RANK,
    MINIMUM_TEXTS,
    PRIVATE_RANK,
    Tier,
    TrainedShape,
    TrainingProfile,
    device_profile,
    memory_needed,
)
from client.frame_builder import build_frame
from client.lora_layout import LoraLayout
from edge_runtime.models.background import BackgroundPolicy
from edge_runtime.models.resources import MIB, DeviceProfile, resources_for
from tests.client.framed_help import BASE_SHA256, some_texts, tiny_gguf, tiny_model

DEFAULT = TrainedShape(layers=30, width=576, inner_width=1536, key_width=192, parameters=134_515_008)
LARGE = TrainedShape(layers=24, width=2048, inner_width=8192, key_width=2048, parameters=1_711_376_384)
SHALLOW = TrainedShape(layers=2, width=64, inner_width=128, key_width=32, parameters=150_000)


def chosen(mebibytes: int | None, texts: int = 60, **facts: object) -> TrainingProfile:
    shape = facts.pop("shape", DEFAULT)
    assert isinstance(shape, TrainedShape)
    memory = None if mebibytes is None else mebibytes * MIB
    return device_profile(memory, 4, shape, texts, **{"bytes_per_number": 2, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("memory", "facts", "layers", "rows"),
    [
        (4096, {}, 30, 1),
        (4096, {"texts": 20}, 30, 1),
        (2048, {"max_tokens": 320}, 30, 1),  # what the background policy caps by default, and chats
        (1536, {"max_tokens": 320}, 30, 1),  # the memory that training may take at most by the project's own bound
        (1280, {"max_tokens": 320}, 30, 1),
        (1536, {"bytes_per_number": 4}, 30, 1),
        (1024, {}, 30, 1),
        (None, {}, 30, 1),  # not known counts as 1 GiB
        (1280, {"max_tokens": 1024}, 12, 1),  # long texts cost layers where rows are used up
        (16384, {"shape": LARGE}, 24, 1),
        (4096, {"shape": SHALLOW}, 2, 1),
    ],
)
def test_the_table(memory: int | None, facts: dict[str, object], layers: int, rows: int) -> None:
    profile = chosen(memory, **facts)  # type: ignore[arg-type]
    assert (profile.tier, profile.layers, profile.rank, profile.rows) == ("lora", layers, LORA_RANK, rows)
    assert profile.kinds == ALL_KINDS and profile.reasons


@pytest.mark.parametrize(("memory", "rows"), [(4096, 16), (1100, 16), (1024, 2)])
def test_with_privacy_it_is_a_thin_frame(memory: int, rows: int) -> None:
    profile = chosen(memory, private=True)
    assert (profile.tier, profile.layers, profile.rank, profile.rows) == ("frame", 30, PRIVATE_RANK, rows)
    assert profile.kinds == KINDS and profile.numbers == 30 * 2 * PRIVATE_RANK**2


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
    for private, tokens in ((False, 320), (True, 160)):
        before = (99, 99)
        for mebibytes in range(3000, 900, -50):
            profile = chosen(mebibytes, private=private, max_tokens=tokens)
            now = (profile.layers, profile.rows)
            assert now <= before
            before = now
            if profile.tier != "none":
                needed = memory_needed(profile.tier, DEFAULT, profile.layers, profile.rows, 60, tokens, 2)
                assert 0.35 * mebibytes * MIB < needed <= mebibytes * MIB
        assert before == (0, 0)


def test_the_estimate_is_what_was_measured() -> None:
    """Peak resident memory (MiB) of steps on the default model in bfloat16: 24 texts of 160 tokens."""
    measured: dict[tuple[Tier, int, int], int] = {
        ("lora", 30, 4): 1273,
        ("lora", 30, 16): 1395,
        ("lora", 12, 4): 1039,
        ("lora", 12, 16): 1310,
        ("frame", 30, 4): 1092,
        ("frame", 30, 16): 1138,
        ("frame", 12, 16): 1131,
    }
    for (tier, layers, rows), peak in measured.items():
        assert memory_needed(tier, DEFAULT, layers, rows, 24, 160, 2) / MIB == pytest.approx(peak, rel=0.08)


def test_it_agrees_with_the_rest_of_the_device() -> None:
    for cores in (1, 2, 8):
        profile = device_profile(4096 * MIB, cores, DEFAULT, 60)
        assert profile.threads == resources_for(DeviceProfile(cores, 4096 * MIB, True, 0.0)).threads
    # What the background policy caps by default suffices for the default model, also in float32.
    cap = BackgroundPolicy().memory_cap_bytes
    assert device_profile(cap, 2, DEFAULT, 400, bytes_per_number=2).layers == 30
    assert device_profile(cap, 2, DEFAULT, 400, bytes_per_number=4).layers == 30


def test_one_line_says_what_was_chosen() -> None:
    line = chosen(1280).line()
    assert "2,442,240 numbers" in line and "LoRA of rank 8" in line and "top 30 layers" in line
    assert "at a time" not in line and "\n" not in line
    private = chosen(1024, private=True).line()
    assert "coordinates of rank 4" in private and "2 texts at a time" in private and "1024 MiB" in private
    assert "1000 MiB of memory hold no more layers" in chosen(1000, max_tokens=1024).line()


def test_the_numbers_are_those_of_the_tier() -> None:
    shape = TrainedShape.of(tiny_gguf())
    lora = LoraLayout.of(tiny_model().module_shapes(ALL_KINDS), LORA_RANK)
    chosen_lora, chosen_frame = (device_profile(4096 * MIB, 2, shape, 60, private=private) for private in (False, True))
    assert chosen_lora.numbers * tiny_layers() == lora.dimension * shape.layers
    frame = build_frame(tiny_model(), BASE_SHA256, some_texts(), kinds=KINDS, rank=PRIVATE_RANK)
    assert chosen_frame.numbers * tiny_layers() == frame.dimension * shape.layers


def tiny_layers() -> int:
    """Adapted layers of the tiny model of these tests."""
    return tiny_model().layer_count - tiny_model().first_adapted


def test_the_shape_is_read_from_the_file() -> None:
    shape = TrainedShape.of(tiny_gguf())
    assert (shape.layers, shape.width, shape.inner_width, shape.key_width) == (4, 64, 128, 32)
    assert 150_000 < shape.parameters < 250_000


def test_it_needs_no_torch() -> None:
    code = "import sys, client.device_profile; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
