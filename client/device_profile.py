"""What a device trains: which tier, how many layers, which rank, how many texts at a time; a function of its facts.

Memory at the peak, in bytes, for a model of P parameters, L adapted layers of width h and inner width f, numbers of b
bytes (2 in bfloat16, else 4), n texts at a time of t tokens, N texts in all and W words in the output layer (without
privacy one chat of three texts at a time; its tellings are as many as the texts):

    opening the model    250 MiB + 5.8 P                     (the file is de-quantised to float32 first)
    training             460 MiB + P b                       Python, torch, llama.cpp; the model
                         + N t h b                           hidden states below the adapted layers, computed once
                         + m (L (5 h + 4.5 f) b + 30 W)      what a step keeps of each layer for m tokens, its losses
                         + 60 d + m L (3 h + f) b            LoRA: its d numbers with their moments, and its inputs

with m = n t, but no more at once than ``TOKENS_AND_LAYERS_AT_ONCE / L`` (or one text). The constants are those of the
default model in bfloat16, measured, and hold it to 8 %. Memory decides how many texts of a private step are
differentiated at a time, which changes no result, and, where one is too many, how many layers are adapted: as many as
fit, since layers make more of the gain than rank or kinds of map (``simulations.studies.frames.study``).

The tier is ordinary LoRA on all maps: it learns one person's few texts far better than the coordinates of a frame, and
needs no frame to be made first (``penchant bench training``). With privacy it is a thin frame: noise grows with the
square root of the numbers, and LoRA has 600 times as many (``simulations.studies.tiers``).

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

Tier = Literal["none", "frame", "lora"]

MINIMUM_TEXTS: Final = 12
MAX_TOKENS: Final = 160
ALL_KINDS: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
KINDS: Final = ("attn_output", "ffn_down")
MOST_ROWS: Final = 16
RANK: Final = 16
PRIVATE_RANK: Final = 4
LORA_RANK: Final = 8
WORDS: Final = 4096
TOKENS_AND_LAYERS_AT_ONCE: Final = 15_360  # in a step; more at once is no faster


@dataclass(frozen=True)
class TrainedShape:
    """What the memory of training depends on: layers, width h, inner width f, width of keys, parameters in all."""

    layers: int
    width: int
    inner_width: int
    key_width: int
    parameters: int

    @staticmethod
    def of(path: Path) -> TrainedShape:
        """From a model file's header."""
        shape, tensors = read_model_shape(path), read_model_header(path).tensors
        sizes = {tensor.name: tensor.shape for tensor in tensors}
        count = sum(math.prod(tensor.shape) for tensor in tensors)
        keys = min(sizes["blk.0.attn_k.weight"])
        return TrainedShape(shape.layers, shape.width, max(sizes["blk.0.ffn_down.weight"]), keys, count)

    def lora_numbers(self, layers: int, rank: int) -> int:
        """Numbers of ordinary LoRA on all maps: rank times inputs and outputs of each."""
        width, inner = self.width, self.inner_width
        return layers * rank * (2 * (2 * width) + 2 * (width + self.key_width) + 3 * (width + inner))


@dataclass(frozen=True)
class TrainingProfile:
    """What is trained: ``layers`` from the top, maps of ``kinds``, at ``rank``; ``rows`` texts (LoRA: chats)
    differentiated at a time by ``threads``; ``numbers`` in all. Tier "none": nothing, and ``reasons`` say why."""

    tier: Tier
    layers: int
    rank: int
    kinds: tuple[str, ...]
    numbers: int
    rows: int
    threads: int
    reasons: tuple[str, ...]

    def line(self) -> str:
        """What was chosen and why, for the owner."""
        why = "; ".join(self.reasons)
        if self.tier == "none":
            return f"No adapter is trained: {why}."
        what = "LoRA" if self.tier == "lora" else "coordinates"
        at_once = f", {self.rows} texts at a time" if self.tier == "frame" else ""
        return (
            f"Training {self.numbers:,} numbers ({what} of rank {self.rank} on {len(self.kinds)} maps in each of the "
            f"top {self.layers} layers){at_once}: {why}."
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
    tier: Tier = "frame" if private else "lora"
    kinds: tuple[str, ...]
    if private:
        rank, kinds, why = PRIVATE_RANK, KINDS, "few numbers, as the noise of privacy grows with them"
    else:
        rank, kinds, why = LORA_RANK, ALL_KINDS, "no noise, so as many as learn best"
    free = memory_bytes if memory_bytes is not None else 1024 * MIB
    for count in range(model_shape.layers, 0, -1):
        rows = most = MOST_ROWS if private else 1
        while rows and memory_needed(tier, model_shape, count, rows, texts, max_tokens, bytes_per_number) > free:
            rows //= 2
        if rows:
            reasons = [why]
            if count < model_shape.layers or rows < most:
                short = "layers" if count < model_shape.layers else "at a time"
                reasons.append(f"{free // MIB} MiB of memory hold no more {short}")
            threads = resources_for(DeviceProfile(cores, memory_bytes, on_mains=True, load=None)).threads
            numbers = count * len(kinds) * rank**2 if private else model_shape.lora_numbers(count, rank)
            return TrainingProfile(tier, count, rank, kinds, numbers, rows, threads, tuple(reasons))
    needed = memory_needed(tier, model_shape, 1, 1, texts, max_tokens, bytes_per_number)
    return _none(f"training needs {-(-needed // MIB)} MiB of memory, and {free // MIB} MiB are to spare")


def memory_needed(
    tier: Tier, shape: TrainedShape, layers: int, rows: int, texts: int, max_tokens: int, bytes_per_number: int
) -> int:
    """Bytes that a training takes at its peak; see the top of this file."""
    opening = 250 * MIB + 58 * shape.parameters // 10
    cached = texts * max_tokens * shape.width * bytes_per_number
    tokens = min(rows * max_tokens, max(max_tokens, TOKENS_AND_LAYERS_AT_ONCE // layers))
    per_token = layers * (10 * shape.width + 9 * shape.inner_width) // 2 * bytes_per_number + 30 * WORDS
    training = 460 * MIB + shape.parameters * bytes_per_number + cached
    if tier == "lora":
        training += 60 * shape.lora_numbers(layers, LORA_RANK)
        per_token += layers * (3 * shape.width + shape.inner_width) * bytes_per_number
    return max(opening, training + tokens * per_token)


def _none(reason: str) -> TrainingProfile:
    return TrainingProfile("none", 0, 0, (), 0, 0, 0, (reason,))
