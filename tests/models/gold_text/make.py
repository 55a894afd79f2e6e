"""Record what transformers makes of texts with small random models: logits, gradients and generated tokens.

    python tests/models/gold_text/make.py

Needs torch and transformers (no part of this package); recorded with torch 2.14.0 and transformers 5.24.0 on a CPU.
Each folder is what `save_pretrained` writes, in float16, with `recorded.npz`. `counts.json`: parameters of
published sizes.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
LENGTHS, LONGEST, COUNT = (7, 11, 4), 11, 5
"""Tokens of each row, of the longest, and how many are generated."""

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_theta=500.0)
NEAR, FAR = "sliding_attention", "full_attention"
GEMMA3 = {
    FAR: dict(rope_type="linear", factor=8.0, rope_theta=400.0),
    NEAR: dict(rope_type="default", rope_theta=40.0),
}

MODELS = {
    "llama": ("llama", SIZES | dict(rms_norm_eps=1e-5)),
    "llama3": (
        "llama",
        SIZES
        | dict(num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, max_position_embeddings=256)
        | dict(rope_parameters=LLAMA3 | dict(original_max_position_embeddings=32)),
    ),
    "llama_linear": (
        "llama",
        SIZES | dict(num_key_value_heads=1, rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=100.0)),
    ),
    "mistral": ("mistral", SIZES | dict(num_key_value_heads=2, sliding_window=None)),
    "mistral_window": ("mistral", SIZES | dict(num_key_value_heads=2, sliding_window=4)),
    "qwen2": (
        "qwen2",
        SIZES | dict(num_key_value_heads=2, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    ),
    "qwen3": ("qwen3", SIZES | dict(num_key_value_heads=2, head_dim=12)),
    "gemma": ("gemma", SIZES | dict(num_key_value_heads=1, head_dim=12, pad_token_id=0)),
    "gemma3": (
        "gemma3_text",
        SIZES
        | dict(num_hidden_layers=4, num_key_value_heads=2, head_dim=12, query_pre_attn_scalar=20, sliding_window=4)
        | dict(layer_types=[NEAR, NEAR, FAR, NEAR], rope_parameters=GEMMA3),
    ),
}

SHARDED = "qwen3"
"""As large checkpoints come."""

PUBLISHED = {
    "Llama-2-7b": dict(model_type="llama", rms_norm_eps=1e-5, max_position_embeddings=4096),
    "Llama-3.2-1B": dict(
        model_type="llama", vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_theta=500_000.0, max_position_embeddings=131_072,
        rope_scaling=dict(
            factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=8192,
            rope_type="llama3",
        ),
    ),
    "TinyLlama-1.1B": dict(
        model_type="llama", hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_key_value_heads=4,
        rms_norm_eps=1e-5,
    ),
    "Mistral-7B-v0.1": dict(model_type="mistral", rms_norm_eps=1e-5, sliding_window=4096),
    "Mistral-7B-v0.3": dict(
        model_type="mistral", vocab_size=32_768, rms_norm_eps=1e-5, sliding_window=None, rope_theta=1e6
    ),
    "Qwen2.5-0.5B": dict(
        model_type="qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, rope_theta=1e6, tie_word_embeddings=True, use_sliding_window=False,
        sliding_window=32_768,
    ),
    "Qwen2.5-7B": dict(
        model_type="qwen2", vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, rope_theta=1e6,
    ),
    "Qwen3-0.6B": dict(
        model_type="qwen3", hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, rope_theta=1e6, tie_word_embeddings=True,
    ),
    "gemma-2b": dict(
        model_type="gemma", hidden_size=2048, intermediate_size=16_384, num_hidden_layers=18, num_attention_heads=8,
        num_key_value_heads=1, hidden_act="gelu",
    ),
    "gemma-3-1b": dict(
        model_type="gemma3_text", vocab_size=262_144, hidden_size=1152, intermediate_size=6912,
        num_hidden_layers=26, num_attention_heads=4, num_key_value_heads=1, sliding_window=512,
        sliding_window_pattern=6, rope_theta=1e6, rope_local_base_freq=10_000,
    ),
}
"""Configs in the words of the hub, as far as they matter."""


def build(model_type: str, config: dict) -> torch.nn.Module:
    kind = transformers.AutoConfig.for_model(model_type, **config)
    kind._attn_implementation = "eager"
    return transformers.AutoModelForCausalLM.from_config(kind)


def randomise(model: torch.nn.Module) -> None:
    """All parameters random, norms and biases too, and exact in float16."""
    generator = torch.Generator().manual_seed(0)
    gemma, tied = "gemma" in model.config.model_type, model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        if "embed_tokens" in name:
            value *= 0.3 if tied else 1.0
        elif parameter.ndim > 1:
            value *= 2.0 / parameter.shape[1] ** 0.5
        else:
            value = 0.3 * value + (0.0 if gemma or name.endswith("bias") else 0.8)
        parameter.data = value.half().float()


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """int64[3, 11] and its mask: rows of three lengths, padded on the right with 0."""
    random = np.random.RandomState(0)
    ids, mask = np.zeros((len(LENGTHS), LONGEST), int), np.zeros((len(LENGTHS), LONGEST), int)
    for row, length in enumerate(LENGTHS):
        ids[row, :length], mask[row, :length] = random.randint(1, SIZES["vocab_size"], length), 1
    return torch.tensor(ids), torch.tensor(mask)


def greedy(model: torch.nn.Module, row: torch.Tensor) -> list[int]:
    """The likeliest tokens one after the other, each from the whole sequence anew."""
    for _ in range(COUNT):
        row = torch.cat([row, model(row[None]).logits[0, -1].argmax()[None]])
    return row[-COUNT:].tolist()


def gradients(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, np.ndarray]:
    """Loss and the norm of its gradient by each parameter: mean cross-entropy of the real tokens' successors."""
    logits = model(ids, attention_mask=mask).logits[:, :-1]
    real = mask[:, 1:] > 0
    loss = torch.nn.functional.cross_entropy(logits[real], ids[:, 1:][real])
    model.zero_grad()
    loss.backward()
    norms = {f"gradnorm/{name}": p.grad.norm().numpy() for name, p in model.named_parameters()}
    return norms | {"loss": loss.detach().numpy()}


def record(name: str) -> None:
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    model = build(*MODELS[name]).eval()
    randomise(model)
    ids, mask = tokens()
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits.numpy()
        generated = [greedy(model, row[:length]) for row, length in zip(ids, LENGTHS, strict=True)]
    arrays = dict(ids=ids.numpy(), mask=mask.numpy(), logits=logits, generated=np.array(generated))
    arrays |= gradients(model, ids, mask)
    model.half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == SHARDED:
        shard(folder, load_file(folder / "model.safetensors"))
    np.savez_compressed(folder / "recorded.npz", **arrays)
    print(name, sum(f.stat().st_size for f in folder.iterdir()), float(logits.std()), generated)


def shard(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """model.safetensors as two shards and their index."""
    names, index = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), {}
    for i, name in enumerate(names):
        part = dict(list(sorted(weights.items()))[i::2])
        save_file(part, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(part, name)
    content = {"metadata": {}, "weight_map": dict(sorted(index.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "model.safetensors").unlink()


def count(config: dict) -> dict:
    """The config, and the parameters of the model."""
    with torch.device("meta"):
        model = build(config["model_type"], {k: v for k, v in config.items() if k != "model_type"})
    return dict(config=config, parameters=sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    for model_name in MODELS:
        record(model_name)
    counts = {name: count(config) for name, config in PUBLISHED.items()}
    (HERE / "counts.json").write_text(json.dumps(counts, indent=1) + "\n")
    print({name: entry["parameters"] for name, entry in counts.items()})
