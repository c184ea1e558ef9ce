"""The serving model in torch: the same weights that llama.cpp serves, de-quantised, with frame adapters on
top.

Only the top layers are adapted, so the hidden states below them are computed once per text and kept
(``lower_hidden``); a training step then costs the top layers and a small part of the output layer.

One ``R`` per example: in ``FramedLinear`` every example of a batch has its own coordinates

    y = x W^T + scale * ((x V^T) R_b^T) U^T          x (b, t, in), R (b, r, r), y (b, t, out)

so that the gradient with respect to ``R`` is already per example and clipping needs no hooks (compare the
per-sample gradients of Opacus, which is the oracle in ``tests/client/test_dp_sgd.py``).

Output layer: the loss needs log Z over the whole vocabulary, but a person's text uses few words of it. With
``S`` the words that occur in the batch's texts and the ``EXPECTED_WORDS`` that the base model expects most in
their places,

    log Z  ~  log( sum_{j in S} exp(l_j) + exp(rest) ),   rest = log sum_{j not in S} exp(l_j).

With h the final hidden state and w_j the output embedding of word j, ``rest`` is expanded around the base
model:

    rest(h)  ~  rest(h_0) + m . (h - h_0),     m = sum_{j not in S} softmax_{not S}(l(h_0))_j w_j ,

where m (b, t, h) and rest(h_0) - m . h_0 (b, t) are computed once, without adapter, and kept. The first term
alone would leave the words outside S out of the gradient, and training raises the true loss; with the second
the gradient at the base model is exact and the loss is wrong only in second order (too low, as log-sum-exp is
convex). Training uses it, evaluation never does (llama.cpp scores the full vocabulary).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from protocol.errors import PenchantError
from protocol.frames import Frame, Vector

_HF_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
IGNORED = -100
EXPECTED_WORDS = 2000

EXPECTATION_STRIDE = 4
TEXTS_AT_ONCE = 4  # bounds memory: each place of a text costs several rows of the whole vocabulary


class FramedLinear(nn.Module):
    """A frozen linear map plus ``scale * U R V`` with one R per example (``R`` None: the base map alone)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.u: Tensor | None = None  # (out, r)
        self.v: Tensor | None = None  # (r, in)
        self.r: Tensor | None = None  # (b, r, r) or (1, r, r)
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if self.r is None or self.u is None or self.v is None:
            return y
        z = (x @ self.v.T) @ self.r.transpose(1, 2)  # (b, t, r)
        return y + self.scale * (z @ self.u.T)


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (2.8 times faster measured), else float32."""
    capabilities = torch.cpu.get_capabilities()
    supported = any(capabilities.get(name) is True for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if supported else torch.float32


@dataclass(frozen=True)
class Batch:
    """Texts of one training batch, padded on the right.

    ``hidden`` (b, t, h) below the adapted layers; ``targets`` (b, t) index into ``words`` or IGNORED;
    ``words`` (s,) vocabulary ids, the set S; the log mass of all others is ``rest`` (b, t) + ``rest_slope``
    (b, t, h) times the final hidden state. ``member`` (b, s), where given, restricts each example to its own
    words: then no number that belongs to one example depends on another (``client/dp_sgd.py`` needs that).
    """

    hidden: Tensor
    targets: Tensor
    words: Tensor
    rest: Tensor
    rest_slope: Tensor
    member: Tensor | None = None

    def rows(self, index: Tensor) -> Batch:
        """The examples ``index`` of this batch."""
        member = None if self.member is None else self.member[index]
        return Batch(
            self.hidden[index],
            self.targets[index],
            self.words,
            self.rest[index],
            self.rest_slope[index],
            member,
        )


class TorchModel:
    """De-quantised serving file, frozen, in evaluation mode; the last ``top_layers`` layers take adapters."""

    def __init__(self, causal_lm: Any, top_layers: int) -> None:
        self.layer_count = int(causal_lm.config.num_hidden_layers)
        if not 1 <= top_layers <= self.layer_count:
            raise PenchantError(f"the model has {self.layer_count} layers; cannot adapt the top {top_layers}")
        self.first_adapted = self.layer_count - top_layers
        self._lm = causal_lm.eval()
        self._lm.requires_grad_(False)
        self.dtype: torch.dtype = next(self._lm.parameters()).dtype
        self._maps: dict[str, FramedLinear] = {}
        for index in range(self.first_adapted, self.layer_count):
            layer = self._lm.model.layers[index]
            for gguf_name, hf_name in _HF_NAMES.items():
                parent_name, child_name = hf_name.split(".")
                parent = getattr(layer, parent_name)
                framed = FramedLinear(getattr(parent, child_name))
                setattr(parent, child_name, framed)
                self._maps[f"blk.{index}.{gguf_name}"] = framed

    @staticmethod
    def load(gguf: Path, *, top_layers: int, dtype: torch.dtype | None = None) -> TorchModel:
        """De-quantise the GGUF that serves (never a second weights file) into torch."""
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as hf_logging

        hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        hf_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        try:
            with redirect_stderr(io.StringIO()):  # its progress bars cannot be switched off and break ours
                causal_lm = AutoModelForCausalLM.from_pretrained(
                    gguf.parent, gguf_file=gguf.name, dtype=dtype or fast_dtype(), local_files_only=True
                )
        except Exception as error:
            reason = f"it could not be de-quantised ({error})"
            raise PenchantError(f"cannot train on {gguf.name}: {reason}") from error
        return TorchModel(causal_lm, top_layers)

    def module_names(self, kinds: Sequence[str]) -> tuple[str, ...]:
        """GGUF names of the adapted maps of the given kinds ("attn_v", "ffn_down"), lowest layer first."""
        return tuple(n for n in self._maps if n.rsplit(".", 1)[1] in kinds)

    def linear(self, module: str) -> nn.Linear:
        """The frozen linear map of a module."""
        return self._maps[module].base

    def set_frame(self, frame: Frame | None) -> None:
        """Install U and V of a frame (or remove every adapter)."""
        for framed in self._maps.values():
            framed.u = framed.v = framed.r = None
        if frame is None:
            return
        for name, u, v in zip(frame.modules, frame.left, frame.right, strict=True):
            if name not in self._maps:
                raise PenchantError(f"the frame adapts {name}, which is not among the model's adapted layers")
            framed = self._maps[name]
            framed.u = torch.from_numpy(u).to(self.dtype)
            framed.v = torch.from_numpy(v).to(self.dtype)
            framed.scale = frame.scale

    def set_coordinates(self, frame: Frame, theta: Tensor) -> None:
        """Use ``theta`` (b, d), or (1, d) for the whole batch; keeps the graph for gradients."""
        r = theta.to(self.dtype).reshape(theta.shape[0], len(frame.modules), frame.rank, frame.rank)
        for position, name in enumerate(frame.modules):
            self._maps[name].r = r[:, position]

    def _run(self, hidden: Tensor, first: int, last: int) -> Tensor:
        positions = torch.arange(hidden.shape[1])[None]
        rotary = self._lm.model.rotary_emb(hidden, positions)
        for layer in self._lm.model.layers[first:last]:
            # Without a mask attention is causal; padding is on the right.
            out = layer(hidden, position_embeddings=rotary, attention_mask=None)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    @torch.no_grad()
    def lower_hidden(self, tokens: Tensor) -> Tensor:
        """Hidden state below the adapted layers. tokens (b, t) int64 -> (b, t, h)."""
        return self._run(self._lm.model.embed_tokens(tokens), 0, self.first_adapted)

    def top_hidden(self, hidden: Tensor) -> Tensor:
        """The adapted layers and the final norm: (b, t, h) -> (b, t, h)."""
        out: Tensor = self._lm.model.norm(self._run(hidden, self.first_adapted, self.layer_count))
        return out

    @property
    def output_weight(self) -> Tensor:
        """The output embedding (vocabulary, h)."""
        weight: Tensor = self._lm.lm_head.weight
        return weight

    @torch.no_grad()
    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """Full-vocabulary log-probability of tokens[1:] under the current adapter, shape (len - 1,),
        float32."""
        ids = torch.tensor([list(tokens)])
        top = self.top_hidden(self.lower_hidden(ids))
        logits = (top[0, :-1] @ self.output_weight.T).float()
        chosen = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0]
        return np.asarray(chosen.numpy())

    @torch.no_grad()
    def prepare(self, texts: Sequence[tuple[Sequence[int], int]], *, max_tokens: int = 160) -> Batch:
        """Cache everything below the adapters for texts given as (tokens, prompt_length).

        Only tokens after the prompt are targets. Texts are cut to ``max_tokens``.
        """
        kept = [(list(ids)[:max_tokens], prompt) for ids, prompt in texts]
        kept = [(ids, prompt) for ids, prompt in kept if len(ids) > prompt]
        if not kept:
            raise PenchantError("there is no text to train on; remember something first")
        width = max(len(ids) for ids, _ in kept)
        tokens = torch.zeros(len(kept), width, dtype=torch.int64)
        targets = torch.full((len(kept), width), IGNORED, dtype=torch.int64)
        for row, (ids, prompt) in enumerate(kept):
            tokens[row, : len(ids)] = torch.tensor(ids)
            targets[row, max(prompt, 1) - 1 : len(ids) - 1] = tokens[row, max(prompt, 1) : len(ids)]
        for framed in self._maps.values():
            framed.r = None
        hidden_rows, top_rows, expected = [], [], torch.zeros(len(self.output_weight))
        chunks = torch.split(torch.arange(len(kept)), TEXTS_AT_ONCE)
        for chunk in chunks:
            hidden = self.lower_hidden(tokens[chunk])
            top = self.top_hidden(hidden)
            # Which words the model expects shows in a part of the places; only the mass must be exact.
            some = top[targets[chunk] != IGNORED][::EXPECTATION_STRIDE]
            expected += torch.softmax((some @ self.output_weight.T).float(), -1).sum(0)
            hidden_rows.append(hidden)
            top_rows.append(top)
        likely = expected.topk(min(EXPECTED_WORDS, len(expected))).indices
        words = torch.unique(torch.cat([targets[targets != IGNORED], likely]))
        targets[targets != IGNORED] = torch.searchsorted(words, targets[targets != IGNORED])
        rest_rows, slope_rows = [], []
        for chunk, top in zip(chunks, top_rows, strict=True):
            rest = torch.zeros(targets[chunk].shape)
            used = targets[chunk] != IGNORED
            logits = (top[used] @ self.output_weight.T).float()  # (n, vocabulary)
            logits[:, words] = float("-inf")
            log_mass = torch.logsumexp(logits, -1)
            # If every word of the vocabulary occurs, there is no rest: log mass -inf, slope 0.
            share = (logits - log_mass[:, None]).exp_().nan_to_num_(0.0)
            slope = torch.zeros_like(top)
            slope[used] = share.to(self.dtype) @ self.output_weight
            rest[used] = log_mass - (slope[used].float() * top[used].float()).sum(-1)
            rest_rows.append(rest)
            slope_rows.append(slope)
        return Batch(torch.cat(hidden_rows), targets, words, torch.cat(rest_rows), torch.cat(slope_rows))

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed negative log-likelihood (nats) and number of target tokens of each example, both (b,)."""
        used = batch.targets != IGNORED
        row = torch.nonzero(used)[:, 0]
        top = self.top_hidden(batch.hidden)[used]  # (n, h)
        logits = (top @ self.output_weight[batch.words].T).float()  # (n, s)
        if batch.member is not None:
            logits = logits.masked_fill(~batch.member[row], float("-inf"))
        rest = batch.rest[used] + (top.float() * batch.rest_slope[used].float()).sum(-1)
        log_z = torch.logsumexp(torch.cat([logits, rest[:, None]], 1), -1)
        nll = log_z - logits.gather(1, batch.targets[used][:, None])[:, 0]
        summed = torch.zeros(len(batch.targets)).index_add(0, row, nll)
        return summed, used.sum(1)


def as_theta(vector: Vector) -> Tensor:
    """A frame vector (d,) as a float32 tensor (1, d)."""
    return torch.from_numpy(np.asarray(vector, dtype=np.float32))[None].clone()
