"""What Hugging Face calls things in its text models: keys of config.json and their defaults, names of tensors.

Configs leave out what equals the default of their class, so the defaults are part of the table.
"""

import re
from typing import Any

_BASE = dict(
    vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=None, head_dim=None, hidden_act="silu", rms_norm_eps=1e-6, tie_word_embeddings=False,
)
_QWEN = _BASE | dict(vocab_size=151_936, intermediate_size=22_016, num_key_value_heads=32)
_GEMMA = dict(hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True, head_dim=256)

DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _BASE,
    "mistral": _BASE | dict(intermediate_size=14_336, num_key_value_heads=8, sliding_window=4096),
    "qwen2": _QWEN,
    "qwen3": _QWEN | dict(head_dim=128),
    "gemma": _BASE | _GEMMA
    | dict(vocab_size=256_000, hidden_size=3072, intermediate_size=24_576, num_hidden_layers=28)
    | dict(num_attention_heads=16, num_key_value_heads=16),
    "gemma3_text": _BASE | _GEMMA
    | dict(vocab_size=262_208, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26)
    | dict(num_attention_heads=8, num_key_value_heads=4, query_pre_attn_scalar=256, sliding_window=4096),
}
"""model_type -> the keys of its config that we read, with their defaults (transformers 5); None: see OPTIONAL."""

OPTIONAL = ("num_key_value_heads", "head_dim", "sliding_window")
"""Keys that may be null: as many as `num_attention_heads`, `hidden_size / num_attention_heads`, no window."""

FIXED: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": dict(qkv_bias=True),
    "qwen3": dict(qk_norm=True),
    "gemma": dict(norm_float32=True),
    "gemma3_text": dict(norm_float32=True, qk_norm=True, post_norm=True),
}
"""model_type -> what its config does not say of the trunk."""

GEMMA = ("gemma", "gemma3_text")
"""Norms multiply by 1 + weight there, and embeddings by the root of the width."""

ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}

CAN: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "use_bidirectional_attention": (False,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (),
}
"""Keys of which we have these values only, and null."""

LAYER_TYPES = {"full_attention": False, "sliding_attention": True}
"""Names of kinds of layers, and whether they are local."""

TYPED = ("qwen2", "qwen3", "gemma3_text")
"""Families that read `layer_types`."""

WHOLE = {
    "embed_tokens.weight": "embed_text/embedding",
    "norm.weight": "body/final_norm/scale",
    "lm_head.weight": "head_text/kernel",
}

LAYER = {
    "self_attn.q_proj": "attention/wq",
    "self_attn.k_proj": "attention/wk",
    "self_attn.v_proj": "attention/wv",
    "self_attn.o_proj": "attention/wo",
    "self_attn.q_norm": "attention/q_norm",
    "self_attn.k_norm": "attention/k_norm",
    "mlp.gate_proj": "feed_forward/w1",
    "mlp.up_proj": "feed_forward/w3",
    "mlp.down_proj": "feed_forward/w2",
    "input_layernorm": "attention_norm",
}

NORMS = {
    False: {"post_attention_layernorm": "ffn_norm"},
    True: {
        "post_attention_layernorm": "attention_post_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "ffn_post_norm",
    },
}
"""By `post_norm`: the same name means another place."""

UNUSED = re.compile(r".*\.inv_freq$")
"""Constants that old checkpoints hold."""


def place(key: str, post_norm: bool) -> tuple[str, int | None] | None:
    """Where a tensor goes: our path, and the layer where it is of one. None: nowhere.

    Args:
        key: its name, with or without `model.` in front.
    """
    name = key.removeprefix("model.")
    if name in WHOLE:
        return WHOLE[name], None
    layer = re.fullmatch(r"layers\.(\d{1,4})\.(.+)\.(weight|bias)", name)
    module = (LAYER | NORMS[post_norm]).get(layer[2]) if layer else None
    if module is None:
        return None
    leaf = "bias" if layer[3] == "bias" else "scale" if module.endswith("norm") else "kernel"
    return f"body/layers/{module}/{leaf}", int(layer[1])
