"""Our trunk on an accelerator, in bfloat16: tokens a second and MFU by kind of attention, and generation."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from race import accelerator
from vlm_speed import network, sizes


@dataclasses.dataclass(frozen=True)
class Speed:
    """
    Attributes:
        task: "train" or "generate".
        attention: a key of `attention.IMPLEMENTATIONS`.
        batch: rows or prompts at a time.
        units_per_s: tokens or prompts, median over the rounds.
        used: of the device in training, by `sizes.train_flops`.
    """

    task: str
    attention: str
    batch: int
    units_per_s: float
    used: accelerator.Used | None

    def line(self) -> str:
        unit, used = ("prompts", "") if self.used is None else ("tokens", f", {self.used.line()}")
        return f"{self.task:8} {self.attention:6} batch {self.batch:4} {self.units_per_s:10.1f} {unit}/s{used}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """
    Attributes:
        size: a key of `sizes.SIZES`.
        row: tokens of a row; None: as the size says.
        batches: rows, one measurement each.
        attention: implementations, one measurement each.
        remat: a key of `llama.REMAT`.
        param_dtype: of the parameters, and of what training changes.
        seconds: for each measurement, compiling on top.
        rounds: of each.
        peak: bfloat16 TFLOP/s of the device; None looks it up.
    """

    size: str
    row: int | None
    batches: list[int]
    attention: list[str]
    remat: str
    param_dtype: str
    seconds: float
    rounds: int
    peak: float | None


def table(plan: Plan) -> list[Speed]:
    """All that fits, printed as it is found; of what does not fit, a line."""
    peak = accelerator.peak_tflops(jax.devices()[0].device_kind, plan.peak)
    print(f"{plan.size}, bfloat16, {accelerator.device()}, {accelerator.known(peak)}", flush=True)
    found: list[Speed] = []
    for attention in plan.attention:
        found += _training(plan, attention, peak)
    return found + _generation(plan)


def _training(plan: Plan, attention: str, peak: float | None) -> list[Speed]:
    size, found = sizes.SIZES[plan.size], []
    row = plan.row or size.row
    model = network.make_model(size, jnp.bfloat16, attention=attention, remat=plan.remat)
    step, tx = network.make_step(model)
    state = jax.jit(network.make_init(model, tx, plan.param_dtype))(jax.random.key(0))
    for batch in sorted(plan.batches):
        rows = jnp.asarray(sizes.rows(dataclasses.replace(size, row=row), batch))

        def run(rows: jax.Array = rows) -> Any:
            nonlocal state
            state, metrics = step(state, rows)
            return metrics["loss"]

        took = accelerator.median_seconds(run, plan.seconds, plan.rounds)
        if took is None:
            print(f"train    {attention:6} batch {batch:4} does not fit", flush=True)
            break
        used = accelerator.Used.of(sizes.train_flops(size, row=row) * batch / took, peak)
        found.append(Speed("train", attention, batch, batch * row / took, used))
        print(found[-1].line(), flush=True)
    return found


def _generation(plan: Plan) -> list[Speed]:
    size, found = sizes.SIZES[plan.size], []
    model = network.make_model(size, jnp.bfloat16)
    params = jax.jit(network.make_init(model, None, "bfloat16"))(jax.random.key(0)).params
    run = network.make_generate(model)
    for batch in sorted(plan.batches):
        prompts = jnp.asarray(sizes.prompts(size, batch))
        answer = functools.partial(run, params, prompts)
        took = accelerator.median_seconds(answer, plan.seconds, plan.rounds)
        if took is None:
            print(f"generate batch {batch} does not fit", flush=True)
            break
        found.append(Speed("generate", "xla", batch, batch / took, None))
        print(found[-1].line(), flush=True)
    return found
