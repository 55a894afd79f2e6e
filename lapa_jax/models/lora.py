"""Linear layers that learn by a product of two thin matrices beside a kernel that stays (LoRA, Hu et al. 2022)."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from lapa_jax import errors
from lapa_jax.models import linear

NAMES = ("lora_a", "lora_b")
LAYERS = tuple(f"attention/{name}" for name in ("wq", "wk", "wv", "wo")) + tuple(
    f"feed_forward/{name}" for name in ("w1", "w2", "w3")
)
"""The layers of a trunk that may have one."""


class LowRankDense(nn.Module):
    """y = x W + (alpha / rank) (x A) B, with A at random and B zero at the start.

    Parameters: `kernel` and `bias` as of `nn.Dense`, lora_a [in, rank], lora_b [rank, out].
    """

    features: int
    rank: int
    alpha: float
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, init = x.shape[-1], nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (size, self.features))
        a = self.param("lora_a", init, (size, self.rank))
        b = self.param("lora_b", nn.initializers.zeros, (self.rank, self.features))
        leading = x.shape[:-1]
        x, kernel, a, b = (one.astype(self.dtype) for one in (linear.rows(x), kernel, a, b))
        y = x @ kernel + (x @ a) @ b * jnp.asarray(self.alpha / self.rank, self.dtype)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y.reshape(*leading, self.features)


def chosen(spec: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The names among LAYERS that a `lora` of rank, alpha and layers (a regular expression) is for.

    Raises:
        UserError: it is for none, or makes no sense.
    """
    if not spec or not spec["rank"]:
        return ()
    if spec["rank"] < 0 or spec["alpha"] <= 0:
        raise errors.UserError(f"model.lora has rank={spec['rank']}, alpha={spec['alpha']}: both are above 0")
    names = tuple(name for name in LAYERS if re.search(spec["layers"], name))
    if not names:
        raise errors.UserError(f"model.lora.layers={spec['layers']!r} matches none of {', '.join(LAYERS)}")
    return names


def merged(params: Any, alpha: float) -> Any:
    """Parameters of the same network without thin matrices: each is added to its kernel, in float32.

    Args:
        params: nested dict; layers may be stacked along leading axes.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    out = {name: leaf for name, leaf in flat.items() if name.rpartition("/")[2] not in NAMES}
    for name, a in flat.items():
        if name.endswith("/lora_a"):
            layer = name.removesuffix("/lora_a")
            kernel, b = flat[f"{layer}/kernel"], flat[f"{layer}/lora_b"]
            product = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision="highest")
            whole = kernel.astype(jnp.float32) + product * (alpha / a.shape[-1])
            out[f"{layer}/kernel"] = whole.astype(kernel.dtype)
    return flax.traverse_util.unflatten_dict(out, sep="/")
