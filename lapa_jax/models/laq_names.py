"""Names and layouts: from the state dict of the official LAQ (PyTorch) to our parameter tree."""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from lapa_jax import errors

CODEBOOK = "vq.codebooks"

TRANSFORMERS = {
    "enc_spatial_transformer": "encoder_spatial",
    "enc_temporal_transformer": "encoder_temporal",
    "dec_spatial_transformer": "decoder_spatial",
}

LAYER = {
    "0.dsconv": "peg",
    "1": "attention",
    "1.norm": "attention/norm",
    "1.context_norm": "attention/context_norm",
    "1.to_q": "attention/to_q",
    "1.to_kv": "attention/to_kv",
    "1.to_out": "attention/to_out",
    "2": "cross_attention",
    "2.norm": "cross_attention/norm",
    "2.context_norm": "cross_attention/context_norm",
    "2.to_q": "cross_attention/to_q",
    "2.to_kv": "cross_attention/to_kv",
    "2.to_out": "cross_attention/to_out",
    "3.0": "feed_forward/norm",
    "3.1": "feed_forward/up",
    "3.4": "feed_forward/down",
}

MODULES = {
    "spatial_rel_pos_bias.net.0.0": "position_bias/hidden_0",
    "spatial_rel_pos_bias.net.1.0": "position_bias/hidden_1",
    "spatial_rel_pos_bias.net.2": "position_bias/out",
    "to_patch_emb_first_frame.1": "patch_embed/norm_in",
    "to_patch_emb_first_frame.2": "patch_embed/project",
    "to_patch_emb_first_frame.3": "patch_embed/norm_out",
    "vq.project_in": "code_encoder/project_in",
    "vq.cnn_encoder.0": "code_encoder/conv_in",
    "vq.cnn_encoder.2": "code_encoder/conv_out",
    "vq.project_out": "project_out",
    "to_pixels_first_frame.0": "to_pixels",
} | {f"{theirs}.norm_out": f"{ours}/norm_out" for theirs, ours in TRANSFORMERS.items()}

LEAVES = {
    "gamma": "scale",
    "bias": "bias",
    "q_scale": "q_norm/scale",
    "k_scale": "k_norm/scale",
    "null_kv": "null_kv",
}


def from_official(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], np.ndarray]:
    """The parameters of a `PatchTransformerBackbone(legacy=True)` and the codebook float[K, D].

    Keys may carry the `module.` prefix of a model saved under data parallelism.

    Raises:
        UserError: a key is unknown, the codebook is absent, or a bias that is always zero is not.
    """
    params, codebook = {}, None
    for key, value in state.items():
        key, value = key.removeprefix("module."), np.asarray(value)
        if key == CODEBOOK:
            codebook = value
        elif key.endswith(".beta"):
            if np.any(value):
                raise errors.UserError(f"{key} is not zero: not a checkpoint of the official LAQ")
        elif value.size:
            params[rename(key, value.ndim)] = relayout(key, value)
    if codebook is None:
        raise errors.UserError(f"no {CODEBOOK}: not a checkpoint of the official LAQ")
    return flax.traverse_util.unflatten_dict(params, sep="/"), codebook


def rename(key: str, ndim: int) -> str:
    """Our '/'-joined path for the official key of an array with `ndim` axes.

    Raises:
        UserError: the key is unknown.
    """
    module, _, leaf = key.rpartition(".")
    leaf = ("scale" if ndim == 1 else "kernel") if leaf == "weight" else LEAVES.get(leaf)
    layer = re.fullmatch(r"(\w+)\.layers\.(\d+)\.(.+)", module)
    if layer and layer[1] in TRANSFORMERS and layer[3] in LAYER and leaf:
        return f"{TRANSFORMERS[layer[1]]}/layers_{layer[2]}/{LAYER[layer[3]]}/{leaf}"
    if module in MODULES and leaf:
        return f"{MODULES[module]}/{leaf}"
    raise errors.UserError(f"unknown key {key}: not a checkpoint of the official LAQ")


def relayout(key: str, value: np.ndarray) -> np.ndarray:
    """`value` with its axes in our order."""
    if key.endswith(".null_kv"):  # (N, (count key|value), H) -> [key|value, count, N, H]
        heads, _, head_dim = value.shape
        return value.reshape(heads, -1, 2, head_dim).transpose(2, 1, 0, 3)
    if value.ndim == 5:  # depthwise (D, 1, T, H, W) -> [T, H, W, D]
        return value[:, 0].transpose(1, 2, 3, 0)
    if value.ndim == 4:  # (out, in, H, W) -> [H, W, in, out]
        return value.transpose(2, 3, 1, 0)
    return value.T
