"""The trunk: LLaMA (Touvron et al. 2023) and, by data, what descends from it; layers under `nn.scan`, with a cache.

Parameter names follow LWM's, with the layer axis first; layers themselves are in `llama_layers.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import errors
from lapa_jax.models import llama_layers, lora, rotary, sight
from lapa_jax.models.attention import DEFAULT, IMPLEMENTATIONS, RING
from lapa_jax.models.llama_layers import ACTIVATIONS, Block, Cache, Form, RMSNorm
from lapa_jax.sharding import along

SIZES: dict[str, dict[str, int]] = {
    "debug": dict(width=64, depth=2, num_heads=2, mlp_dim=128),
    "demo": dict(width=128, depth=2, num_heads=4, mlp_dim=256),
    "200m": dict(width=1024, depth=12, num_heads=16, mlp_dim=2816),
    "1b": dict(width=2048, depth=22, num_heads=32, mlp_dim=5632),
    "3b": dict(width=3200, depth=26, num_heads=32, mlp_dim=8640),
    "7b": dict(width=4096, depth=32, num_heads=32, mlp_dim=11008),
}
"""Trunk sizes by name; "7b" is LLaMA-7B as in LWM-Chat-1M."""

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention_out"),
}
"""What the backward pass may keep of a layer: all of it, nothing, products with weights, what attention gave."""


class Trunk(nn.Module):
    """Features of a sequence, each from those that it may look at. All attributes but `dtype` are JSON values.

    Attributes:
        theta: base of the rotary frequencies.
        rope: one of `rotary.TABLES`; "bfloat16" as the official weights were trained.
        rope_length: positions in that table.
        dtype: of matrix products; what runs along the residuals has the dtype of the input.
        remat: a key of REMAT.
        attention: a key of `attention.IMPLEMENTATIONS`; None: "xla", on every device, as it always works, or "ring"
            where the mesh splits the tokens of a row. With a cache, or local layers, rows are looked at whole.
        num_kv_heads: heads of keys and values, each for an equal share of the queries (Ainslie et al. 2023);
            None: `num_heads`.
        head_dim: None: `width / num_heads`.
        rope_scaling: see `rotary.frequencies`.
        norm_eps: of all norms.
        norm_float32: see `RMSNorm.in_float32`.
        activation: of the feed-forward gate, a key of ACTIVATIONS.
        qkv_bias: queries, keys and values have biases.
        qk_norm: queries and keys are normed head by head before they turn.
        post_norm: what attention and feed-forward give is normed, too, before it is added.
        query_scale: of the products of queries and keys; None: `head_dim ** -0.5`.
        local_layers: for each layer, whether it sees the last `local_window` tokens only, and turns by
            `local_theta` without scaling. Empty: none does.
        embed_scale: what rows of embedding tables are to be multiplied by before they come here (`vlm`).
        lora: `rank`, `alpha` and `layers`, see `lora.chosen`; None, or a rank of 0: there is none.
        apart: each layer has its own parameters and its own cache, see `layers_apart`.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    theta: float = 10_000.0
    rope: str = "exact"
    rope_length: int = 2048
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    attention: str | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    rope_scaling: Mapping[str, Any] | None = None
    norm_eps: float = 1e-6
    norm_float32: bool = False
    activation: str = "silu"
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norm: bool = False
    query_scale: float | None = None
    local_layers: tuple[bool, ...] = ()
    local_window: int | None = None
    local_theta: float = 10_000.0
    embed_scale: float = 1.0
    lora: Mapping[str, Any] | None = None
    apart: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        seen: sight.Causal | jax.Array,
        cache: Cache | None = None,
        slot: Any = 0,
    ) -> tuple[jax.Array, Cache | None]:
        """
        Args:
            x: float[B, T, D].
            positions: int[B, T].
            seen: which of these tokens each may look at, and nothing that was cached before; or a mask over all
                that is cached, bool[B, 1, T, S], which goes by "xla".
            cache: keys and values seen before; those of x are written from `slot` on.
            slot: int[].

        Returns:
            float[B, T, D] and the cache with x in it.

        Raises:
            UserError: an attribute makes no sense.
        """
        check({name: getattr(self, name) for name in _FIELDS})
        block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=False) if REMAT[self.remat] else Block
        near = jnp.asarray(self.local_layers, jnp.int32) if self.local_layers else None
        form = self._form(seen, cache)
        context = self._context(positions, seen, form.attention)
        layers = _one_by_one if self.apart else _scanned
        x, cache = layers(block, form, self.depth, x, cache, near, context, slot)
        return RMSNorm(self.norm_eps, self.dtype, self.norm_float32, name="final_norm")(x), cache

    def _context(self, positions: jax.Array, seen: sight.Causal | jax.Array, attention: str) -> Any:
        """How tokens turn and where they look; where some layers are local, stacked with how they do in those."""
        if isinstance(seen, sight.Causal):
            seen = IMPLEMENTATIONS[attention].prepare(seen)
        _, head_dim = self._heads()
        table = (self.rope, self.rope_length)
        whole = rotary.cos_sin(positions, head_dim, self.theta, *table, self.rope_scaling), seen
        if not self.local_layers:
            return whole
        turn = rotary.cos_sin(positions, head_dim, self.local_theta, *table)
        local = turn, sight.nearest(seen, self.local_window)
        return jax.tree.map(lambda *both: jnp.stack(both), whole, local)

    def _form(self, seen: sight.Causal | jax.Array, cache: Cache | None) -> Form:
        over_cache = not isinstance(seen, sight.Causal)
        names = [field.name for field in dataclasses.fields(Form) if field.name in _FIELDS and field.name != "lora"]
        layers = lora.chosen(self.lora)
        thin = (layers, self.lora["rank"], self.lora["alpha"]) if layers else ((), 0, 0.0)
        form = Form(**{name: getattr(self, name) for name in names}, over_cache=over_cache, lora=thin)
        num_kv_heads, head_dim = self._heads()
        attention = DEFAULT if over_cache else self._attention(cache)
        return dataclasses.replace(form, num_kv_heads=num_kv_heads, head_dim=head_dim, attention=attention)

    def _attention(self, cache: Cache | None) -> str:
        """How tokens look at each other."""
        devices = along("sequence")
        if devices == 1 or self.attention == DEFAULT:
            return self.attention or DEFAULT
        if self.attention not in (None, RING):
            raise errors.UserError(
                f"attention={self.attention!r} does not split rows over mesh.sequence={devices}: use {RING!r}, or "
                "--config.mesh.sequence=1"
            )
        return DEFAULT if self.local_layers or cache is not None or self.is_initializing() else RING

    def _heads(self) -> tuple[int, int]:
        return self.num_kv_heads or self.num_heads, self.head_dim or self.width // self.num_heads

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """Room for that many tokens of each row, in `dtype`."""
        shape = (batch, slots, *self._heads())
        if self.apart:
            return tuple(llama_layers.empty_cache(shape, self.dtype) for _ in range(self.depth))
        return llama_layers.empty_cache((self.depth, *shape), self.dtype)


def _scanned(block: type[Block], form: Form, depth: int, *inputs: Any) -> tuple[jax.Array, Cache | None]:
    """`inputs` are those of a Block, cache and near with an axis of layers before them."""
    layers = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, 0, nn.broadcast, nn.broadcast),
        length=depth,
    )
    return layers(form, name="layers")(*inputs)


def _one_by_one(
    block: type[Block], form: Form, depth: int, x: jax.Array, cache: Any, near: Any, *rest: Any
) -> tuple[jax.Array, Cache | None]:
    caches = []
    for i in range(depth):
        layer = block(form, name=f"layer_{i}")
        x, one = layer(x, cache and cache[i], None if near is None else near[i], *rest)
        caches.append(one)
    return x, cache and tuple(caches)


def layers_apart(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a `Trunk` as those of one with `apart`: a leaf for each layer instead of one for all.

    Generation is faster with them: under a scan XLA copies the layer that is at work out of their stack, at each
    token. In exchange it compiles each layer. Training and checkpoints keep the stacks.
    """
    stacks = params["layers"]
    depth = len(jax.tree.leaves(stacks)[0])
    layers = {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], stacks) for i in range(depth)}
    return {name: leaf for name, leaf in params.items() if name != "layers"} | layers


_FIELDS = tuple(name for name in Trunk.__dataclass_fields__ if name not in ("parent", "name"))


def sizes(size: str | None, **options: Any) -> dict[str, Any]:
    """Keyword arguments of a `Trunk` of SIZES; without a name, the options are all there is.

    Raises:
        UserError: no such size or option, or one that makes no sense; names what there is.
    """
    if size is not None and size not in SIZES:
        raise errors.UserError(f"model.size={size!r}: choose one of {', '.join(SIZES)}")
    spec = {**(SIZES[size] if size is not None else {}), **options}
    check(spec)
    return spec


def check(spec: Mapping[str, Any]) -> None:
    """Compare keyword arguments of a `Trunk` with what it can do.

    Raises:
        UserError: one is missing, unknown or makes no sense.
    """
    if unknown := [name for name in spec if name not in _FIELDS]:
        raise errors.UserError(f"the trunk has no {unknown[0]}; it takes {', '.join(_FIELDS)}")
    if missing := [name for name in _FIELDS[:4] if name not in spec]:
        raise errors.UserError(f"the trunk wants {missing[0]}: name a size, one of {', '.join(SIZES)}, or give it")
    _check_names(spec)
    lora.chosen(spec.get("lora"))
    _check_heads(**{name: spec.get(name) for name in ("width", "num_heads", "num_kv_heads", "head_dim")})
    local, window = spec.get("local_layers") or (), spec.get("local_window")
    if local and spec.get("attention") not in (None, DEFAULT):
        raise errors.UserError(f"attention={spec['attention']!r} has no local_layers: use {DEFAULT!r}")
    if local and (len(local) != spec["depth"] or not (window or 0) > 0):
        raise errors.UserError(
            f"local_layers has {len(local)} layers, with local_window={window}: it takes one for each of the "
            f"{spec['depth']}, and a window of 1 or more"
        )


def _check_names(spec: Mapping[str, Any]) -> None:
    scaling = spec.get("rope_scaling") or {"type": "linear", "factor": 1.0}
    for name, value, known in (
        ("remat", spec.get("remat", "none"), REMAT),
        ("rope", spec.get("rope", "exact"), rotary.TABLES),
        ("attention", spec.get("attention") or DEFAULT, IMPLEMENTATIONS),
        ("activation", spec.get("activation", "silu"), ACTIVATIONS),
        ("rope_scaling.type", scaling.get("type"), rotary.SCALINGS),
    ):
        if value not in known:
            raise errors.UserError(f"model.{name}={value!r}: choose one of {', '.join(known)}")
    if absent := [name for name in rotary.SCALINGS[scaling["type"]] if name not in scaling]:
        raise errors.UserError(f"model.rope_scaling={dict(scaling)} wants {absent[0]}")


def _check_heads(width: int, num_heads: int, num_kv_heads: int | None, head_dim: int | None) -> None:
    if num_heads % (num_kv_heads or num_heads):
        raise errors.UserError(f"num_kv_heads={num_kv_heads} does not divide num_heads={num_heads}")
    if (width % num_heads and head_dim is None) or (head_dim or width // num_heads) % 2:
        raise errors.UserError(
            f"width={width}, num_heads={num_heads} and head_dim={head_dim}: a head takes an even number of features"
        )
