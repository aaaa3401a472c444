"""Makes the fixtures of tests/suite/architectures.rs: for each architecture a tiny model with random weights, and what
Hugging Face's transformers computes with it.

Never part of the test command: the fixtures are committed, and this file only says how they came about. Run it with
transformers 4.57, torch 2.6 and gguf 0.19:

    python models/tests/make_architectures.py models/tests/fixtures/architectures

A fixture is a directory NAME with `config.json`, `model.safetensors` (float16, which float32 holds exactly; one model
is sharded instead), `logits.f32` (64 positions x 96 tokens, little-endian float32, computed in float32) and, where
there is one, `model.gguf`: the same weights as llama.cpp's convert_hf_to_gguf.py would write them. Windows are shorter
than the 64 tokens, and original contexts too, so that both matter.
"""

import json
import math
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

TOKENS, VOCABULARY, HIDDEN, FEED_FORWARD = 64, 96, 32, 40
# The test has the same formula.
IDS = [(37 * i + 11 * i * i + 5) % VOCABULARY for i in range(TOKENS)]

COMMON = dict(
    vocab_size=VOCABULARY,
    hidden_size=HIDDEN,
    intermediate_size=FEED_FORWARD,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
SHORT = [1.0 + 0.1 * i for i in range(4)]
LONG = [1.5 + 0.7 * i for i in range(4)]

MODELS = {
    "llama": (
        transformers.LlamaConfig,
        dict(
            num_hidden_layers=2,
            tie_word_embeddings=True,
            rope_theta=10000.0,
            rope_scaling=dict(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
    ),
    "llama_biases": (
        transformers.LlamaConfig,
        dict(
            num_hidden_layers=2,
            attention_bias=True,
            mlp_bias=True,
            num_key_value_heads=4,
            rope_scaling=dict(rope_type="linear", factor=4.0),
        ),
    ),
    "mistral": (
        transformers.MistralConfig,
        dict(num_hidden_layers=2, sliding_window=16, head_dim=12, num_key_value_heads=1),
    ),
    "qwen2": (
        transformers.Qwen2Config,
        dict(
            num_hidden_layers=2,
            tie_word_embeddings=True,
            rope_theta=10000.0,
            rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
        ),
    ),
    "qwen2_window": (
        transformers.Qwen2Config,
        dict(num_hidden_layers=2, use_sliding_window=True, sliding_window=16, max_window_layers=1),
    ),
    "qwen3": (
        transformers.Qwen3Config,
        dict(num_hidden_layers=2, head_dim=16, tie_word_embeddings=True, rope_theta=1000000.0),
    ),
    "smollm3": (
        transformers.SmolLM3Config,
        dict(num_hidden_layers=4, tie_word_embeddings=True, rope_theta=5000.0),
    ),
    "phi3": (
        transformers.Phi3Config,
        dict(
            num_hidden_layers=2,
            sliding_window=24,
            original_max_position_embeddings=32,
            rope_scaling=dict(type="longrope", short_factor=SHORT, long_factor=LONG),
        ),
    ),
    "phi3_partial": (
        transformers.Phi3Config,
        dict(num_hidden_layers=2, partial_rotary_factor=0.5, tie_word_embeddings=True),
    ),
    "gemma2": (
        transformers.Gemma2Config,
        dict(
            num_hidden_layers=2,
            head_dim=12,
            # GGUF has no key for it: it follows from the head size there.
            query_pre_attn_scalar=12,
            sliding_window=16,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=8.0,
        ),
    ),
    "gemma3": (
        transformers.Gemma3TextConfig,
        dict(
            num_hidden_layers=7,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=16,
            rope_theta=100000.0,
            rope_local_base_freq=1000.0,
            rope_scaling=dict(rope_type="linear", factor=8.0),
        ),
    ),
}
SHARDED = "llama_biases"
GGUF = ["llama", "qwen2", "qwen3", "smollm3", "phi3", "gemma2", "gemma3"]


def random_weights(model, generator, gemma):
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            value = (0.0 if gemma else 1.0) + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.4 * noise
        elif "embed_tokens" in name:
            value = noise / (math.sqrt(HIDDEN) if gemma else 1.0)
        elif "lm_head" in name:
            value = 0.5 * noise
        else:
            value = noise * 1.5 / math.sqrt(parameter.shape[1])
        parameter.data = value.half().float()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def write_safetensors(directory, state, sharded):
    state = {name: tensor.half().contiguous() for name, tensor in state.items()}
    if not sharded:
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(state)
    weight_map = {}
    for part, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{part:05}-of-00002.safetensors"
        save_file({name: state[name] for name in chosen}, directory / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in chosen}
    size = sum(2 * tensor.numel() for tensor in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def permuted(weight, heads):
    """LlamaModel.permute of convert_hf_to_gguf.py."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(path, name, config, state):
    architecture = {"gemma3_text": "gemma3"}.get(config.model_type, config.model_type)
    kind = next(kind for kind, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    writer = gguf.GGUFWriter(path, architecture)
    head_size = getattr(config, "head_dim", None) or HIDDEN // config.num_attention_heads
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(VOCABULARY)
    if getattr(config, "head_dim", None):
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
    if architecture in ("llama", "phi3", "smollm3"):
        writer.add_rope_dimension_count(head_size)
    if architecture in ("phi3", "gemma2", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma3":
        writer.add_rope_freq_base_swa(config.rope_local_base_freq)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    scaling = getattr(config, "rope_scaling", None) or {}
    rope_type = scaling.get("rope_type", scaling.get("type"))
    if rope_type == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif rope_type == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    elif rope_type == "llama3":
        # LlamaModel.generate_extra_tensors
        factors = []
        low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
        high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
        for i in range(0, head_size, 2):
            wavelength = 2 * math.pi * config.rope_theta ** (i / head_size)
            if wavelength < high:
                factors.append(1.0)
            elif wavelength > low:
                factors.append(scaling["factor"])
            else:
                smooth = (scaling["original_max_position_embeddings"] / wavelength - scaling["low_freq_factor"]) / (
                    scaling["high_freq_factor"] - scaling["low_freq_factor"]
                )
                factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    elif rope_type == "longrope":
        # Phi3MiniModel.generate_extra_tensors
        original = config.original_max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
        writer.add_tensor("rope_factors_long.weight", np.array(scaling["long_factor"], dtype=np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(scaling["short_factor"], dtype=np.float32))

    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>", "▁"] + [chr(ord("!") + i) for i in range(VOCABULARY - 4)]
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(VOCABULARY)])
    writer.add_token_types([2, 3, 3] + [1] * (VOCABULARY - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for hf_name, tensor in state.items():
        values = tensor.numpy()
        if architecture in ("llama", "smollm3"):
            if "q_proj" in hf_name:
                values = permuted(values, config.num_attention_heads)
            if "k_proj" in hf_name:
                values = permuted(values, config.num_key_value_heads)
        if architecture.startswith("gemma") and hf_name.endswith("norm.weight"):
            values = values + 1
        values = values.astype(np.float32 if values.ndim == 1 else np.float16)
        writer.add_tensor(names.get_name(hf_name, (".weight", ".bias")), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(target):
    for number, (name, (kind, changes)) in enumerate(MODELS.items()):
        directory = target / name
        directory.mkdir(parents=True, exist_ok=True)
        config = kind(**(COMMON | changes))
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        random_weights(model, torch.Generator().manual_seed(number + 1), name.startswith("gemma"))
        model.tie_weights()
        state = {key: value.detach().clone() for key, value in model.named_parameters()}
        write_safetensors(directory, state, name == SHARDED)
        written = config.to_diff_dict()
        written["torch_dtype"] = "float16"
        (directory / "config.json").write_text(json.dumps(written, indent=1) + "\n")
        found = logits(model, IDS)
        assert found.shape == (TOKENS, VOCABULARY)
        found.astype("<f4").tofile(directory / "logits.f32")
        if name == "phi3":
            # No longer than the original context, so that the short factors count.
            logits(model, IDS[:30]).astype("<f4").tofile(directory / "logits_short.f32")
        if name in GGUF:
            write_gguf(directory / "model.gguf", name, config, state)
        spread = np.abs(found).max(), found.std()
        print(f"{name:14} largest logit {spread[0]:.2f}, deviation {spread[1]:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
