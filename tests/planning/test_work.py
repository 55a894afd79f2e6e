"""FLOPs of traced functions: held to counts made by hand and to what a compiler counts."""

import jax
import jax.numpy as jnp
import pytest

from lapa_jax import errors
from lapa_jax.models import attention_plain, llama
from lapa_jax.models.sight import Causal
from lapa_jax.planning import work

MATRIX = jax.ShapeDtypeStruct((8, 16), jnp.float32)
OTHER = jax.ShapeDtypeStruct((16, 4), jnp.float32)


def test_a_product_and_its_two_gradients():
    one = 2 * 8 * 16 * 4
    assert work.of(jnp.dot, MATRIX, OTHER).by_dtype == {"float32": one}
    assert work.of(jax.grad(lambda a, b: jnp.sin(a @ b).sum(), (0, 1)), MATRIX, OTHER).total == 3 * one
    assert work.of(jnp.dot, MATRIX, OTHER).traffic == 4 * (8 * 16 + 16 * 4 + 8 * 4)


def test_kinds_are_told_apart():
    half = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in (MATRIX, OTHER)]
    assert set(work.of(jnp.dot, *half).by_dtype) == {"bfloat16"}
    assert set(work.of(lambda a, b: jnp.dot(a, b, precision="highest"), MATRIX, OTHER).by_dtype) == {"highest"}
    assert set(work.of(jnp.dot, MATRIX, half[1]).by_dtype) == {"float32"}


def test_a_scan_counts_as_often_as_it_runs_and_of_branches_the_dearest():
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)

    def scanned(x):
        return jax.lax.scan(lambda c, _: (c @ c, None), x, length=7)[0]

    def chosen(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert work.of(scanned, square).total == 7 * 2 * 4**3
    assert work.of(chosen, square).total == 2 * 2 * 4**3


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_convolutions_count_as_their_products(stride):
    x, kernel = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float32), jax.ShapeDtypeStruct((4, 4, 8, 12), jnp.float32)

    def loss(x, kernel):
        spec = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=spec)
        return jnp.square(y).sum()

    once = 2 * 2 * (16 // stride) ** 2 * 12 * 4 * 4 * 8
    assert work.of(loss, x, kernel).total == once
    assert work.of(jax.grad(loss, (0, 1)), x, kernel).total == pytest.approx(3 * once)


def test_half_of_the_pairs_are_causal_and_what_is_computed_again_is_not_needed():
    q = jax.ShapeDtypeStruct((2, 8, 4, 16), jnp.bfloat16)
    mask = jax.ShapeDtypeStruct((2, 1, 8, 8), jnp.bool_)

    def loss(q, k, v, mask):
        return attention_plain.attend(q, k, v, mask).astype(jnp.float32).sum()

    one = 2 * 2 * 4 * 8 * 8 * 16  # a product of all pairs: two of them forward, twice that backward, one again
    found = work.of(jax.grad(loss, (0, 1, 2)), q, q, q, mask)
    assert (found.total, found.needed, found.causal) == (7 * one, 6 * one, 3 * one)


def trunk(remat="none", **options):
    model = llama.Trunk(**llama.sizes("debug"), remat=remat, **options)
    x, positions = jnp.zeros((2, 8, model.width)), jnp.zeros((2, 8), jnp.int32)
    seen = Causal(jnp.ones((2, 8), jnp.int32))
    params = jax.eval_shape(lambda key: model.init(key, x, positions, seen), jax.random.key(0))
    return lambda p: model.apply(p, x, positions, seen)[0].sum(), params


def test_a_trunk_takes_six_flops_a_parameter_and_token_and_its_attention():
    loss, params = trunk()
    sizes = llama.SIZES["debug"]
    weights = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 3)
    pairs = sizes["depth"] * 2 * (2 * 2 * 8 * 8 * sizes["width"])  # two products of all pairs in each layer
    found = work.of(jax.grad(loss), params)
    assert found.needed == pytest.approx(6 * weights * 16 + 3 * pairs)
    assert found.causal == pytest.approx(6 * weights * 16 + 1.5 * pairs)
    again, _ = trunk("full")
    assert work.of(jax.grad(again), params).total > 1.2 * found.total


def test_it_counts_as_a_compiler_does():
    """Of unrolled layers; XLA adds what is no product, a few per cent at this width."""
    model = llama.Trunk(**llama.sizes("debug", depth=1), apart=True)
    x, positions = jnp.zeros((2, 64, model.width)), jnp.zeros((2, 64), jnp.int32)
    seen = Causal(jnp.ones((2, 64), jnp.int32))
    params = jax.eval_shape(lambda key: model.init(key, x, positions, seen), jax.random.key(0))

    def loss(params):
        return model.apply(params, x, positions, seen)[0].sum()

    theirs = jax.jit(loss).lower(params).compile().cost_analysis()["flops"]
    assert 1.0 < theirs / work.of(loss, params).total < 1.15


def test_what_cannot_be_counted_is_refused():
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    with pytest.raises(errors.UserError, match="unknown length"):
        work.of(lambda x: jax.lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ c, x), square)
