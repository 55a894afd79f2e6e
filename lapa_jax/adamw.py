"""AdamW (Loshchilov & Hutter 2019) over moments that are stored in any format of `moments`."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lapa_jax import moments, rounding, sharding, stacks

SMALL = 4096
"""Parameters with fewer numbers keep float32 moments, as do norms and biases."""


class State(NamedTuple):
    """count int32[], updates so far; the others are trees as the parameters, see `moments.Moments`."""

    count: jax.Array
    mu: Any
    nu: Any
    mu_exponent: Any
    nu_exponent: Any


class Leaf(NamedTuple):
    """A parameter, or its bits if it is bfloat16, and its moments."""

    param: jax.Array
    moments: moments.Moments


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Clips by global norm, then takes a step of AdamW; with float32 moments as `optax.adamw` does.

    An update is added where it is computed, parameter by parameter and large stacks layer by layer, so that neither
    updates nor moments in float32 are ever held for the whole tree.

    Attributes:
        schedule: updates so far -> learning rate.
        weight_decay: of matrices; not of scales and biases, stacked or not.
        stored: format of the moments, a key of `moments.FORMATS`.
    """

    schedule: optax.Schedule
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float
    stored: str

    def init(self, params: Any) -> State:
        """The state before the first step."""
        leaves, tree = jax.tree_util.tree_flatten_with_path(params)
        return _state(jnp.int32(0), tree, [_start(path, param, self.stored) for path, param in leaves])

    def step(self, grads: Any, state: State, params: Any, key: jax.Array) -> tuple[Any, State]:
        """(parameters, state) after an update; `key` is for rounding."""
        named, tree = jax.tree_util.tree_flatten_with_path(params)
        params, matrices = [param for _, param in named], [is_matrix(*one) for one in named]
        words = jax.random.bits(key, (len(params), 3, 2))
        old = map(Leaf, params, map(moments.Moments, *map(tree.flatten_up_to, state[1:])))
        grads, norm = tree.flatten_up_to(grads), global_norm(grads)
        new = [
            self._update(words[i], *one, norm, state.count)
            for i, one in enumerate(zip(matrices, old, grads, strict=True))
        ]
        count = optax.safe_increment(state.count)
        return tree.unflatten([leaf.param for leaf in new]), _state(count, tree, [leaf.moments for leaf in new])

    def _update(
        self, words: jax.Array, matrix: bool, old: Leaf, grad: jax.Array, norm: jax.Array, count: jax.Array
    ) -> Leaf:
        own, rate, n = moments.format_of(old.moments), self.schedule(count), count + 1
        decay = self.weight_decay if matrix else 0.0

        def update(layer: Any, old: Leaf, grad: jax.Array) -> Leaf:
            grad = rounding.read(grad)
            grad = jnp.where(norm < self.clip_norm, grad, grad / norm * self.clip_norm)
            m, v = own.read(old.moments)
            m = (1 - self.b1) * grad + self.b1 * m
            v = (1 - self.b2) * jnp.square(grad) + self.b2 * v
            change = m / (1 - self.b1**n) / (jnp.sqrt(v / (1 - self.b2**n)) + self.eps)
            param = rounding.read(old.param)
            param = param - rate * (change + decay * param if decay else change)
            param = rounding.write(param, old.param.dtype, words[0], layer)
            return Leaf(param, own.write(m, v, words[1:], layer))

        leaf = old._replace(param=rounding.to_bits(old.param))
        leaf = stacks.by_layer(update, leaf, rounding.to_bits(grad))
        return leaf._replace(param=rounding.from_bits(leaf.param))


def is_matrix(path: Any, param: jax.Array) -> bool:
    """Of two or more dimensions, and no scales or biases of a stack of layers."""
    return param.ndim >= 2 and sharding.path_name(path[-1:]) not in ("scale", "bias")


def global_norm(grads: Any) -> jax.Array:
    """Of all leaves together, in float32 whatever they are."""
    return optax.tree.norm(optax.tree.cast(grads, jnp.float32))


def _start(path: Any, param: jax.Array, stored: str) -> moments.Moments:
    small = param.size < SMALL or not is_matrix(path, param)
    zeros = (jnp.zeros(param.shape) for _ in range(2))
    return moments.FORMATS["float32" if small else stored].write(*zeros, jnp.zeros((2, 2), jnp.uint32), 0)


def _state(count: jax.Array, tree: Any, leaves: list[moments.Moments]) -> State:
    return State(count, *(tree.unflatten([leaf[i] for leaf in leaves]) for i in range(4)))
