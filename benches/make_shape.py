#!/usr/bin/env python3
"""Writes a GGUF file of 16-bit floats with the shape of a well-known model and weights drawn at random.

Speed and memory depend on shapes, not on what the weights are. Needs `gguf` and `numpy` from PyPI; `inference.sh` and `governing.sh` call it.

    make_shape.py llama-3.2-1b|llama-3.2-3b|small FILE
"""

import sys

import gguf
import numpy as np

# layers, width, feed-forward width, heads, key-value heads, head size, vocabulary
SHAPES = {
    "llama-3.2-1b": (16, 2048, 8192, 32, 8, 64, 128_256),
    "llama-3.2-3b": (28, 3072, 8192, 24, 8, 128, 128_256),
    # 9 million weights: what a step costs beside its products counts here.
    "small": (6, 256, 768, 8, 4, 32, 8_192),
}


def vocabulary(size):
    """Byte-level BPE: the 256 bytes, then pairs of earlier tokens, so that every token has its merge."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        letters.setdefault(byte, chr(256 + len(letters) - len(printable)))
    tokens = [letters[byte] for byte in range(256)]
    known, merges = set(tokens), []
    left = 0
    while len(tokens) < size - 2:
        for right in range(256):
            pair = tokens[left] + tokens[right]
            if pair not in known and len(tokens) < size - 2:
                merges.append(f"{tokens[left]} {tokens[right]}")
                tokens.append(pair)
                known.add(pair)
        left += 1
    return [*tokens, "<|begin_of_text|>", "<|end_of_text|>"], merges


def main():
    shape, path = sys.argv[1:]
    layers, width, wide, heads, kv_heads, head, size = SHAPES[shape]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(shape)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(500_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(size)
    tokens, merges = vocabulary(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (size - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(size - 2)
    writer.add_eos_token_id(size - 1)
    random = np.random.default_rng(11)

    def matrix(name, rows, columns):
        values = random.standard_normal((rows, columns), dtype=np.float32)
        writer.add_tensor(name, (values * columns**-0.5).astype(np.float16))

    matrix("token_embd.weight", size, width)
    for layer in range(layers):
        at = f"blk.{layer}."
        matrix(at + "attn_q.weight", heads * head, width)
        matrix(at + "attn_k.weight", kv_heads * head, width)
        matrix(at + "attn_v.weight", kv_heads * head, width)
        matrix(at + "attn_output.weight", width, heads * head)
        matrix(at + "ffn_gate.weight", wide, width)
        matrix(at + "ffn_up.weight", wide, width)
        matrix(at + "ffn_down.weight", width, wide)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{at}{norm}.weight", np.ones(width, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
