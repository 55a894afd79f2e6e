"""The convolution of PEG and its gradients, against XLA's grouped convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax.models import depthwise


def grouped(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel[..., None, :],
        window_strides=(1, 1, 1),
        padding=((2, 0), (1, 1), (1, 1)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=x.shape[-1],
    )


@functools.partial(jax.jit, static_argnums=0)
def forward_and_gradients(conv, x, kernel, g):
    out, backward = jax.vjp(conv, x, kernel)
    return out, *backward(g)


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_values_and_gradients(num_frames):
    random = np.random.default_rng(num_frames)
    x, g = random.normal(size=(2, 2, num_frames, 3, 4, 5)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 3, 5)).astype(np.float32)
    ours = forward_and_gradients(depthwise.causal_depthwise_conv, x, kernel, g)
    for one, other in zip(ours, forward_and_gradients(grouped, x, kernel, g), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_gradients_keep_the_dtype():
    x, kernel = jnp.ones((1, 2, 3, 3, 4), jnp.bfloat16), jnp.ones((3, 3, 3, 4), jnp.bfloat16)
    grads = jax.grad(lambda *args: depthwise.causal_depthwise_conv(*args).astype(jnp.float32).sum(), (0, 1))
    assert [grad.dtype for grad in grads(x, kernel)] == [jnp.bfloat16, jnp.bfloat16]
