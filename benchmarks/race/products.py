"""How fast each library multiplies plain matrices, which bounds all else."""

from collections.abc import Callable

from race.turns import timed

PRODUCT = ((2048, 1024), (1024, 2048))
"""Shapes of the two matrices."""


def by_jax() -> float:
    """GFLOP/s."""
    import jax  # here and below: a process has one of the two libraries
    import jax.numpy as jnp

    a, b = (jnp.ones(shape) for shape in PRODUCT)
    run = jax.jit(jnp.matmul).lower(a, b).compile()
    return _gflops(lambda: run(a, b).block_until_ready())


def by_torch() -> float:
    """GFLOP/s."""
    import torch

    a, b = (torch.ones(shape) for shape in PRODUCT)
    return _gflops(lambda: a @ b)


def _gflops(multiply: Callable[[], object], times: int = 50) -> float:
    timed(multiply, 3)
    (rows, inner), (_, columns) = PRODUCT
    return 2e-9 * rows * inner * columns * times / timed(multiply, times)[0]
