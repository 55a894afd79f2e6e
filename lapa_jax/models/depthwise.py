"""The convolution of PEG: depthwise, over three frames and their 3x3 neighbours, with its gradients."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def causal_depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3x3 depthwise convolution of float[B, T, H, W, D] with float[3, 3, 3, D], zero padded.

    A frame sees itself and the two before it. Written as a sum of shifted products, because XLA's
    grouped convolution is tens of times slower on a CPU; taps in time that see only padding are
    left out. The gradients are written out too: left to JAX, each tap would be kept for them in memory,
    forward, and scattered into zeros, backward.
    """
    return _shifted_products(x, kernel)


def _shifted_products(x: jax.Array, kernel: jax.Array, transposed: bool = False) -> jax.Array:
    """The convolution, or the linear map that takes gradients of its output to those of its input.

    The barriers keep XLA from computing what produced x once for each tap.
    """
    x, kernel = jax.lax.optimization_barrier((x, kernel))
    num_frames, height, width = x.shape[1:4]
    kernel = kernel[:, ::-1, ::-1] if transposed else kernel
    padded = _pad_grid(x)
    frames = []
    for now in range(num_frames):
        near = range(now, now + 3) if transposed else range(now - 2, now + 1)
        seen = [
            padded[:, other, i : i + height, j : j + width] * kernel[2 - abs(now - other), i, j]
            for other in near
            if 0 <= other < num_frames
            for i in range(3)
            for j in range(3)
        ]
        frames.append(sum(seen))
    return jax.lax.optimization_barrier(jnp.stack(frames, axis=1))


def _kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Gradient float32[3, 3, 3, D] of the kernel, from that of the output; both float[B, T, H, W, D]."""
    num_frames, height, width, dim = x.shape[1:]
    padded = _pad_grid(x)
    taps = [jnp.zeros(dim)] * (9 * max(0, 3 - num_frames))  # these see only padding
    for lag in reversed(range(min(3, num_frames))):
        for i in range(3):
            for j in range(3):
                seen = padded[:, : num_frames - lag, i : i + height, j : j + width]
                taps.append(jnp.sum(seen * g[:, lag:], axis=(0, 1, 2, 3), dtype=jnp.float32))
    return jnp.stack(taps).reshape(3, 3, 3, dim)


def _pad_grid(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))


def _conv_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted_products(x, kernel), (x, kernel)


def _conv_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    x, g = jax.lax.optimization_barrier((x, g))
    return _shifted_products(g, kernel, transposed=True), _kernel_gradient(x, g).astype(kernel.dtype)


causal_depthwise_conv.defvjp(_conv_forward, _conv_backward)
