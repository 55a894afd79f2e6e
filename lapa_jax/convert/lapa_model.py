"""The network of an official language model, its sizes read off the shapes in its file."""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lapa_jax import errors, training, vocab
from lapa_jax.convert import official_lapa
from lapa_jax.models import vlm
from lapa_jax.models.token_stream import Tokens

HEADS = {4096: 32, 5120: 40, 6656: 52, 8192: 64}
"""Width of LLaMA's trunk -> attention heads, which no shape tells."""


def model_of(path: str | os.PathLike, num_heads: int | None = None, **options: Any) -> vlm.LatentActionVLM:
    """The model whose parameters the file holds; nothing is loaded.

    Args:
        num_heads: of the attention; by default those of LLaMA at that width.
        options: of the trunk (theta, rope, rope_length, remat, attention), and dtype, residual_dtype.

    Raises:
        UserError: not such a file, or heads that cannot be told or do not divide the width.
    """
    shapes = {name: leaf.shape for name, leaf in official_lapa.open_params(path).items()}
    _, width = shapes["embed_text/embedding"]
    depth, _, mlp_dim = shapes["body/layers/feed_forward/w1/kernel"]
    num_heads = num_heads or HEADS.get(width)
    if num_heads is None or width % num_heads:
        raise errors.UserError(
            f"{path}: its width is {width}; say how many attention heads, with --num_heads or in stage 2 with "
            "--config.init.num_heads"
        )
    names = [name for name in vocab.NAMES if f"embed_{name}/embedding" in shapes]
    dtypes = {name: options.pop(name) for name in ("dtype", "residual_dtype") if name in options}
    return vlm.LatentActionVLM(
        vocabs={name: shapes[f"embed_{name}/embedding"][0] for name in names},
        heads=tuple(names),
        trunk=dict(width=width, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim) | options,
        **dtypes,
    )


def load(path: str | os.PathLike, model: vlm.LatentActionVLM, mesh: Mesh, dtype: Any = jnp.float32) -> Any:
    """The parameters, part by part onto the mesh, as `dtype`.

    Raises:
        UserError: the file is damaged or of another model.
    """
    cast = functools.partial(with_dtype, dtype=jnp.dtype(dtype))
    return official_lapa.read(path, jax.tree.map(cast, abstract_params(model, mesh)))


def abstract_params(model: vlm.LatentActionVLM, mesh: Mesh) -> Any:
    """Tree of jax.ShapeDtypeStruct with their shardings on the mesh; text must be one of the vocabularies."""
    token = Tokens.of(jnp.ones((1, 2), jnp.int32), vocab.TEXT)
    init = functools.partial(model.init, tokens=token, names=model.heads, method="logits_of")
    return training.abstract_state(training.make_init(init), mesh).params


def with_dtype(leaf: jax.ShapeDtypeStruct, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    """The same leaf, in its place, of another kind of number."""
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
