"""The image tokenizer (VQGAN of LWM): images a second, there and back, and how that is beside a plain product."""

import dataclasses
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax.models import vqgan
from race import products
from race.accelerator import seconds_a_step

MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "lwm": ({}, 256),
    "toy": (dict(width=8, multipliers=(1, 2), num_blocks=1, norm_groups=4, z_channels=4, code_dim=4), 16),
}
"""Keyword arguments of `VQGAN` and the image's side in pixels."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """
    Attributes:
        task: "encode" or "decode".
        batch: images at a time.
        images_per_s: median, least and most over the rounds.
        gflops: 1e9 operations a second, as XLA counts them.
        of_product: share of what a matrix product alone reaches in the same process.
    """

    task: str
    batch: int
    images_per_s: tuple[float, float, float]
    gflops: float
    of_product: float

    def line(self) -> str:
        median, least, most = self.images_per_s
        rate = f"{median:.2f} images/s ({least:.2f} to {most:.2f}), {self.gflops:.0f} GFLOP/s"
        return f"{self.task:6} batch {self.batch:3} {rate}, {self.of_product:.0%} of a product"


def measure(name: str, batches: list[int], rounds: int, seconds: float, dtype: str = "float32") -> list[Speed]:
    """At random weights.

    Args:
        seconds: for all of it, compiling on top.
    """
    args, side = MODELS[name]
    model = vqgan.VQGAN(**args, dtype=dtype)
    image = np.random.default_rng(0).integers(0, 256, (max(batches), side, side, 3), np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), image[:1])
    tasks = {"encode": lambda image: model.apply(variables, image, method="encode").ids}
    ids = jax.jit(tasks["encode"])(image)
    tasks["decode"] = lambda ids: model.apply(variables, ids, method="decode")
    product, found, each = products.by_jax(), [], seconds / len(tasks) / len(batches) / rounds
    for task, inputs in (("encode", image), ("decode", ids)):
        for batch in batches:
            some = jnp.asarray(inputs[:batch])
            run = jax.jit(tasks[task]).lower(some).compile()
            took = [seconds_a_step(lambda run=run, some=some: run(some), each) for _ in range(rounds)]
            speeds = [batch / one for one in took]
            rate = run.cost_analysis()["flops"] / statistics.median(took) / 1e9
            spread = (statistics.median(speeds), min(speeds), max(speeds))
            found.append(Speed(task, batch, spread, rate, rate / product))
            print(found[-1].line(), flush=True)
    return found
