"""Names and layouts of the official LAQ's state dict (PyTorch, LAPA commit 46aca51) and of our parameters.

One table, in the official order, serves both directions.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from lapa_jax import errors

STRANGER = "not a checkpoint of the official LAQ"
CODEBOOK = "vq.codebooks"
"""The one entry that is no part of the backbone."""

PREFIX = "module."
"""What saving under data parallelism puts into names; the official loader removes it wherever it stands."""


def _norm(theirs: str, ours: str) -> dict[str, str | None]:
    """A norm without bias: the official one has a buffer `beta` that stays zero, and we have none."""
    return {f"{theirs}.gamma": f"{ours}/scale", f"{theirs}.beta": None}


def _affine(theirs: str, ours: str) -> dict[str, str | None]:
    return {f"{theirs}.weight": f"{ours}/scale", f"{theirs}.bias": f"{ours}/bias"}


def _linear(theirs: str, ours: str) -> dict[str, str | None]:
    return {f"{theirs}.weight": f"{ours}/kernel", f"{theirs}.bias": f"{ours}/bias"}


def _attention(theirs: str, ours: str) -> dict[str, str | None]:
    return {
        f"{theirs}.null_kv": f"{ours}/null_kv",  # official self-attention has one of no elements
        f"{theirs}.q_scale": f"{ours}/q_norm/scale",
        f"{theirs}.k_scale": f"{ours}/k_norm/scale",
        **_norm(f"{theirs}.norm", f"{ours}/norm"),
        **_norm(f"{theirs}.context_norm", f"{ours}/context_norm"),
        f"{theirs}.to_q.weight": f"{ours}/to_q/kernel",
        f"{theirs}.to_kv.weight": f"{ours}/to_kv/kernel",
        f"{theirs}.to_out.weight": f"{ours}/to_out/kernel",
    }


def _transformer(theirs: str, ours: str, cross: bool = False) -> dict[str, str | None]:
    """`#` stands for the number of a layer."""
    layer, own = f"{theirs}.layers.#", f"{ours}/layers_#"
    return {
        **_linear(f"{layer}.0.dsconv", f"{own}/peg"),
        **_attention(f"{layer}.1", f"{own}/attention"),
        **(_attention(f"{layer}.2", f"{own}/cross_attention") if cross else {}),
        **_affine(f"{layer}.3.0", f"{own}/feed_forward/norm"),
        f"{layer}.3.1.weight": f"{own}/feed_forward/up/kernel",
        f"{layer}.3.4.weight": f"{own}/feed_forward/down/kernel",
        **_norm(f"{theirs}.norm_out", f"{ours}/norm_out"),
    }


TREE = {
    **_linear("spatial_rel_pos_bias.net.0.0", "position_bias/hidden_0"),
    **_linear("spatial_rel_pos_bias.net.1.0", "position_bias/hidden_1"),
    **_linear("spatial_rel_pos_bias.net.2", "position_bias/out"),
    **_affine("to_patch_emb_first_frame.1", "patch_embed/norm_in"),
    **_linear("to_patch_emb_first_frame.2", "patch_embed/project"),
    **_affine("to_patch_emb_first_frame.3", "patch_embed/norm_out"),
    **_transformer("enc_spatial_transformer", "encoder_spatial"),
    **_transformer("enc_temporal_transformer", "encoder_temporal"),
    CODEBOOK: CODEBOOK,
    **_linear("vq.project_in", "code_encoder/project_in"),
    **_linear("vq.project_out", "project_out"),
    **_linear("vq.cnn_encoder.0", "code_encoder/conv_in"),
    **_linear("vq.cnn_encoder.2", "code_encoder/conv_out"),
    **_transformer("dec_spatial_transformer", "decoder_spatial", cross=True),
    **_linear("to_pixels_first_frame.0", "to_pixels"),
}
"""Official key -> our '/'-joined path; None for a buffer of zeros."""

ABSENT = ("vq.cnn_encoder.2.weight", "vq.cnn_encoder.2.bias")
"""Official keys that models of 64 and 256 codes a transition do not have."""


def from_official(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], np.ndarray]:
    """The parameters of a `PatchTransformerBackbone(legacy=True)` and the codebook float[K, D].

    Views where numpy can make them. Keys may carry `module.`; what is missing is not missed here.

    Raises:
        UserError: a key is unknown, the codebook is absent, or a buffer that is always zero is not.
    """
    params = {}
    for key, value in plain(state).items():
        path, value = rename(key), np.asarray(value)
        if path is None and np.any(value):
            raise errors.UserError(f"{key} is not zero: {STRANGER}")
        if path and value.size:
            params[path] = relayout(key, value)
    if CODEBOOK not in params:
        raise errors.UserError(f"no {CODEBOOK}: {STRANGER}")
    codebook = params.pop(CODEBOOK)
    return flax.traverse_util.unflatten_dict(params, sep="/"), codebook


def to_official(params: Mapping[str, Any], codebook: np.ndarray) -> dict[str, np.ndarray]:
    """The inverse of `from_official`: the whole official state dict, in its order.

    Buffers of zeros and parameters without elements, which we do not have, are put back.

    Raises:
        UserError: `params` are not those of a `PatchTransformerBackbone(legacy=True)`.
    """
    ours = flax.traverse_util.flatten_dict(dict(params), sep="/") | {CODEBOOK: codebook}
    state: dict[str, np.ndarray] = {}
    for key, path in _keys(tuple(ours)):
        if path is None:
            state[key] = np.zeros_like(state[key.removesuffix("beta") + "gamma"])
        elif path in ours:
            state[key] = official_layout(key, np.asarray(ours.pop(path)))
        elif key.endswith(".1.null_kv") and (name := path.replace("null_kv", "to_q/kernel")) in ours:
            head_dim = ours[path.replace("null_kv", "q_norm/scale")].shape[0]
            state[key] = np.zeros((ours[name].shape[1] // head_dim, 0, head_dim), ours[name].dtype)
        elif key not in ABSENT:
            raise errors.UserError(f"no parameter {path}: the official LAQ has it, and so have ours of legacy=True")
    if ours:
        raise errors.UserError(f"parameter {min(ours)} has no place in the official LAQ")
    return state


def plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same without `module.` in the names.

    Raises:
        UserError: two names become one.
    """
    names = {key: key.replace(PREFIX, "") for key in state}
    if len(set(names.values())) < len(names):
        raise errors.UserError(f"names differ in nothing but {PREFIX!r}: {STRANGER}")
    return {name: state[key] for key, name in names.items()}


def rename(key: str) -> str | None:
    """Our path for an official key; None for a buffer of zeros.

    Raises:
        UserError: the key is unknown.
    """
    number = re.search(r"\.layers\.(\d{1,4})\.", key)
    pattern = key if number is None else key.replace(number[0], ".layers.#.", 1)
    if pattern not in TREE or "#" in key:
        raise errors.UserError(f"unknown key {key}: {STRANGER}")
    path = TREE[pattern]
    return path.replace("#", str(int(number[1]))) if path and number else path


def _keys(ours: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """All official keys of a model with the paths `ours`, in order, each with its path."""
    for stem, group in itertools.groupby(TREE.items(), lambda item: "#" in item[0] and item[0].split("#")[0]):
        entries = list(group)
        first = entries[0][1]
        depth = len({p.split("/")[1] for p in ours if p.startswith(first.split("#")[0])}) if stem else 1
        for i in map(str, range(depth)):
            yield from ((key.replace("#", i), path and path.replace("#", i)) for key, path in entries)


def relayout(key: str, value: np.ndarray) -> np.ndarray:
    """`value` of an official key with its axes in our order."""
    if key == CODEBOOK:
        return value
    if key.endswith(".null_kv"):  # (N, (count key|value), H) -> [key|value, count, N, H]
        heads, _, head_dim = value.shape
        return value.reshape(heads, -1, 2, head_dim).transpose(2, 1, 0, 3)
    if value.ndim == 5:  # depthwise (D, 1, T, H, W) -> [T, H, W, D]
        return value[:, 0].transpose(1, 2, 3, 0)
    if value.ndim == 4:  # (out, in, H, W) -> [H, W, in, out]
        return value.transpose(2, 3, 1, 0)
    return value.T


def official_layout(key: str, value: np.ndarray) -> np.ndarray:
    """The inverse of `relayout`."""
    if key == CODEBOOK:
        return value
    if key.endswith(".null_kv"):
        _, count, heads, head_dim = value.shape
        return value.transpose(2, 1, 0, 3).reshape(heads, 2 * count, head_dim)
    if key.endswith(".dsconv.weight"):
        return value.transpose(3, 0, 1, 2)[:, None]
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T
