"""Ring attention (Liu et al. 2023): the tokens of a row over the devices of the mesh axis `sequence`.

Each device keeps its queries. Keys, values and their segments go round the ring, and what each block adds is summed
under a running maximum, in float32; so no device holds all keys, nor a matrix of all pairs. The backward pass goes
round once more and computes the weights again; gradients of keys and values travel with them, and arrive home.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from lapa_jax import errors
from lapa_jax.models import attention_plain as plain
from lapa_jax.sharding import along, splits

AXIS = "sequence"
BLOCK = 512
"""Keys that a device looks at together: of the logits of its queries, so many columns are in memory."""


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, scale: float | None = None
) -> jax.Array:
    """See `attention.Implementation`. On one device, or none in the mesh, it is plain attention block by block.

    Args:
        segments: int[B, T], of both queries and keys; padding (0) sees nothing and gets zeros.

    Raises:
        UserError: `sequence` does not divide T.
    """
    if q.shape[1] % (devices := along(AXIS)):
        raise errors.UserError(
            f"rows of {q.shape[1]} tokens do not divide over mesh.sequence={devices}: "
            "set --config.mesh.sequence to a divisor, or in stage 2 --config.data.row_length to a multiple"
        )
    return _attend(q, k, v, segments, q.shape[-1] ** -0.5 if scale is None else scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, scale: float) -> jax.Array:
    return _forward(q, k, v, segments, scale)[0]


@jax.named_scope(plain.PAIRS)
def _forward(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, scale: float) -> Any:
    run, specs = functools.partial(_look, scale=scale), _specs(q, k)
    out, total = _on_devices(run, specs, "qkks", "qt")(q, k, v, segments)
    out, total = (checkpoint_name(one, "attention_out") for one in (out, total))
    return out, (q, k, v, segments, out, total)


@jax.named_scope(plain.PAIRS)
def _backward(scale: float, kept: Any, grad: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k = kept[:2]
    run = functools.partial(_look_back, scale=scale)
    return *_on_devices(run, _specs(q, k), "qkksqtq", "qkk")(*kept, grad), None


_attend.defvjp(_forward, _backward)


def _specs(q: jax.Array, k: jax.Array) -> dict[str, P] | None:
    """Of queries, keys, segments and totals; None without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    rows, heads = splits(q.shape[0], q.shape[2], k.shape[2])
    tokens = P(rows, AXIS, heads, None)
    return dict(q=tokens, k=tokens, s=P(rows, AXIS), t=P(rows, heads, AXIS, None))


def _on_devices(run: Callable, specs: dict[str, P] | None, given: str, made: str) -> Callable:
    """`run` for each device's part; its arguments and results by their letters in `specs`."""
    if specs is None:
        return functools.partial(run, count=1)
    run = functools.partial(run, count=along(AXIS))
    ins, outs = (tuple(specs[letter] for letter in letters) for letters in (given, made))
    return jax.shard_map(run, in_specs=ins, out_specs=outs, check_vma=False)


def _look(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, *, scale: float, count: int
) -> tuple[jax.Array, jax.Array]:
    """What a device's queries see, and float32[B, K, G * T, 1]: the logarithm of what their weights sum to."""
    rows = plain.by_head(q, k.shape[2])
    column = jnp.zeros((*rows.shape[:3], 1), jnp.float32)
    state = (jnp.zeros(rows.shape, jnp.float32), column + plain.UNSEEN, column)

    def add(state: Any, block: Any, back: Any) -> Any:
        k, v, *_ = block
        seen, highest, total = state
        logits = plain.logits(rows, k, _mask(segments, block, back), scale)
        top = jnp.maximum(highest, jnp.max(logits, axis=-1, keepdims=True))
        weights, fade = jnp.exp(logits - top), jnp.exp(highest - top)
        more = plain.product("bkrs,bskd->bkrd", weights.astype(v.dtype), v)
        total = total * fade + jnp.sum(weights, axis=-1, keepdims=True)
        return (seen * fade + more, top, total), ()

    (seen, highest, total), _ = _round(add, state, (k, v, segments), (), count)
    total = jnp.where(highest > plain.UNSEEN, total, jnp.inf)
    return plain.by_token((seen / total).astype(q.dtype), q.shape), highest + jnp.log(total)


def _look_back(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    out: jax.Array,
    total: jax.Array,
    grad: jax.Array,
    *,
    scale: float,
    count: int,
) -> tuple[jax.Array, ...]:
    """Gradients of a device's queries, keys and values."""
    rows, grads = plain.by_head(q, k.shape[2]), plain.by_head(grad, k.shape[2])
    mean = plain.mean_of(grad, out, k.shape[2])

    def add(of_q: jax.Array, block: Any, back: Any) -> Any:
        k, v, *_ = block
        with jax.named_scope(plain.AGAIN):
            weights = jnp.exp(plain.logits(rows, k, _mask(segments, block, back), scale) - total)
        more, *of_block = plain.gradients(rows, k, v, weights, mean, grads, scale)
        return of_q + more, tuple(of_block)

    luggage = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
    of_q, (of_k, of_v) = _round(add, jnp.zeros(rows.shape, jnp.float32), (k, v, segments), luggage, count)
    return plain.by_token(of_q, q.shape).astype(q.dtype), of_k.astype(k.dtype), of_v.astype(v.dtype)


def _round(add: Callable, state: Any, visitor: Any, luggage: Any, count: int) -> tuple[Any, Any]:
    """`state` and `luggage` when the keys of all devices have been here, and their luggage is home again.

    Args:
        add: (state, a block of keys, how many devices back these are from) -> state and what is to be added to the
            block's luggage.
        visitor: keys, values and segments of this device.
        luggage: of each of the visitor's tokens, what travels with it.
        count: devices in the ring. Blocks of a later one are not looked at.
    """

    def look(state: Any, luggage: Any, visitor: Any, back: Any) -> tuple[Any, Any]:
        state, more = jax.lax.scan(lambda state, block: add(state, block, back), state, _blocks(*visitor))
        return state, jax.tree.map(lambda one, blocks: one + _together(blocks, one.shape[1]), luggage, more)

    def look_if_earlier(state: Any, luggage: Any, visitor: Any, back: Any) -> tuple[Any, Any]:
        if count == 1:
            return look(state, luggage, visitor, back)
        earlier = back <= jax.lax.axis_index(AXIS)
        return jax.lax.cond(earlier, look, lambda *kept: kept[:2], state, luggage, visitor, back)

    def step(carry: Any, back: Any) -> Any:
        state, luggage, visitor = carry
        following = _pass_on(visitor, count)  # under way while this one is looked at
        state, luggage = look_if_earlier(state, luggage, visitor, back)
        return (state, _pass_on(luggage, count), following), None

    if count > 1:
        (state, luggage, visitor), _ = jax.lax.scan(step, (state, luggage, visitor), jnp.arange(count - 1))
    state, luggage = look_if_earlier(state, luggage, visitor, count - 1)
    return state, _pass_on(luggage, count)


def _pass_on(tree: Any, count: int) -> Any:
    to_next = [(i, (i + 1) % count) for i in range(count)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, to_next) if count > 1 else x, tree)


def _blocks(k: jax.Array, v: jax.Array, segments: jax.Array) -> tuple[jax.Array, ...]:
    """Keys, values and segments of a few tokens each, [blocks, B, S, ...], the last filled up with padding; and the
    first token of each, int[blocks]."""
    length = k.shape[1]
    size = min(length, BLOCK)
    count = -(-length // size)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, count * size - length), *[(0, 0)] * (x.ndim - 2)])
        return x.reshape(x.shape[0], count, size, *x.shape[2:]).swapaxes(0, 1)

    return cut(k), cut(v), cut(segments), size * jnp.arange(count)


def _together(blocks: jax.Array, length: int) -> jax.Array:
    """[blocks, B, S, ...] -> [B, length, ...]"""
    x = blocks.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _mask(segments: jax.Array, block: Any, back: Any) -> jax.Array:
    """bool[B, 1, T, S]: which keys of a block, of the device so many before this one, each query may look at."""
    *_, ids, first = block
    length = segments.shape[1]
    same = (segments[:, :, None] == ids[:, None, :]) & (ids > 0)[:, None, :]
    before = first + jnp.arange(ids.shape[1]) <= back * length + jnp.arange(length)[:, None]
    return (same & before)[:, None]
