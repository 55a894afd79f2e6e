"""Implementations of attention: kernels agree with plain XLA where they can run, and lower for their devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from lapa_jax import errors, generate, sharding, vocab
from lapa_jax.models import attention, attention_cudnn, attention_plain, attention_splash, llama, vlm
from lapa_jax.models.sight import Causal
from lapa_jax.models.token_stream import Tokens

SPLASH = attention.IMPLEMENTATIONS["splash"]
INTERPRETED = SPLASH._replace(attend=functools.partial(attention_splash.attend, interpret=True))


def qkv(length, heads=4, kv_heads=2, dim=8, rows=2, dtype=np.float32):
    random = np.random.default_rng(length)
    shapes = [(rows, length, count, dim) for count in (heads, kv_heads, kv_heads)]
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


def rows_of(length, *runs):
    """int[B, length] from, for each row, (segment, until) pairs; padding after the last."""
    out = np.zeros((len(runs), length), np.int32)
    for row, pairs in zip(out, runs, strict=True):
        start = 0
        for segment, until in pairs:
            row[start:until], start = segment, until
    return out


def padded(length):
    return rows_of(length, [(1, length)], [(1, length // 3)])


def packed(length):
    return rows_of(length, [(1, length // 2), (2, length)], [(0, 3), (4, length // 2), (5, length - 2)])


def outputs_and_gradients(implementation, arrays, segments, scale=None):
    """What real tokens get, and the gradients of a function of that."""
    real = jnp.asarray(segments > 0)[..., None, None]

    def f(arrays):
        y = implementation.attend(*arrays, implementation.prepare(Causal(jnp.asarray(segments))), scale)
        y = jnp.where(real, y, 0.0).astype(jnp.float32)
        return jnp.sum(jnp.sin(3.0 * y)), y

    (_, y), grads = jax.jit(jax.value_and_grad(f, has_aux=True))(arrays)
    return [y, *grads]


def assert_close(found, expected, tolerance=1e-5):
    """Up to rounding, which the largest value of each array is the measure of."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(
    "kv_heads, dtype, tolerance", [(4, "float32", 1e-5), (1, "float32", 1e-5), (2, "bfloat16", 0.02)]
)
def test_plain_attention_is_that_of_jax(kv_heads, dtype, tolerance):
    """Values and gradients, over a cache that is longer than the queries; what sees nothing gets zeros."""
    q, k, v = qkv(24, kv_heads=kv_heads, dtype=dtype)
    mask = np.random.default_rng(0).random((2, 1, 9, 24)) < 0.4
    mask[1, 0, 3] = False
    sees = mask.any(-1)[:, 0, :, None, None]
    theirs = functools.partial(jax.nn.dot_product_attention, scale=0.3, implementation="xla")

    def both(attend):
        def f(arrays):
            y = attend(*arrays).astype(jnp.float32)
            return jnp.sum(jnp.sin(3.0 * y) * sees), y * sees

        (_, y), grads = jax.jit(jax.value_and_grad(f, has_aux=True))((q[:, :9], k, v))
        return [y, *grads]

    ours = both(lambda *arrays: attention_plain.attend(*arrays, jnp.asarray(mask), 0.3))
    assert [one.dtype for one in ours[1:]] == [dtype] * 3
    assert_close(ours, both(lambda *arrays: theirs(*arrays, mask=jnp.asarray(mask))), tolerance)
    assert not np.any(attention_plain.attend(q[:, :9], k, v, jnp.asarray(mask))[1, 3])


def test_plain_attention_keeps_nothing_of_all_pairs_for_the_backward_pass():
    arrays = qkv(64)
    mask = Causal(jnp.ones((2, 64), jnp.int32)).mask
    attend = functools.partial(attention_plain.attend, mask=mask)
    _, backward = jax.eval_shape(lambda arrays: jax.vjp(attend, *arrays), arrays)
    assert all(leaf.size <= arrays[0].size for leaf in jax.tree.leaves(backward) if leaf.dtype == jnp.float32)


@pytest.mark.parametrize("segments", [padded, packed], ids=["padded", "packed"])
@pytest.mark.parametrize("length, scale", [(20, None), (384, 0.2)])
def test_splash_is_xla(segments, length, scale):
    arrays, segments = qkv(length), segments(length)
    expected = outputs_and_gradients(attention.IMPLEMENTATIONS["xla"], arrays, segments, scale)
    assert_close(outputs_and_gradients(INTERPRETED, arrays, segments, scale), expected)


@pytest.mark.parametrize("kv_heads, rows", [(2, 4), (1, 4), (2, 3)])
def test_splash_on_a_mesh_is_xla(kv_heads, rows):
    arrays = qkv(20, kv_heads=kv_heads, rows=rows)
    segments = np.concatenate([packed(20), padded(20)])[:rows]
    expected = outputs_and_gradients(attention.IMPLEMENTATIONS["xla"], arrays, segments)
    with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
        assert_close(outputs_and_gradients(INTERPRETED, arrays, segments), expected)


TRUNK = dict(width=32, depth=2, num_heads=4, mlp_dim=48, num_kv_heads=2)


def text_model(dtype="float32", **options):
    return vlm.LatentActionVLM(
        vocabs=dict(text=24), heads=("text",), trunk=TRUNK | options, dtype=jnp.dtype(dtype)
    )


def a_batch(length=12):
    ids = np.random.default_rng(0).integers(0, 24, (2, length))
    return Tokens(jnp.asarray(ids), jnp.full(ids.shape, vocab.TEXT), jnp.asarray(packed(length)))


@pytest.fixture(scope="module")
def params():
    return weights()


def weights():
    params = text_model().init(jax.random.key(0), a_batch(), ("text",), method="logits_of")["params"]
    return jax.tree.map(lambda p: 2.0 * p if p.ndim > 1 else p, params)


def loss_fn(model, tokens, params):
    logits = model.apply({"params": params}, tokens, ("text",), method="logits_of")["text"]
    return jnp.mean(jnp.where(tokens.real, jax.nn.log_softmax(logits)[..., 3], 0.0))


@pytest.mark.parametrize("remat", ["none", "attention"])
def test_a_trunk_through_splash_has_the_loss_and_gradients_of_xla(params, monkeypatch, remat):
    monkeypatch.setitem(attention.IMPLEMENTATIONS, "splash", INTERPRETED)
    expected, found = (
        jax.jit(jax.value_and_grad(functools.partial(loss_fn, model, a_batch())))(params)
        for model in (text_model(), text_model(attention="splash", remat=remat))
    )
    assert_close(found, expected)


def test_generation_reads_the_prompt_through_splash(params, monkeypatch):
    monkeypatch.setitem(attention.IMPLEMENTATIONS, "splash", INTERPRETED)
    prompt = Tokens.of(a_batch().ids, vocab.TEXT, jnp.asarray(padded(12)))
    expected, found = (
        jax.jit(functools.partial(generate.generate, model, name="text", count=4))({"params": params}, prompt)
        for model in (text_model(), text_model(attention="splash"))
    )
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)


def lowered(model, params, platform, mesh=None):
    """The gradient of a loss as a program for devices that are not there."""
    mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        params = jax.device_put(jax.tree.map(np.asarray, params), sharding.tree_shardings(mesh, params))
        run = jax.jit(jax.grad(lambda params, tokens: loss_fn(model, tokens, params)))
        return run.trace(params, a_batch()).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_splash_lowers_for_tpus(params, dtype, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    calls = {"none": 3, "attention": 3, "full": 4}  # forward, backward to queries and to keys; forward once more
    for mesh, remat in ((None, "none"), (None, "full"), (sharding.make_mesh(2, 2, 2), "attention")):
        program = lowered(text_model(dtype, attention="splash", remat=remat), params, "tpu", mesh)
        assert program.count("@tpu_custom_call") == calls[remat], remat
    assert "tpu_custom_call" not in lowered(text_model(dtype), params, "tpu")


@pytest.fixture
def a_cudnn(monkeypatch):
    """cuDNN of a recent version, as far as tracing can tell."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)


def test_cudnn_lowers_for_gpus(params, a_cudnn):
    program = lowered(text_model("bfloat16", attention="cudnn"), params, "cuda")
    called = set(re.findall(r"@__cudnn\$fmha(\w+)", program))
    assert called == {"Softmax", "SoftmaxBackward", "ScaleBiasSoftmax", "ScaleBiasSoftmaxBackward"}
    assert "tensor<2x1x12x12x" in program  # the mask, or the bias that it becomes
    assert "tensor<2x2x1x12x12x" not in program  # once, and not for each layer


@pytest.mark.parametrize(
    "segments, lengths, in_order",
    [
        (rows_of(4, [(1, 3)], [(1, 4)]), [3, 4], True),
        (rows_of(4, [(1, 3)], [(7, 2)]), [3, 2], True),
        (rows_of(4, [(1, 3)], []), [3, 1], True),
        (rows_of(4, [(1, 3)], [(0, 1), (1, 4)]), [3, 3], False),
        (rows_of(4, [(1, 3)], [(1, 2), (2, 4)]), [3, 4], False),
        (rows_of(4, [(1, 3)], [(1, 1), (0, 2), (1, 4)]), [3, 3], False),
    ],
)
def test_cudnn_goes_by_lengths_only_where_they_say_all(segments, lengths, in_order):
    found = attention_cudnn.prepare(Causal(jnp.asarray(segments)))
    assert found[1].tolist() == lengths and found[1].dtype == jnp.int32 and bool(found[2]) == in_order


@pytest.mark.parametrize("segments", [padded, packed], ids=["by_lengths", "by_mask"])
def test_cudnn_is_asked_for_what_xla_computes(segments, monkeypatch):
    """Its own arithmetic wants a GPU; here XLA stands in for it, under the same arguments."""
    original, asked = jax.nn.dot_product_attention, []

    def stand_in(*args, implementation, **kwargs):
        asked.append(implementation)
        return original(*args, implementation="xla", **kwargs)

    arrays, segments = qkv(20, dtype=jnp.bfloat16), segments(20)
    expected = outputs_and_gradients(attention.IMPLEMENTATIONS["xla"], arrays, segments, 0.3)
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    found = outputs_and_gradients(attention.IMPLEMENTATIONS["cudnn"], arrays, segments, 0.3)
    assert set(asked) == {"cudnn"}
    assert_close(found, expected, 0.02)


@pytest.mark.parametrize(
    "arrays, named",
    [
        (qkv(8), "bfloat16 or float16, not float32"),
        (qkv(8, dim=12, dtype=jnp.bfloat16), "multiple of 8 features up to 256, not 12"),
        (qkv(8, dim=264, dtype=jnp.bfloat16), "not 264"),
        (qkv(9, dtype=jnp.bfloat16), "even number of tokens, not 9"),
    ],
)
def test_limits_of_cudnn_are_named(arrays, named, a_cudnn):
    with pytest.raises(errors.UserError, match=named):
        outputs_and_gradients(attention.IMPLEMENTATIONS["cudnn"], arrays, padded(arrays[0].shape[1]))


def test_missing_devices_are_named():
    arrays = qkv(8, dtype=jnp.bfloat16)
    missing = {"cudnn": "cuDNN is not detected. Use .*'xla'", "splash": "a TPU, .* a cpu: use .*'xla'"}
    for name, named in missing.items():
        with pytest.raises(errors.UserError, match=f"attention='{name}'.*{named}"):
            outputs_and_gradients(attention.IMPLEMENTATIONS[name], arrays, padded(8))


@pytest.mark.parametrize(
    "options, named",
    [
        (dict(attention="flash"), "attention='flash'.*xla, cudnn, splash"),
        (dict(attention="splash", local_layers=[True, False], local_window=3), "'splash' has no local_layers"),
    ],
)
def test_attention_that_we_do_not_have_is_named(options, named):
    with pytest.raises(errors.UserError, match=named):
        llama.sizes("debug", **options)
