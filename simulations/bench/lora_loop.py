"""The peer of `penchant bench training`: ordinary LoRA by the peft library, in the loop that its users write.

The same GGUF, de-quantised by transformers; rank r and alpha 2 r on all seven linear maps of all layers, A and B in
float32 (peft's default) over a base in bfloat16 where the processor has it; AdamW, padded batches in a new order every
pass, loss on the replies alone. Every training starts from the same drawn A and B = 0.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.torch_model import IGNORED, Text, fast_dtype, load_causal_lm
from simulations.bench.loss_curve import Curve


class LoraLoop:
    """One opened model with one adapter, trained anew for everybody."""

    def __init__(self, gguf: Path, rank: int) -> None:
        from peft import LoraConfig, get_peft_model

        base = load_causal_lm(gguf, fast_dtype())
        torch.manual_seed(0)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        self._model: Any = get_peft_model(base, config)
        self._trained = [each for each in self._model.parameters() if each.requires_grad]
        self._start = [each.detach().clone() for each in self._trained]

    @property
    def numbers(self) -> int:
        """How many numbers are trained."""
        return sum(each.numel() for each in self._trained)

    def train(
        self, texts: Sequence[Text], judged: Sequence[Sequence[Text]], *, rate: float, passes: int, batch_size: int
    ) -> list[Curve]:
        """Train from the start; one curve for each set of ``judged`` texts, whose losses after every pass are not part
        of the time."""
        with torch.no_grad():
            for each, start in zip(self._trained, self._start, strict=True):
                each.copy_(start)
        optimiser = torch.optim.AdamW(self._trained, lr=rate)
        order = torch.Generator().manual_seed(0)
        seconds, losses = [0.0], [[self._loss(each) for each in judged]]
        for _ in range(passes):
            self._model.train()
            started = time.perf_counter()
            for index in torch.split(torch.randperm(len(texts), generator=order), batch_size):
                tokens, there, targets = _padded([texts[row] for row in index.tolist()])
                loss = self._model(input_ids=tokens, attention_mask=there, labels=targets).loss
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            seconds.append(seconds[-1] + time.perf_counter() - started)
            losses.append([self._loss(each) for each in judged])
        return [Curve(tuple(seconds), each, len(texts)) for each in zip(*losses, strict=True)]

    @torch.no_grad()
    def _loss(self, texts: Sequence[Text]) -> float:
        """Nats per token of the replies, over the whole vocabulary."""
        self._model.eval()
        total, count = 0.0, 0
        for text in texts:
            tokens, there, targets = _padded([text])
            replied = int((targets != IGNORED).sum())
            total += float(self._model(input_ids=tokens, attention_mask=there, labels=targets).loss) * replied
            count += replied
        return total / count


def _padded(texts: Sequence[Text]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, which places hold one, and the tokens that count (IGNORED elsewhere), each (b, t)."""
    width = max(len(text[0]) for text in texts)
    tokens = torch.zeros(len(texts), width, dtype=torch.int64)
    there, targets = torch.zeros_like(tokens), torch.full_like(tokens, IGNORED)
    for row, text in enumerate(texts):
        ids = torch.tensor(list(text[0]))
        tokens[row, : len(ids)], there[row, : len(ids)] = ids, 1
        targets[row, text[1] : len(ids)] = ids[text[1] :]
    return tokens, there, targets
