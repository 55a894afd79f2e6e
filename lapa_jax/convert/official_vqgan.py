"""The official image tokenizer (file `vqgan` of LWM and LAPA) as a model of ours, and back."""

import os
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import errors
from lapa_jax.convert import array_pickle, states, vqgan_names
from lapa_jax.models import vqgan
from lapa_jax.models.quantizers import whiten

NORM_GROUPS = 32
"""Of all group norms in the official code; shapes do not tell."""
STRANGER = "not an official image tokenizer"

Leaves = dict[str, np.ndarray]
"""Arrays by '/'-joined path."""


def read(path: str | os.PathLike) -> tuple[dict[str, Any], Any]:
    """A file of the official tokenizer: keyword arguments of its `VQGAN`, and its parameters.

    Raises:
        UserError: not such a file; names the leaf that is missing, unknown, of another shape or not finite.
    """
    tree = array_pickle.read(path)
    tree = tree["params"] if set(tree) == {"params"} and isinstance(tree["params"], dict) else tree
    leaves = flax.traverse_util.flatten_dict(tree, sep="/")
    try:
        model = model_of(leaves)
        check(leaves, expected(model))
        return model, tree_of(leaves)
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from None


def tree_of(leaves: Mapping[str, np.ndarray]) -> Any:
    """The parameters of a `VQGAN` of official leaves."""
    return flax.traverse_util.unflatten_dict(vqgan_names.from_official(leaves), sep="/")


def model_of(leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Keyword arguments of the `VQGAN` that official leaves belong to, from their shapes.

    Raises:
        UserError: a leaf that tells a size is missing.
    """
    width = _shape(leaves, "encoder/Conv_0/kernel", 4)[3]
    num_codes, code_dim = _shape(leaves, vqgan_names.CODEBOOK, 2)
    level = "encoder/DownsamplingBlock_{}/ResnetBlock_{}/Conv_0/kernel"
    depth = _count(leaves, "encoder/DownsamplingBlock_")
    channels = [_shape(leaves, level.format(i, 0), 4)[3] for i in range(depth)]
    return dict(
        width=width,
        multipliers=tuple(count // width for count in channels),
        num_blocks=_count(leaves, "encoder/DownsamplingBlock_0/ResnetBlock_"),
        z_channels=_shape(leaves, "encoder/Conv_1/kernel", 4)[3],
        norm_groups=NORM_GROUPS,
        num_codes=num_codes,
        code_dim=code_dim,
        quantizer="vq",
        quantizers={"vq": {"whiten": False}},
    )


def _shape(leaves: Mapping[str, np.ndarray], path: str, ndim: int) -> tuple[int, ...]:
    return states.shape_of(leaves, path, ndim, STRANGER, f"there are {len(leaves)} leaves")


def _count(leaves: Mapping[str, Any], start: str) -> int:
    return len({path.removeprefix(start).split("/")[0] for path in leaves if path.startswith(start)})


def expected(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Official paths, sorted, and shapes of the model with these keyword arguments; nothing is computed.

    Raises:
        UserError: there is no model of these sizes.
    """
    module = vqgan.from_config(model)
    params = jax.eval_shape(vqgan.init_fn(module, module.factor), jax.random.key(0))["params"]
    leaves = vqgan_names.to_official(flax.traverse_util.flatten_dict(params, sep="/"))
    return {path: leaf.shape for path, leaf in leaves.items()}


def check(leaves: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare leaves with what the model wants, and look for values that are no numbers.

    Raises:
        UserError: they differ; names the first leaf with both sides.
    """
    model = "the tokenizer of its other sizes"
    states.check(leaves, shapes, {**shapes, **leaves}, STRANGER, model, "another file")


def export(model: vqgan.VQGAN, params: Mapping[str, Any], variables: Mapping[str, Any]) -> array_pickle.Tree:
    """The official tree of a model of ours. Whitening, which the official code lacks, goes into a convolution.

    Raises:
        UserError: the official code has no such model (names what it differs in).
    """
    if model.norm_groups != NORM_GROUPS:
        raise errors.UserError(
            f"a tokenizer of norm_groups={model.norm_groups} has no official form: that is of {NORM_GROUPS}"
        )
    params = jax.tree.map(np.asarray, dict(params))
    codebook = variables.get("codebook", {}).get("quantize", {}).get("codewords")  # of moving averages
    if codebook is not None:
        params["quantize"] = {"codebook": np.asarray(codebook)}
    if statistics := variables.get("batch_stats", {}).get("quantize"):
        params["conv_to_codes"] = _whitened(params["conv_to_codes"], statistics["centre"])
    leaves = vqgan_names.to_official(flax.traverse_util.flatten_dict(params, sep="/"))
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def _whitened(conv: Mapping[str, np.ndarray], statistics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A 1x1 convolution whose outputs are whitened by running statistics, as one convolution."""
    rows = np.concatenate([conv["kernel"][0, 0], conv["bias"][None] - np.asarray(statistics["mean"])])
    white = np.asarray(whiten.whiten(rows, jnp.zeros(rows.shape[1]), jnp.asarray(statistics["cov"])))
    return {"kernel": white[None, None, :-1], "bias": white[-1]}
