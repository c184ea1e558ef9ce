"""Networks of linear maps and ReLUs trained by a whole block of people at once: the learner of the speed benchmark.

With a_l (b n, in) the inputs of layer l for b people with n examples each, and g_l (b n, out) the gradients of each
person's own mean loss with respect to the layer's outputs, person p's gradient is

    dW_l = sum over p's examples of g a^T ,   db_l = sum of g ,
    |dW_l|^2 + |db_l|^2 = sum_ij (g_i . g_j) (a_i . a_j + 1)

(ghost norms: Goodfellow 2015; Li, Tramer, Liang and Hashimoto 2022, section 4, here per person). So after *one* local
SGD step, whose offer is -rate times the gradient, clipping needs two n x n products of what the backward pass has
anyway, and the clipped sum of the block is one matrix product with the rows of g times their person's factor. Nothing
of size (b, d) exists, and the sum is the exact one. With more local steps everybody has weights of their own, (b, d).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol.errors import PenchantError
from protocol.frames import Vector
from simulations.fleets.blocks import BlockSum, People, clip_factors, sum_clipped
from simulations.fleets.row_files import RowFile

FEATURES, LABELS = "features.npy", "labels.npy"
TOGETHER: Final = 2**21  # numbers of people's own weights at once, 8 MB: the processor's caches


@dataclass(frozen=True)
class Network:
    """``widths``: inputs, hidden layers, classes. Parameters lie in theta as in torch: W (out, in), then b, layer by
    layer."""

    widths: tuple[int, ...]

    @property
    def dimension(self) -> int:
        """Numbers trained."""
        return sum(outs * (ins + 1) for ins, outs in pairwise(self.widths))

    def start(self, seed: int) -> Vector:
        """Weights of variance 2 / in, biases 0."""
        random, parts = np.random.default_rng(seed), list[Vector]()
        for ins, outs in pairwise(self.widths):
            parts += [random.standard_normal(outs * ins) * np.sqrt(2 / ins), np.zeros(outs)]
        return np.concatenate(parts)

    def layers(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """W (..., out, in) and b (..., out) of every layer, views of theta (..., d)."""
        found, at = [], 0
        for ins, outs in pairwise(self.widths):
            weight = theta[..., at : at + outs * ins].view(*theta.shape[:-1], outs, ins)
            at += outs * ins
            found.append((weight, theta[..., at : at + outs]))
            at += outs
        return found


@dataclass(frozen=True)
class LocalSteps:
    """``count`` SGD steps at ``rate``, each on all of a person's examples."""

    count: int = 1
    rate: float = 0.1


class NetworkLearner:
    """People whose examples lie in ``folder``: ``features.npy`` (population, n, inputs) float32 and ``labels.npy``
    (population, n). A block's rows are read when it is trained, so the size of the files does not matter."""

    def __init__(self, network: Network, folder: Path, steps: LocalSteps) -> None:
        self.network, self.steps = network, steps
        self._folder, self._features, self._labels = folder, RowFile(folder / FEATURES), RowFile(folder / LABELS)
        shape = self._features.shape
        if len(shape) != 3 or shape[2] != network.widths[0] or self._labels.shape != shape[:2]:
            raise PenchantError("the people's examples do not fit the network: features (people, n, inputs) and labels")

    @property
    def dimension(self) -> int:
        """See ``Learner``."""
        return self.network.dimension

    @property
    def people_at_once(self) -> int:
        """See ``Learner``."""
        return 64 if self.steps.count == 1 else max(1, TOGETHER // self.dimension)

    @cached_property
    def digest(self) -> str:
        """See ``Learner``; reads all the data once."""
        whole = hashlib.sha256(repr((asdict(self.network), asdict(self.steps))).encode())
        for name in (FEATURES, LABELS):
            with (self._folder / name).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    def clipped_sum(self, people: People, theta: Vector, clip_norm: float) -> BlockSum:
        """See ``Learner``."""
        if self.steps.count == 1:
            return self._one_step(*self._examples(people), torch.from_numpy(theta).float(), clip_norm)
        return sum_clipped(*self.deltas(people, theta), clip_norm)

    def deltas(self, people: People, theta: Vector) -> tuple[Tensor, Tensor]:
        """Everybody's offer (b, d), and the mean loss (b,) before training."""
        x, y = self._examples(people)
        begin = torch.from_numpy(theta).float()
        own, before = begin.expand(len(people), -1).clone(), torch.zeros(len(people))
        for step in range(self.steps.count):
            own.requires_grad_(True)
            a = x
            for place, (weight, bias) in enumerate(self.network.layers(own)):
                a = torch.baddbmm(bias[:, None], a.relu() if place else a, weight.transpose(1, 2))
            losses = torch.nn.functional.cross_entropy(a.transpose(1, 2), y, reduction="none").mean(1)
            (gradient,) = torch.autograd.grad(losses.sum(), own)
            own = own.detach() - self.steps.rate * gradient
            before = before if step else losses.detach()
        return own - begin, before

    def _examples(self, people: People) -> tuple[Tensor, Tensor]:
        """x (b, n, inputs) and y (b, n)."""
        return torch.from_numpy(self._features.rows(people)), torch.from_numpy(self._labels.rows(people))

    @torch.no_grad()
    def _one_step(self, x: Tensor, y: Tensor, theta: Tensor, clip_norm: float) -> BlockSum:
        b, n = y.shape
        layers, rate = self.network.layers(theta), self.steps.rate
        inputs = [x.flatten(0, 1)]  # a_l
        for weight, bias in layers[:-1]:
            inputs.append(torch.addmm(bias, inputs[-1], weight.T).relu_())
        shares = torch.log_softmax(torch.addmm(layers[-1][1], inputs[-1], layers[-1][0].T), -1)
        target = y.flatten()[:, None]
        losses = -shares.gather(1, target).view(b, n).mean(1)
        g = shares.exp_().scatter_add_(1, target, torch.full_like(target, -1.0, dtype=shares.dtype)) / n

        squares, gradients = torch.zeros(b), list[Tensor]()
        for (weight, _), a in zip(reversed(layers), reversed(inputs), strict=True):
            gradients.append(g)
            people_a, people_g = a.view(b, n, -1), g.view(b, n, -1)
            squares += ((people_g @ people_g.mT) * (people_a @ people_a.mT + 1)).sum((1, 2))
            if a is not inputs[0]:
                g = torch.where(a > 0, g @ weight, 0.0)
        factors = clip_factors(rate * squares.clamp(min=0).sqrt(), clip_norm)
        failed = ~torch.isfinite(squares)
        if bool(failed.any()):  # their rows would make the whole product no number
            kept = self._one_step(x[~failed], y[~failed], theta, clip_norm)
            return BlockSum(kept.total, kept.clipped + int(failed.sum()), kept.loss)

        total = torch.empty(self.dimension)
        rows = factors.repeat_interleave(n)[:, None] * -rate
        for (weight, bias), a, g in zip(self.network.layers(total), inputs, reversed(gradients), strict=True):
            weighted = g * rows
            torch.mm(weighted.T, a, out=weight)
            torch.sum(weighted, 0, out=bias)
        return BlockSum(total.numpy(), int((factors < 1).sum()), float(losses.sum()))


def mean_loss(network: Network, theta: Vector, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Cross entropy in nats on examples x (m, inputs), y (m,)."""
    a = torch.from_numpy(x)
    for place, (weight, bias) in enumerate(network.layers(torch.from_numpy(theta).float())):
        a = torch.addmm(bias, a.relu() if place else a, weight.T)
    return float(torch.nn.functional.cross_entropy(a, torch.from_numpy(y)))


def write_population(folder: Path, *, people: int, examples: int, inputs: int, classes: int, seed: int) -> None:
    """A made-up population for timing: normal features, labels by a linear teacher, noisy, some classes rarer with each
    person. Written 1,024 people at a time."""
    teacher = np.random.default_rng([seed, 0]).standard_normal((inputs, classes)) / np.sqrt(inputs)
    folder.mkdir(parents=True, exist_ok=True)
    x = np.lib.format.open_memmap(folder / FEATURES, "w+", np.float32, (people, examples, inputs))
    y = np.lib.format.open_memmap(folder / LABELS, "w+", np.int64, (people, examples))
    for first in range(0, people, 1024):
        count, random = min(1024, people - first), np.random.default_rng([seed, 1, first])
        x[first : first + count] = random.standard_normal((count, examples, inputs), dtype=np.float32)
        liking = 0.5 * random.standard_normal((count, 1, classes))
        scores = 3.0 * x[first : first + count] @ teacher + liking + random.gumbel(size=(count, examples, classes))
        y[first : first + count] = scores.argmax(-1)
    x.flush()
    y.flush()
