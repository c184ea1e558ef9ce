"""What a device trains: which tier, how many layers, which rank, how many texts at a time; a function of its facts.

Memory at the peak, in bytes, for a model of P parameters, L adapted layers of width h and inner width f, numbers of b
bytes (2 in bfloat16, else 4), n texts at a time of t tokens, N texts in all and W words in the output layer:

    opening the model    250 MiB + 5.8 P                     (the file is de-quantised to float32 first)
    training             460 MiB + P b                       Python, torch, llama.cpp; the model
                         + N t h b                           hidden states below the adapted layers, computed once
                         + n t (L (14 h + 6 f) b + 30 W)     what one step keeps of each layer, and its losses

(the constants are those of the default model in bfloat16, measured, and hold it to 5 %). Memory decides how many texts
are differentiated at a time, which changes no result, and, where one is too many, how many layers are adapted: as many
as fit, since layers make more of the gain than rank or kinds of map (``simulations.frame_study``). How much there is to
learn decides the rank: the noise of privacy grows with the square root of the numbers, and few texts can fill few of
them. Those two thresholds are a rule of thumb, which ``simulations.tier_study`` puts to the test. Ordinary LoRA is
never chosen by itself: it takes 160 times the numbers.

Threads and the least memory are those of ``edge_runtime.models``: one core stays free, and what the background policy
caps is what is counted on. This file needs no torch: whether it is there is one of the facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edge_runtime.models.catalogue import read_model_header, read_model_shape
from edge_runtime.models.resources import MIB, DeviceProfile, resources_for

Tier = Literal["none", "frame"]

MINIMUM_TEXTS: Final = 12
MANY_TEXTS: Final = 30
MAX_TOKENS: Final = 160
ALL_KINDS: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
KINDS: Final = ("attn_output", "ffn_down")
MOST_ROWS: Final = 16
RANK: Final = 16
RANK_FOR_FEW: Final = 8
PRIVATE_RANK: Final = 4
WORDS: Final = 4096


@dataclass(frozen=True)
class TrainedShape:
    """What the memory of training depends on: layers, width h, inner width f, parameters in all."""

    layers: int
    width: int
    inner_width: int
    parameters: int

    @staticmethod
    def of(path: Path) -> TrainedShape:
        """From a model file's header."""
        shape, tensors = read_model_shape(path), read_model_header(path).tensors
        sizes = {tensor.name: tensor.shape for tensor in tensors}
        count = sum(math.prod(tensor.shape) for tensor in tensors)
        return TrainedShape(shape.layers, shape.width, max(sizes["blk.0.ffn_down.weight"]), count)


@dataclass(frozen=True)
class TrainingProfile:
    """What is trained: ``layers`` from the top, maps of ``kinds``, at ``rank``; ``rows`` texts differentiated at a time
    by ``threads``. Tier "none": nothing, and ``reasons`` say why."""

    tier: Tier
    layers: int
    rank: int
    kinds: tuple[str, ...]
    rows: int
    threads: int
    reasons: tuple[str, ...]

    @property
    def numbers(self) -> int:
        """The numbers trained, d of the frame."""
        return self.layers * len(self.kinds) * self.rank**2

    def line(self) -> str:
        """What was chosen and why, for the owner."""
        why = "; ".join(self.reasons)
        if self.tier == "none":
            return f"No adapter is trained: {why}."
        return (
            f"Training {self.numbers:,} numbers in the top {self.layers} layers (rank {self.rank}, "
            f"{len(self.kinds)} maps each), {self.rows} texts at a time: {why}."
        )


def device_profile(
    memory_bytes: int | None,
    cores: int,
    model_shape: TrainedShape,
    texts: int,
    *,
    private: bool = False,
    max_tokens: int = MAX_TOKENS,
    bytes_per_number: int = 4,
    has_torch: bool = True,
) -> TrainingProfile:
    """The training for a device with ``memory_bytes`` to spare (None: not known, which counts as 1 GiB) and ``cores``,
    whose owner wrote ``texts`` texts, cut to ``max_tokens``; ``private``: with noise."""
    if not has_torch:
        return _none("torch is not installed; pip install 'penchant[train]'")
    if texts < MINIMUM_TEXTS:
        return _none(f"{texts} texts are too few to learn from, at least {MINIMUM_TEXTS} are needed")
    if private:
        rank, why = PRIVATE_RANK, "few numbers, as the noise grows with them"
    elif texts < MANY_TEXTS:
        rank, why = RANK_FOR_FEW, f"few numbers for {texts} texts"
    else:
        rank, why = RANK, f"{texts} texts can fill a wide frame"
    free = memory_bytes if memory_bytes is not None else 1024 * MIB
    for count in range(model_shape.layers, 0, -1):
        rows = MOST_ROWS
        while rows and memory_needed(model_shape, count, rows, texts, max_tokens, bytes_per_number) > free:
            rows //= 2
        if rows:
            reasons = [why]
            if count < model_shape.layers or rows < MOST_ROWS:
                short = "layers" if count < model_shape.layers else "at a time"
                reasons.append(f"{free // MIB} MiB of memory hold no more {short}")
            threads = resources_for(DeviceProfile(cores, memory_bytes, on_mains=True, load=None)).threads
            return TrainingProfile("frame", count, rank, KINDS, rows, threads, tuple(reasons))
    needed = memory_needed(model_shape, 1, 1, texts, max_tokens, bytes_per_number)
    return _none(f"training needs {-(-needed // MIB)} MiB of memory, and {free // MIB} MiB are to spare")


def memory_needed(
    shape: TrainedShape, layers: int, rows: int, texts: int, max_tokens: int, bytes_per_number: int
) -> int:
    """Bytes that a training takes at its peak; see the top of this file."""
    opening = 250 * MIB + 58 * shape.parameters // 10
    cached = texts * max_tokens * shape.width * bytes_per_number
    per_token = layers * (14 * shape.width + 6 * shape.inner_width) * bytes_per_number + 30 * WORDS
    training = 460 * MIB + shape.parameters * bytes_per_number + cached + rows * max_tokens * per_token
    return max(opening, training)


def _none(reason: str) -> TrainingProfile:
    return TrainingProfile("none", 0, 0, (), 0, 0, (reason,))
