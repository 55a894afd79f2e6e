"""What Hugging Face calls things in its image encoders: config.json -> spec, names of tensors -> ours.

Configs leave out what equals the default of their class, so the defaults are part of the table.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lapa_jax import errors

IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
OPENAI = dict(mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711])
HALF = dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])

_BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_channels=3, image_size=224)
_DINO2 = dict(_BASE, mlp_ratio=4.0, hidden_act="gelu", layer_norm_eps=1e-6, qkv_bias=True, use_swiglu_ffn=False)
_MLP = dict(_BASE, intermediate_size=3072, patch_size=16, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh")

DEFAULTS: dict[str, dict[str, Any]] = {
    "dinov2": _DINO2 | dict(patch_size=14),
    "dinov2_with_registers": _DINO2 | dict(patch_size=16, num_register_tokens=4),
    "dinov3_vit": _BASE
    | dict(hidden_size=384, intermediate_size=1536, num_attention_heads=6, patch_size=16, hidden_act="gelu")
    | dict(layer_norm_eps=1e-5, rope_theta=100.0, use_gated_mlp=False, num_register_tokens=0)
    | dict(query_bias=True, key_bias=False, value_bias=True, proj_bias=True, mlp_bias=True),
    "siglip_vision_model": _MLP,
    "siglip2_vision_model": _MLP | dict(num_patches=256),
    "clip_vision_model": _MLP | dict(patch_size=32, layer_norm_eps=1e-5, hidden_act="quick_gelu"),
}
"""model_type -> the keys of its config that we read, with their defaults (transformers 5)."""

FIXED: dict[str, dict[str, Any]] = {
    "dinov2": dict(positions="bicubic", layer_scale=True, class_token=True, **IMAGENET),
    "dinov2_with_registers": dict(positions="bicubic_antialias", layer_scale=True, class_token=True, **IMAGENET),
    "dinov3_vit": dict(positions="rope", layer_scale=True, class_token=True, **IMAGENET),
    "siglip_vision_model": dict(positions="bicubic", **HALF),
    "siglip2_vision_model": dict(positions="bilinear_antialias", **HALF),
    "clip_vision_model": dict(
        positions="bicubic", class_token=True, norm_in=True, norm_out=False, no_bias=["patch_embed"], **OPENAI
    ),
}
"""model_type -> what its config does not say; colours are those of its processor, where no file says otherwise."""

PAIRS = {"siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model", "clip": "clip_vision_model"}
"""model_type of an image and a text encoder in one checkpoint -> that of its `vision_config`."""

ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu"}

BIASES = {
    "qkv_bias": ["wq", "wk", "wv"],
    "query_bias": ["wq"],
    "key_bias": ["wk"],
    "value_bias": ["wv"],
    "proj_bias": ["wo"],
    "mlp_bias": ["up", "up_gate", "down"],
}

UNUSED = re.compile(
    r"(text_model|head|classifier|visual_projection|text_projection)\."
    r"|embeddings\.(mask_token|position_ids)$|.*\.inv_freq$|logit_(scale|bias)$"
)
"""Names of tensors that patch features do without: text encoder, heads, constants, and what hides patches."""

PREFIX = re.compile(r"(dinov2|dinov2_with_registers|vision_model)\.")
"""In front of all names of the encoder, where the checkpoint holds more than that."""

MODULES = {
    "embeddings.patch_embeddings.projection": "patch_embed",
    "embeddings.patch_embeddings": "patch_embed",
    "embeddings.patch_embedding": "patch_embed",
    "pre_layrnorm": "norm_in",
    "layernorm": "norm_out",
    "norm": "norm_out",
    "post_layernorm": "norm_out",
}

LAYER = {
    "norm1": "attention_norm",
    "layer_norm1": "attention_norm",
    "norm2": "feed_forward_norm",
    "layer_norm2": "feed_forward_norm",
    "attention.attention.query": "attention/wq",
    "attention.attention.key": "attention/wk",
    "attention.attention.value": "attention/wv",
    "attention.output.dense": "attention/wo",
    "attention.q_proj": "attention/wq",
    "attention.k_proj": "attention/wk",
    "attention.v_proj": "attention/wv",
    "attention.o_proj": "attention/wo",
    "self_attn.q_proj": "attention/wq",
    "self_attn.k_proj": "attention/wk",
    "self_attn.v_proj": "attention/wv",
    "self_attn.out_proj": "attention/wo",
    "mlp.fc1": "feed_forward/up",
    "mlp.fc2": "feed_forward/down",
    "mlp.up_proj": "feed_forward/up",
    "mlp.gate_proj": "feed_forward/up_gate",
    "mlp.down_proj": "feed_forward/down",
    "mlp.weights_out": "feed_forward/down",
}

PARAMETERS = {
    "embeddings.position_embeddings": ("place_embedding", None),
    "embeddings.position_embedding.weight": ("place_embedding", None),
    "embeddings.cls_token": ("embed_prefix/embedding", 0),
    "embeddings.class_embedding": ("embed_prefix/embedding", 0),
    "embeddings.register_tokens": ("embed_prefix/embedding", 1),
}
"""Name -> our path, and which part of it."""

HALVES = {"mlp.weights_in": ("feed_forward/up_gate", "feed_forward/up")}
"""Two layers of ours in one tensor, one above the other."""

SCALES = {"layer_scale1.lambda1": "attention_scale", "layer_scale2.lambda1": "feed_forward_scale"}


def spec_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a `VisionTower` from the contents of a config.json.

    Raises:
        UserError: the model is none of `DEFAULTS` or `PAIRS`, or something about it is not implemented.
    """
    kind = str(config.get("model_type"))
    if kind in PAIRS:
        kind, config = PAIRS[kind], config.get("vision_config", {})
    if kind not in DEFAULTS or not isinstance(config, Mapping):
        known = ", ".join([*DEFAULTS, *PAIRS])
        raise errors.UserError(f"no vision tower for model_type {kind!r} of config.json; known are: {known}")
    c = _with_defaults(config, DEFAULTS[kind])
    if "num_patches" in c:
        c["image_size"] = _square(c, "patch_size") * int(c["num_patches"] ** 0.5)
    for key, known in dict(hidden_act=ACTIVATIONS, num_channels=(3,)).items():
        if c[key] not in known:
            wanted = ", ".join(map(str, known))
            raise errors.UserError(f"config.json has {key}={c[key]!r}, the vision tower can: {wanted}")
    spec = dict(
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        num_heads=c["num_attention_heads"],
        patch_size=_square(c, "patch_size"),
        image_size=_square(c, "image_size"),
        activation=ACTIVATIONS[c["hidden_act"]],
        mlp_dim=c["intermediate_size"] if "intermediate_size" in c else int(c["hidden_size"] * c["mlp_ratio"]),
        gated=bool(c.get("use_gated_mlp") or c.get("use_swiglu_ffn")),
        num_registers=c.get("num_register_tokens", 0),
        no_bias=[name for key, names in BIASES.items() if not c.get(key, True) for name in names],
        norm_eps=c["layer_norm_eps"],
        rope_theta=c.get("rope_theta", 100.0),
    )
    if c.get("use_swiglu_ffn"):  # two thirds of the width, up to a multiple of 8; always SiLU
        spec |= dict(mlp_dim=(int(spec["mlp_dim"] * 2 / 3) + 7) // 8 * 8, activation="silu")
    return spec | FIXED[kind]


def _with_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that we read, each of the kind of its default; numbers above 0."""
    merged = {key: config.get(key, default) for key, default in defaults.items()}
    for key in defaults.keys() - {"image_size", "patch_size"}:
        value, default = merged[key], defaults[key]
        kind = (float, int) if isinstance(default, float) else type(default)
        sensible = isinstance(value, kind) and isinstance(value, bool) == isinstance(default, bool)
        if sensible and isinstance(value, int | float) and not isinstance(value, bool):
            sensible = value > 0 or (key == "num_register_tokens" and value == 0)
        if not sensible:
            raise errors.UserError(
                f"config.json has {key}={value!r}, which makes no sense where {default!r} is usual"
            )
    return merged


def _square(config: Mapping[str, Any], key: str) -> int:
    sides = config[key] if isinstance(config[key], list) else [config[key]]
    if not sides or any(type(side) is not int or side < 1 or side != sides[0] for side in sides):
        raise errors.UserError(f"config.json has {key}={config[key]!r}, the vision tower wants a square in pixels")
    return sides[0]


def unused(key: str, spec: Mapping[str, Any]) -> bool:
    """Whether the tower does without this tensor."""
    name = _bare(key)
    # CLIP has a last norm, but shows it the class token only.
    last_norm = MODULES.get(name.rpartition(".")[0]) == "norm_out"
    return bool(UNUSED.match(name)) or (last_norm and not spec.get("norm_out", True))


def places(key: str) -> Iterator[tuple[str, int | None, int | None]]:
    """Where a tensor goes: (our path, its part of that parameter, half of the tensor). Empty: nowhere.

    Parts are layers for paths in `layers/`, and the order in which prefix tokens are put together.
    """
    name = _bare(key)
    if name in PARAMETERS:
        yield (*PARAMETERS[name], None)
        return
    module, _, leaf = name.rpartition(".")
    if module in MODULES:
        yield _leaf(MODULES[module], leaf), None, None
        return
    layer = re.fullmatch(r"(?:encoder\.layers?|model\.layer|layer)\.(\d+)\.(.+)", name)
    if not layer:
        return
    index, name = int(layer[1]), layer[2]
    module = name.rpartition(".")[0]
    if name in SCALES:
        yield f"layers/{SCALES[name]}", index, None
    elif module in HALVES:
        for half, path in enumerate(HALVES[module]):
            yield _leaf(f"layers/{path}", leaf), index, half
    elif module in LAYER:
        yield _leaf(f"layers/{LAYER[module]}", leaf), index, None


def _bare(key: str) -> str:
    return key[found.end() :] if (found := PREFIX.match(key)) else key


def _leaf(path: str, leaf: str) -> str:
    names = {"weight": "scale" if "norm" in path else "kernel", "bias": "bias"}
    return f"{path}/{names.get(leaf, leaf)}"
