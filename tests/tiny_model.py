"""A tiny random llama in GGUF, loadable by llama.cpp and by transformers' `from_pretrained(gguf_file=...)`,
in milliseconds.

64 wide, 4 layers, 4 heads of 16 (2 for keys and values), feed-forward 128, tied embeddings, float32 weights,
byte-level BPE vocabulary of 3 control tokens, 256 bytes and a few merges, ChatML template. Its text is noise;
its arithmetic is real.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType

WIDTH, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, CONTEXT = 64, 4, 4, 2, 128, 512
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Each merge joins two pieces that exist already; "\u0120" is how byte-level BPE writes a space.
MERGES = tuple(
    ["t h", "th e", "i n", "a n", "e r", "o n", "r e", "Ġ the", "Ġ a", "in g", "an d", "Ġ and", "o u", "y ou"]
)


def write_tiny_model(path: Path, seed: int) -> Path:
    """Write the model with weights drawn from `seed` to `path` and return it. The same seed gives the same
    bytes.
    """
    rng = np.random.default_rng(seed)
    vocabulary = _vocabulary()
    writer = GGUFWriter(str(path), "llama")
    writer.add_name(f"tiny-{seed}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    kinds = [TokenType.CONTROL if token in CONTROL_TOKENS else TokenType.NORMAL for token in vocabulary]
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    def add(name: str, *shape: int) -> None:
        # Rows of unit variance over sqrt(in): activations keep their size, and logits differ clearly.
        writer.add_tensor(name, (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32))

    kv_width = WIDTH // HEADS * KV_HEADS
    writer.add_tensor("token_embd.weight", (0.3 * rng.standard_normal((len(vocabulary), WIDTH))).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
    for layer in range(LAYERS):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(WIDTH, dtype=np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", np.ones(WIDTH, dtype=np.float32))
        add(f"blk.{layer}.attn_q.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.attn_k.weight", kv_width, WIDTH)
        add(f"blk.{layer}.attn_v.weight", kv_width, WIDTH)
        add(f"blk.{layer}.attn_output.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, WIDTH)
        add(f"blk.{layer}.ffn_up.weight", FEED_FORWARD, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary() -> list[str]:
    """Control tokens, the 256 bytes in the printable alphabet of byte-level BPE (GPT-2), and one token per
    merge.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("\u00a1"), ord("\u00ac") + 1),
        *range(ord("\u00ae"), 256),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    return [*CONTROL_TOKENS, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]
