"""The serving model in torch: the same weights that llama.cpp serves, de-quantised, with adapters on top: coordinates
in a frame, or the factors of ordinary LoRA.

Only the top layers are adapted, so the hidden states below them are computed once per text and kept; a training step
then costs the top layers and a small part of the output layer. Texts are trained without their padding
(``client.packed_texts``), and a batch gives the gradients of its coordinates text by text or summed at the same cost
(``client.adapted_linear``). Which words of the vocabulary take part in the output layer: ``client.output_words``.
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

from client.adapted_linear import AdaptedLinear
from client.device_profile import TOKENS_AND_LAYERS_AT_ONCE
from client.frozen_layers import replace_frozen
from client.lora_layout import AdapterSpace, LoraLayout
from client.output_words import public_words, token_losses
from client.packed_texts import Packing, use_packed_attention
from protocol.errors import PenchantError
from protocol.frames import Vector

_HF_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# (tokens, prompt_length), or with weights too: one per token after the prompt, none meaning 1 for each.
Text = tuple[Sequence[int], int] | tuple[Sequence[int], int, Sequence[float]]
IGNORED = -100
TOKENS_AT_ONCE = 1024  # below the adapted layers


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (2.8 times faster measured), else float32."""
    capabilities = torch.cpu.get_capabilities()
    supported = any(capabilities.get(name) is True for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if supported else torch.float32


@dataclass(frozen=True)
class Batch:
    """Texts of one training batch, padded on the right.

    ``hidden`` (b, t, h) below the adapted layers; ``lengths`` (b,) of the texts; ``targets`` (b, t) vocabulary ids or
    IGNORED. ``weights`` (b, t), where given, multiply the token losses (None: 1 each). ``apart``: the words that only
    one text uses take no part in the losses of the others, so no number that belongs to one example depends on another
    (``client/dp_sgd.py`` needs that).
    """

    hidden: Tensor
    lengths: Tensor
    targets: Tensor
    weights: Tensor | None = None
    apart: bool = False

    def rows(self, index: Tensor) -> Batch:
        """The examples ``index`` of this batch, no wider than they need."""
        lengths = self.lengths[index]
        width = int(lengths.max()) if len(lengths) else 0
        weights = None if self.weights is None else self.weights[index, :width]
        return Batch(self.hidden[index, :width], lengths, self.targets[index, :width], weights, self.apart)


class TorchModel:
    """De-quantised serving file, frozen, in evaluation mode; the last ``top_layers`` layers take adapters."""

    def __init__(self, causal_lm: Any, top_layers: int) -> None:
        self.layer_count = int(causal_lm.config.num_hidden_layers)
        if not 1 <= top_layers <= self.layer_count:
            raise PenchantError(f"the model has {self.layer_count} layers; cannot adapt the top {top_layers}")
        self.first_adapted = self.layer_count - top_layers
        self._lm = causal_lm.eval()
        self._lm.requires_grad_(False)
        use_packed_attention(self._lm)
        self._has_coordinates = False
        self.dtype: torch.dtype = next(self._lm.parameters()).dtype
        self._maps: dict[str, AdaptedLinear] = {}
        for index in range(self.first_adapted, self.layer_count):
            layer = self._lm.model.layers[index]
            replace_frozen(layer, self.output_weight.shape[1])
            for gguf_name, hf_name in _HF_NAMES.items():
                parent_name, child_name = hf_name.split(".")
                parent = getattr(layer, parent_name)
                adapted = AdaptedLinear(getattr(parent, child_name))
                setattr(parent, child_name, adapted)
                self._maps[f"blk.{index}.{gguf_name}"] = adapted

    @staticmethod
    def load(gguf: Path, *, top_layers: int, dtype: torch.dtype | None = None) -> TorchModel:
        """De-quantise the GGUF that serves (never a second weights file) into torch."""
        return TorchModel(load_causal_lm(gguf, dtype or fast_dtype()), top_layers)

    def module_names(self, kinds: Sequence[str]) -> tuple[str, ...]:
        """GGUF names of the adapted maps of the given kinds ("attn_v", "ffn_down"), lowest layer first."""
        return tuple(n for n in self._maps if n.rsplit(".", 1)[1] in kinds)

    def module_shapes(self, kinds: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(out, in) of each adapted map of the given kinds, lowest layer first."""
        return {
            name: (self.linear(name).out_features, self.linear(name).in_features) for name in self.module_names(kinds)
        }

    def linear(self, module: str) -> nn.Linear:
        """The frozen linear map of a module."""
        return self._maps[module].base

    def set_frame(self, space: AdapterSpace | None) -> None:
        """Install U and V of a frame (ordinary LoRA has none), or with None remove every adapter."""
        for adapted in self._maps.values():
            adapted.u = adapted.v = adapted.r = adapted.packing = adapted.factors = None
        self._has_coordinates = False
        if space is None:
            return
        if missing := [name for name in space.modules if name not in self._maps]:
            raise PenchantError(f"the adapter changes {missing[0]}, which is not among the model's adapted layers")
        if isinstance(space, LoraLayout):
            return
        for name, u, v in zip(space.modules, space.left, space.right, strict=True):
            adapted = self._maps[name]
            adapted.u = (space.scale * torch.from_numpy(u)).to(self.dtype)
            adapted.v = torch.from_numpy(v).to(self.dtype)

    def set_coordinates(self, space: AdapterSpace, theta: Tensor) -> None:
        """Use ``theta`` (1, d) for the whole batch, or in a frame (b, d), one each; keeps the graph for gradients."""
        if isinstance(space, LoraLayout):
            for name, a, b in space.split(theta):
                self._maps[name].factors = (a, b)
        else:
            r = theta.float().reshape(theta.shape[0], len(space.modules), space.rank, space.rank)
            for position, name in enumerate(space.modules):
                self._maps[name].r = r[:, position]
        self._has_coordinates = True

    def _run(self, hidden: Tensor, first: int, last: int, packing: Packing | None = None) -> Tensor:
        """Layers ``first`` to ``last`` on (b, t, h), or on (1, N, h) where packed."""
        positions = torch.arange(hidden.shape[1]) if packing is None else packing.position
        rotary = self._lm.model.rotary_emb(hidden, positions[None])
        for layer in self._lm.model.layers[first:last]:
            out = layer(hidden, position_embeddings=rotary, attention_mask=None, packing=packing)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    @torch.no_grad()
    def lower_hidden(self, tokens: Tensor) -> Tensor:
        """Hidden state below the adapted layers. tokens (b, t) int64 -> (b, t, h)."""
        return self._run(self._lm.model.embed_tokens(tokens), 0, self.first_adapted)

    def top_hidden(self, hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The adapted layers and the final norm: (b, t, h) -> (b, t, h). ``lengths`` (b,) where texts are padded."""
        if not self._has_coordinates:
            # What hooks into the maps (``client.personal_lora``, frame builder) expects (b, t, ...).
            out: Tensor = self._lm.model.norm(self._run(hidden, self.first_adapted, self.layer_count))
            return out
        packing = Packing.of(torch.full((len(hidden),), hidden.shape[1]) if lengths is None else lengths)
        for adapted in self._maps.values():
            adapted.packing = packing
        top = self._run(packing.pack(hidden)[None], self.first_adapted, self.layer_count, packing)
        return packing.pad(self._lm.model.norm(top)[0])

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
    def prepare(self, texts: Sequence[Text], *, max_tokens: int = 160, apart: bool = False) -> Batch:
        """Cache everything below the adapters for texts given as (tokens, prompt_length) or with weights.

        Only tokens after the prompt are targets, but for those of weight 0. Texts are cut to ``max_tokens``. ``apart``:
        see ``Batch``.
        """
        used = [text for text in texts if min(len(text[0]), max_tokens) > text[1]]
        if not used:
            raise PenchantError("there is no text to train on; remember something first")
        lengths = torch.tensor([min(len(text[0]), max_tokens) for text in used])
        tokens = torch.zeros(len(used), int(lengths.max()), dtype=torch.int64)
        targets = torch.full_like(tokens, IGNORED)
        for row, (text, length) in enumerate(zip(used, lengths.tolist(), strict=True)):
            tokens[row, :length] = torch.tensor(list(text[0])[:length])
            first = max(text[1], 1)
            targets[row, first - 1 : length - 1] = tokens[row, first:length]
        weights = _token_weights(used, tokens.shape[1])
        if weights is not None:
            targets[weights == 0] = IGNORED
            weights = None if bool((weights[targets != IGNORED] == 1).all()) else weights
        hidden = torch.zeros(*tokens.shape, self.output_weight.shape[1], dtype=self.dtype)
        for index in torch.split(torch.arange(len(used)), max(1, TOKENS_AT_ONCE // tokens.shape[1])):
            packing = Packing.of(lengths[index])
            packed = self._lm.model.embed_tokens(packing.pack(tokens[index, : packing.width]))[None]
            lower = self._run(packed, 0, self.first_adapted, packing)[0]
            hidden[index, : packing.width] = packing.pad(lower)
        return Batch(hidden, lengths, targets, weights, apart)

    def pieces(self, batch: Batch, index: Tensor, most: int) -> list[Tensor]:
        """The examples ``index`` (n,) in turn, ``most`` at a time, and several only as far as a step that adapts these
        layers may keep their tokens in memory."""
        room = TOKENS_AND_LAYERS_AT_ONCE // (self.layer_count - self.first_adapted)
        pieces: list[list[int]] = []
        tokens = 0
        for row, length in zip(index.tolist(), batch.lengths[index].tolist(), strict=True):
            if not pieces or len(pieces[-1]) == most or tokens + length > room:
                pieces.append([])
                tokens = 0
            pieces[-1].append(row)
            tokens += length
        return [torch.tensor(piece) for piece in pieces]

    def losses(self, batch: Batch, *, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Summed negative log-likelihood (nats, weighted) and number of target tokens of each example, both (b,).

        Over the whole vocabulary, which takes as long as eight layers; with ``draw`` over that sample of it
        (``client.output_words``), which is for training alone: losses of different draws are not to be compared.
        """
        used = batch.targets != IGNORED
        row, targets = torch.nonzero(used)[:, 0], batch.targets[used]
        top = self.top_hidden(batch.hidden, batch.lengths)[used]  # (n, h)
        public = None if draw is None else public_words(len(self.output_weight), draw)
        nll = token_losses(top, self.output_weight, targets, public, row if batch.apart else None)
        if batch.weights is not None:
            nll = nll * batch.weights[used]
        return torch.zeros(len(used)).index_add(0, row, nll), used.sum(1)


def load_causal_lm(gguf: Path, dtype: torch.dtype) -> Any:
    """The file as transformers reads it. Raises PenchantError if it cannot."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hf_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(io.StringIO()):  # its progress bars cannot be switched off and break ours
            return AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=dtype, local_files_only=True
            )
    except Exception as error:
        reason = f"it could not be de-quantised ({error})"
        raise PenchantError(f"cannot train on {gguf.name}: {reason}") from error


def _token_weights(texts: Sequence[Text], width: int) -> Tensor | None:
    """The weights of texts at the places of their targets, (b, t) float32; None if no text has any."""
    if not any(len(text) == 3 and len(text[2]) for text in texts):
        return None
    weights = torch.ones(len(texts), width)
    for row, text in enumerate(texts):
        if len(text) == 3 and len(text[2]):
            tokens, prompt, given = text
            if len(given) != len(tokens) - prompt:
                raise PenchantError("a weighted text needs one weight per token after its prompt")
            # The target of place p is token p + 1; a first token without prompt has no place.
            placed = torch.tensor(list(given), dtype=torch.float32)[1 if prompt == 0 else 0 :]
            first = max(prompt, 1) - 1
            weights[row, first : first + len(placed)] = placed[: width - first]
    return weights


def as_theta(vector: Vector) -> Tensor:
    """The numbers of an adapter (d,) as a float32 tensor (1, d)."""
    return torch.from_numpy(np.asarray(vector, dtype=np.float32))[None].clone()
